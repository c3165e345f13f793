"""Volume mode on a real broker: crashes at every arrow, and offsets that a tool or a broker changed.

Oracle: what arrived at the receiver equals an independent account of what was produced, in one unbroken
series, however often the agent was killed in between.
"""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition

from tests.support.agent_process import AgentProcess, merged
from tests.support.kafka_real import RealKafka, unique
from tests.support.killed_at import POINTS
from tests.support.otlp_points import Points
from tests.support.otlp_receiver import OtlpReceiver
from tests.support.process import StartFailed
from tests.support.produce import committed, produce
from tests.support.sent import Sent, assert_arrived
from tests.support.series_rules import assert_series_never_reset
from tests.support.wait import eventually_sync

PARTITIONS = 3


class Setup:
    """One topic, one group, one volume, one receiver; agents come and go."""

    def __init__(self, kafka: RealKafka, receiver: OtlpReceiver, folder: Path) -> None:
        self.kafka = kafka
        self.receiver = receiver
        self.folder = folder
        self.topic = kafka.fresh_topic(partitions=PARTITIONS)
        self.group = unique("group")
        self.volume = folder / "volume"
        self.config: dict[str, Any] = {
            "kafka": {
                "bootstrap_servers": [kafka.bootstrap],
                "topics": [self.topic],
                "group_id": self.group,
                "group_instance_id": "only",
                "session_timeout_s": 10.0,
            },
            "delivery": {
                "mode": "volume",
                "volume_path": str(self.volume),
                "snapshot_interval_s": 0.7,
            },
            "export": {"otlp": {"endpoint": receiver.grpc_endpoint}},
        }

    def agent(self, *program: str, **more: Any) -> AgentProcess:
        options = {"program": program} if program else {}
        return AgentProcess(self.folder, merged(self.config, more), **options)

    def produce(self, values: list[bytes]) -> None:
        produce(self.kafka.bootstrap, self.topic, values, partitions=PARTITIONS)

    def offsets(self) -> list[int]:
        return committed(self.kafka.bootstrap, self.group, self.topic, PARTITIONS)

    def set_offsets(self, *offsets: int) -> None:
        """As a tool does: without metadata. The group must be empty."""
        wanted = [TopicPartition(self.topic, n, at) for n, at in enumerate(offsets)]
        groups = [ConsumerGroupTopicPartitions(self.group, wanted)]
        asked = self.kafka.admin.alter_consumer_group_offsets(groups)
        for future in asked.values():
            for at in future.result(20).topic_partitions:
                assert at.error is None

    def rows(self) -> float:
        """Of the newest points, over all streams."""
        latest = self.receiver.points("inference.rows").latest()
        return sum(point.value for point in latest)

    def finish(self, sent: Sent) -> Points:
        """Run until everything has arrived, stop, and hold what arrived against the account."""
        with self.agent() as agent:
            agent.wait_rows(sent.total)
            eventually_sync(lambda: self.rows() >= sent.total)
            assert agent.state()["tally"]["rows"] == sent.total
            assert agent.stop() == 0
        points = self.receiver.points()
        assert_arrived(points, sent)
        assert sum(self.offsets()) == sent.total
        return points


@pytest.fixture
def setup(real_kafka: RealKafka, otlp_receiver: OtlpReceiver, tmp_path: Path) -> Setup:
    return Setup(real_kafka, otlp_receiver, tmp_path)


def starts_of(points: Points) -> set[int]:
    return {point.start_ns for point in points.named("inference.rows")}


def test_a_stop_and_a_start_go_on_with_the_same_series(setup: Setup) -> None:
    sent = Sent(3000, seed=1)
    setup.produce(sent.values[:1000])
    with setup.agent() as agent:
        agent.wait_rows(1000)
        instance = agent.state()["service"]["instance_id"]
        assert agent.state()["volume"]["trouble"] is None
        assert agent.stop() == 0
    before = starts_of(setup.receiver.points())
    assert setup.rows() == 1000
    setup.produce(sent.values[1000:])
    with setup.agent() as agent:
        assert agent.wait_rows(sent.total)["service"]["instance_id"] == instance
        assert agent.stop() == 0
    points = setup.receiver.points()
    assert_arrived(points, sent)
    assert_series_never_reset(points)
    assert starts_of(points) == before
    # The chunk's id stands beside the offset.
    assert sum(setup.offsets()) == sent.total


@pytest.mark.parametrize("part", range(4))
def test_a_kill_at_each_arrow_loses_and_repeats_nothing(setup: Setup, part: int) -> None:
    points = sorted(POINTS)[part::4]
    rnd = random.Random(part)
    sent = Sent(1500 * len(points), seed=20 + part)
    values = list(sent.values)
    killed = []
    for point in points:
        setup.produce(values[:1500])
        del values[:1500]
        n = 1 if point in ("settled", "placed") else rnd.randint(1, 6)
        agent = setup.agent("-m", "tests.support.killed_at", point, str(n))
        try:
            with agent:
                process = agent.process
                assert process is not None
                eventually_sync(lambda process=process: not process.running, timeout_s=40)
        except StartFailed:
            pass  # killed before its pages were up
        killed.append((point, n))
    found = setup.finish(sent)
    assert_series_never_reset(found)
    assert len(starts_of(found)) <= 2, killed  # streams of the first export, and of one after it


def test_kills_at_random_moments_lose_and_repeat_nothing(setup: Setup) -> None:
    rnd = random.Random(7)
    sent = Sent(9000, seed=30)
    values = list(sent.values)
    for _ in range(6):
        with setup.agent() as agent:
            for _ in range(3):
                setup.produce(values[:500])
                del values[:500]
            agent.wait_ready()
            deadline = time.monotonic() + rnd.random() * 2.0
            eventually_sync(lambda deadline=deadline: time.monotonic() > deadline)
            assert agent.process is not None
            agent.process.kill()
    found = setup.finish(sent)
    assert_series_never_reset(found)

"""Volume mode on a real broker: crashes at every arrow, and offsets that a tool or a broker changed.

Oracle: what arrived at the receiver equals an independent account of what was produced, in one unbroken
series, however often the agent was killed in between.
"""

from __future__ import annotations

import contextlib
import math
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition

from tests.support.agent_process import AgentProcess, merged
from tests.support.group_member import GroupMember
from tests.support.kafka_real import RealKafka, unique
from tests.support.killed_at import POINTS
from tests.support.otlp_points import Points
from tests.support.otlp_receiver import OtlpReceiver
from tests.support.process import StartFailed
from tests.support.produce import committed, produce
from tests.support.sent import Sent, attributes
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
            # Declared: the first chunk may hold one row.
            "features": {"amount": {"kind": "numeric"}, "balance": {"kind": "numeric"}},
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
        assert_counted(points, sent)
        assert sum(self.offsets()) == sent.total
        return points


@pytest.fixture
def setup(real_kafka: RealKafka, otlp_receiver: OtlpReceiver, tmp_path: Path) -> Setup:
    return Setup(real_kafka, otlp_receiver, tmp_path)


def assert_counted(points: Points, sent: Sent) -> None:
    """Rows, errors, values, what was missing or of another type, and sums, over all start times.

    (A column that turns negative begins its histogram anew, without a sum: so starts are added up.)
    """
    for stream, rows in sent.rows.items():
        of_stream = points.with_attributes(attributes(stream))
        assert of_stream.named("inference.rows").total() == rows
        assert of_stream.named("inference.errors").total() == sent.errors[stream]
        for feature in ("amount", "balance"):
            values = sent.numbers[stream, feature]
            of_feature = of_stream.with_attributes({"inference.feature.name": feature})
            assert of_feature.named("inference.feature.value").total() == len(values)
            missing = of_feature.named("inference.feature.missing").total()
            wrong = of_feature.named("inference.feature.violations").total()
            assert missing + wrong == rows - len(values)
        amounts = of_stream.named("inference.feature.value", inference__feature__name="amount")
        expected = math.fsum(sent.numbers[stream, "amount"])
        assert amounts.only().data.sum == pytest.approx(expected, rel=1e-12)


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
    assert_counted(points, sent)
    assert_series_never_reset(points)
    assert starts_of(points) == before
    # The chunk's id stands beside the offset.
    assert sum(setup.offsets()) == sent.total


def run_to_its_end(agent: AgentProcess) -> None:
    """Start it and wait until it is gone, perhaps before its pages were up."""
    with contextlib.suppress(StartFailed), agent:
        process = agent.process
        assert process is not None
        eventually_sync(lambda: not process.running, timeout_s=40)


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
        run_to_its_end(setup.agent("-m", "tests.support.killed_at", point, str(n)))
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


# ---------------------------------------------------------------- offsets that others changed


def run_once(setup: Setup, rows: int, **more: Any) -> str:
    """Start, wait for so many rows in all, stop; returns the log."""
    with setup.agent(**more) as agent:
        agent.wait_rows(rows)
        assert agent.stop() == 0
        return agent.log


def leave(setup: Setup) -> None:
    """Wait until the group is empty: a tool may not change offsets before."""

    def is_empty() -> bool:
        asked = setup.kafka.admin.describe_consumer_groups([setup.group])
        return not asked[setup.group].result(20).members

    eventually_sync(is_empty, timeout_s=30, every_s=0.2)


#: Dynamic membership: a clean stop empties the group.
LEAVES: dict[str, Any] = {"kafka": {"group_instance_id": None}}


def test_deleted_offsets_are_replaced_by_the_journals(setup: Setup) -> None:
    setup.config = merged(setup.config, LEAVES)
    sent = Sent(2000, seed=50)
    setup.produce(sent.values[:1000])
    run_once(setup, 1000)
    leave(setup)
    for future in setup.kafka.admin.delete_consumer_groups([setup.group]).values():
        future.result(20)
    setup.produce(sent.values[1000:])
    log = run_once(setup, sent.total)
    assert "what is folded is not counted again" in log
    points = setup.receiver.points()
    assert_counted(points, sent)
    assert_series_never_reset(points)
    assert sum(setup.offsets()) == sent.total


def test_offsets_set_back_by_a_tool_are_counted_again_and_said(setup: Setup) -> None:
    setup.config = merged(setup.config, LEAVES)
    sent = Sent(900, seed=51)
    setup.produce(sent.values)
    run_once(setup, sent.total)
    leave(setup)
    setup.set_offsets(200, 300, 100)
    log = run_once(setup, sent.total + 100 + 200)
    assert "100 rows are counted again" in log and "200 rows are counted again" in log
    assert setup.rows() == sent.total + 300
    assert_series_never_reset(setup.receiver.points())


def test_offsets_set_forward_by_a_tool_leave_a_gap_that_is_counted(setup: Setup) -> None:
    setup.config = merged(setup.config, LEAVES)
    sent = Sent(900, seed=52)
    setup.produce(sent.values[:300])
    run_once(setup, 300)
    leave(setup)
    setup.produce(sent.values[300:])
    setup.set_offsets(150, 100, 300)
    log = run_once(setup, 300 + 150 + 200)
    assert "50 rows in between are not counted" in log
    assert setup.rows() == 650
    lost = setup.receiver.points("inferometer.offset.lost").latest()
    assert max(point.value for point in lost) == 250


def test_a_lost_volume_goes_on_where_the_group_stands(setup: Setup) -> None:
    sent = Sent(2000, seed=53)
    setup.produce(sent.values[:1000])
    run_once(setup, 1000)
    before = setup.receiver.points()
    setup.receiver.clear()
    shutil.rmtree(setup.volume)
    setup.produce(sent.values[1000:])
    log = run_once(setup, 1000)
    assert "what was counted before it is not in this volume" in log
    after = setup.receiver.points()
    assert setup.rows() == 1000
    # Another series: another instance, and a later start.
    assert {p.series for p in before}.isdisjoint({p.series for p in after})
    assert sum(setup.offsets()) == sent.total


def test_a_volume_that_was_set_back_takes_new_start_times(setup: Setup) -> None:
    sent = Sent(3000, seed=54)
    setup.produce(sent.values[:1000])
    run_once(setup, 1000)
    kept = setup.folder / "kept"
    shutil.copytree(setup.volume, kept)
    setup.produce(sent.values[1000:2000])
    run_once(setup, 2000)
    shutil.rmtree(setup.volume)
    shutil.copytree(kept, setup.volume)
    setup.produce(sent.values[2000:])
    say_nothing_until_the_group_was_asked(setup)
    log = run_once(setup, 2000)
    assert "the group has chunks that this volume has not" in log
    assert setup.rows() == 2000  # what was folded in between is lost, and said
    points = setup.receiver.points()
    assert_series_never_reset(points)
    lost = points.named("inferometer.offset.lost").latest()
    assert max(point.value for point in lost) == 1000


def say_nothing_until_the_group_was_asked(setup: Setup) -> None:
    """Run without a broker: what the volume holds may be less than what left under its start times."""

    def arrived(prefix: str) -> int:
        return sum(point.name.startswith(prefix) for point in setup.receiver.points())

    before, own = arrived("inference."), arrived("inferometer.rss")
    with setup.agent(kafka={"bootstrap_servers": ["127.0.0.1:1"]}) as agent:
        agent.wait_rows(1000)
        eventually_sync(lambda: arrived("inferometer.rss") >= own + 2)
        assert b"inference.* is withheld" in agent.get("/readyz")[1]
        assert b"\ninference_" not in agent.get("/metrics")[1]
        assert agent.stop() == 0
    assert arrived("inference.") == before


def test_a_new_partition_is_read_from_its_beginning(setup: Setup) -> None:
    setup.config = merged(setup.config, {"kafka": {"auto_offset_reset": "latest"}})
    sent = Sent(2000, seed=55)
    with setup.agent() as agent:
        eventually_sync(lambda: all(at >= 0 for at in setup.offsets()))  # begins at the end, here 0
        setup.produce(sent.values[:1000])
        agent.wait_rows(1000)
        assert agent.stop() == 0
    setup.kafka.add_partitions(setup.topic, PARTITIONS + 1)
    produce(setup.kafka.bootstrap, setup.topic, sent.values[1000:], partitions=PARTITIONS + 1)
    run_once(setup, sent.total)
    points = setup.receiver.points()
    assert_counted(points, sent)
    assert_series_never_reset(points)


# ---------------------------------------------------------------- who may run


def test_an_agent_that_is_not_given_the_whole_topic_pauses_says_why_and_exits(
    setup: Setup, tmp_path_factory: pytest.TempPathFactory
) -> None:
    setup.config = merged(setup.config, LEAVES)
    sent = Sent(600, seed=56)
    with GroupMember(setup.kafka.bootstrap, setup.topic, setup.group) as other:
        eventually_sync(lambda: other.n_assigned == PARTITIONS)
        setup.produce(sent.values)
        more = {"delivery": {"sole_member_timeout_s": 6.0}}
        with setup.agent(**more) as agent:
            eventually_sync(lambda: b"are not ours" in agent.get("/readyz")[1])
            process = agent.process
            assert process is not None
            eventually_sync(lambda: not process.running, timeout_s=30)
            assert "delivery.sole_member_timeout_s" in agent.log
            assert "member-of-a-test" in agent.log  # who else is there
            assert process.terminate() == 1
    # Nothing was read, and nothing is owed.
    assert setup.rows() == 0
    run_once(setup, sent.total)
    assert_counted(setup.receiver.points(), sent)


def test_a_second_agent_on_the_volume_is_refused(setup: Setup) -> None:
    with setup.agent() as agent:
        agent.wait_ready()
        assert agent.process is not None
        other = setup.folder / "other"
        other.mkdir()
        with pytest.raises(StartFailed, match=f"in use by process {agent.process.pid}"):
            AgentProcess(other, merged(setup.config, {})).start()
        assert agent.stop() == 0


def test_a_paused_agent_that_wakes_behind_its_session_counts_nothing_twice(setup: Setup) -> None:
    """SIGSTOP beyond the session: the group evicts it; what it had in hand is judged by the heads."""
    setup.config = merged(
        setup.config,
        {
            "kafka": {"session_timeout_s": 6.0, "group_instance_id": None},
            "delivery": {"drain_timeout_s": 5.0},
        },
    )
    sent = Sent(4000, seed=57)
    setup.produce(sent.values[:2000])
    with setup.agent() as agent:
        agent.wait_rows(500)
        assert agent.process is not None
        agent.process.signal(signal.SIGSTOP)
        try:
            leave(setup)
        finally:
            agent.process.signal(signal.SIGCONT)
        setup.produce(sent.values[2000:])
        agent.wait_rows(sent.total)
        assert agent.stop() == 0
    points = setup.receiver.points()
    assert_counted(points, sent)
    assert_series_never_reset(points)


# ---------------------------------------------------------------- a volume that is full


@pytest.fixture
def small_volume(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MiB of its own, where this machine lets us make one."""
    path = tmp_path / "small"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m,mode=700", "none", str(path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("this user may not mount a tmpfs")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def test_a_full_volume_stops_commits_says_so_and_loses_nothing(
    setup: Setup, small_volume: Path
) -> None:
    setup.config = merged(setup.config, {"delivery": {"volume_path": str(small_volume)}})
    sent = Sent(3000, seed=58)
    setup.produce(sent.values[:1000])
    ballast = small_volume / "ballast"
    with setup.agent() as agent:
        agent.wait_rows(1000)
        eventually_sync(lambda: sum(setup.offsets()) == 1000)
        fill_up(ballast)
        setup.produce(sent.values[1000:])
        eventually_sync(lambda: b"No space left on device" in agent.get("/readyz")[1])
        assert agent.get("/livez")[0] == 200
        state = agent.state()
        assert "make room" in state["volume"]["trouble"]
        assert sum(setup.offsets()) == state["tally"]["rows"] < sent.total
        metrics = agent.get("/metrics")[1].decode()
        errors = re.search(r"^inferometer_journal_errors\S* (\d+)", metrics, re.MULTILINE)
        assert errors is not None and int(errors.group(1)) >= 1
        assert agent.process is not None
        agent.process.kill()  # also now
    agent = setup.agent()
    run_to_its_end(agent)
    assert "No space left on device" in agent.log  # it cannot begin, and says why
    ballast.unlink()
    found = setup.finish(sent)
    assert_series_never_reset(found)


def fill_up(path: Path) -> None:
    """Take all the room there is."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        for size in (1 << 20, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))

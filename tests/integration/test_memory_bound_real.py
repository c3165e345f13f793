"""Memory mode's bound: a crash repeats rows read since the last commit, each once, and loses none."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.support.agent_process import AgentProcess
from tests.support.kafka_real import RealKafka, unique
from tests.support.otlp_receiver import OtlpReceiver
from tests.support.produce import committed, produce
from tests.support.wait import eventually_sync

#: Rows of one version, which is what is counted apart: in a log of one partition, neighbours.
BLOCK = 20
ROUNDS, ROWS_A_ROUND = 4, 4000


def events(first: int, n: int) -> list[bytes]:
    now_ms = time.time_ns() // 1_000_000
    return [
        json.dumps(
            {"model": "m", "version": f"{i // BLOCK}", "ts": now_ms, "features": {"x": i}}
        ).encode()
        for i in range(first, first + n)
    ]


def counted(receiver: OtlpReceiver) -> Counter[int]:
    """Rows by block in all lives together: the largest value of each series and start time."""
    largest: Counter[tuple[int, int]] = Counter()
    for point in receiver.points("inference.rows"):
        at = point.start_ns, int(point.attributes["inference.model.version"])
        largest[at] = max(largest[at], int(point.value))
    out: Counter[int] = Counter()
    for (_, block), n in largest.items():
        out[block] += n
    return out


@pytest.mark.timeout(180)
def test_a_kill_repeats_at_most_what_was_read_since_the_last_commit(
    real_kafka: RealKafka, otlp_receiver: OtlpReceiver, tmp_path: Path
) -> None:
    """Exports come ten times as often as a commit can follow; kills at random moments between the two."""
    rng = random.Random(11)
    topic, group = real_kafka.fresh_topic(partitions=1), unique("group")
    config = {
        "kafka": {
            "bootstrap_servers": [real_kafka.bootstrap],
            "topics": [topic],
            "group_id": group,
            "group_instance_id": "one",  # the next life need not wait for the session to end
        },
        "delivery": {"cut_interval_s": 0.05},
        "export": {"interval_s": 0.1, "otlp": {"endpoint": otlp_receiver.grpc_endpoint}},
        "budget": {"max_streams": 5000},
    }
    allowed: Counter[int] = Counter()
    produced = 0
    for _ in range(ROUNDS):
        with AgentProcess(tmp_path, config) as agent:
            agent.wait_ready()
            for _ in range(4):
                produced += produce(
                    real_kafka.bootstrap, topic, events(produced, ROWS_A_ROUND // 4)
                )
                time.sleep(rng.uniform(0.0, 0.15))  # the fault is the moment
            assert agent.process is not None
            agent.process.kill()
        at = max(0, *committed(real_kafka.bootstrap, group, topic, 1))
        for offset in range(at, produced):
            allowed[offset // BLOCK] += 1
    with AgentProcess(tmp_path, config) as agent:
        eventually_sync(
            lambda: committed(real_kafka.bootstrap, group, topic, 1) == [produced], timeout_s=60
        )
        assert agent.stop() == 0
    found = counted(otlp_receiver)
    assert sorted(found) == list(range(produced // BLOCK))
    assert all(n >= BLOCK for n in found.values()), "no row is lost"
    beyond = {b: n for b, n in found.items() if n > BLOCK + allowed[b]}
    assert beyond == {}
    assert sum(allowed.values()) > 0, "a kill has met rows that were not committed"

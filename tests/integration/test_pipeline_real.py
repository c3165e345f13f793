"""The whole agent against a real broker and an OTLP receiver: what arrived equals what was sent."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.support.agent_process import AgentProcess
from tests.support.kafka_real import RealKafka, unique
from tests.support.otlp_answers import ACCEPT, SILENCE, transient
from tests.support.otlp_receiver import OtlpReceiver
from tests.support.produce import committed, consume_all, produce
from tests.support.registered import assert_registered
from tests.support.sent import Sent, Stream, assert_arrived
from tests.support.series_rules import assert_series_never_reset
from tests.support.wait import eventually_sync

PARTITIONS = 3


def kafka_config(kafka: RealKafka, topic: str, group: str) -> dict[str, Any]:
    return {"bootstrap_servers": [kafka.bootstrap], "topics": [topic], "group_id": group}


def all_committed(kafka: RealKafka, group: str, topic: str, total: int) -> bool:
    return sum(committed(kafka.bootstrap, group, topic, PARTITIONS)) == total


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_what_arrives_at_the_receiver_equals_what_was_sent(
    real_kafka: RealKafka, otlp_receiver: OtlpReceiver, tmp_path: Path, protocol: str
) -> None:
    topic, group = real_kafka.fresh_topic(partitions=PARTITIONS), unique("group")
    sent = Sent(6000, seed=1)
    produce(real_kafka.bootstrap, topic, sent.values, partitions=PARTITIONS)
    endpoint = otlp_receiver.grpc_endpoint if protocol == "grpc" else otlp_receiver.http_endpoint
    config = {
        "kafka": kafka_config(real_kafka, topic, group),
        "export": {"otlp": {"endpoint": endpoint, "protocol": protocol}},
    }
    with AgentProcess(tmp_path, config) as agent:
        agent.wait_rows(sent.total)
        eventually_sync(lambda: all_committed(real_kafka, group, topic, sent.total))
        assert agent.stop() == 0
    assert_arrived(otlp_receiver.points(), sent)
    assert_series_never_reset(otlp_receiver.points())
    met = assert_registered(otlp_receiver.points())
    assert {"inference.rows", "inference.feature.value", "inferometer.rows"} <= met


def test_a_restart_repeats_nothing_that_was_committed(
    real_kafka: RealKafka, otlp_receiver: OtlpReceiver, tmp_path: Path
) -> None:
    topic, group = real_kafka.fresh_topic(partitions=PARTITIONS), unique("group")
    config = {
        "kafka": kafka_config(real_kafka, topic, group),
        "export": {"otlp": {"endpoint": otlp_receiver.grpc_endpoint}},
    }
    before, after = Sent(2000, seed=2), Sent(1500, seed=3)
    produce(real_kafka.bootstrap, topic, before.values, partitions=PARTITIONS)
    with AgentProcess(tmp_path, config) as agent:
        agent.wait_rows(before.total)
        # SIGTERM alone must fold, export and commit what has been read.
        assert agent.stop() == 0
    assert all_committed(real_kafka, group, topic, before.total)
    assert_arrived(otlp_receiver.points(), before)
    otlp_receiver.clear()

    produce(real_kafka.bootstrap, topic, after.values, partitions=PARTITIONS)
    with AgentProcess(tmp_path, config) as agent:
        state = agent.wait_rows(after.total)
        assert state["tally"]["rows"] == after.total
        assert agent.stop() == 0
    assert all_committed(real_kafka, group, topic, before.total + after.total)
    assert_arrived(otlp_receiver.points(), after)


BROKEN = b'{"model": "m", "features": {'


def values_of(kafka: RealKafka, topic: str, n: int) -> list[bytes | None]:
    """The first so many values of a topic."""
    found: list[Any] = consume_all(kafka.bootstrap, topic, n)
    return [message.value() for message in found]


def test_a_killed_agent_loses_no_row(
    real_kafka: RealKafka, otlp_receiver: OtlpReceiver, tmp_path: Path
) -> None:
    """At least once: uncommitted rows are read again, and counted twice if the collector had them already.

    So is a dead letter: it is written when it is decoded, before anything is committed.
    """
    topic, group = real_kafka.fresh_topic(partitions=PARTITIONS), unique("group")
    dead = real_kafka.fresh_topic("dead")
    config = {
        "kafka": {**kafka_config(real_kafka, topic, group), "session_timeout_s": 6.0},
        "delivery": {"drain_timeout_s": 5.0},
        "decode": {"dead_letter_topic": dead},
        "export": {"otlp": {"endpoint": otlp_receiver.grpc_endpoint}},
    }
    sent = Sent(4000, seed=4)
    produce(real_kafka.bootstrap, topic, sent.values[:2000], partitions=PARTITIONS)
    with AgentProcess(tmp_path, config) as agent:
        eventually_sync(
            lambda: sum(max(0, at) for at in committed(real_kafka.bootstrap, group, topic, 3)) > 0
        )
        otlp_receiver.always(transient())
        produce(real_kafka.bootstrap, topic, [*sent.values[2000:], BROKEN], partitions=PARTITIONS)
        agent.wait_rows(sent.total)
        assert values_of(real_kafka, dead, 1) == [BROKEN]
        assert agent.process is not None
        agent.process.kill()
    taken = otlp_receiver.points("inference.rows").total()
    held = sum(committed(real_kafka.bootstrap, group, topic, PARTITIONS))
    assert held < sent.total  # nothing was accepted after the collector went away
    otlp_receiver.always(ACCEPT)
    with AgentProcess(tmp_path, config) as agent:
        agent.wait_rows(sent.total - held, timeout_s=90)
        eventually_sync(lambda: all_committed(real_kafka, group, topic, sent.total + 1))
        assert agent.state()["tally"]["rows"] == sent.total - held
        assert agent.stop() == 0
    assert taken >= held
    assert otlp_receiver.points("inference.rows").total() == taken + sent.total - held
    assert values_of(real_kafka, dead, 2) == [BROKEN, BROKEN]


def test_a_collector_that_is_away_stops_commits_and_nothing_else(
    real_kafka: RealKafka, otlp_receiver: OtlpReceiver, tmp_path: Path
) -> None:
    topic, group = real_kafka.fresh_topic(partitions=PARTITIONS), unique("group")
    otlp_receiver.always(SILENCE)
    config = {
        "kafka": kafka_config(real_kafka, topic, group),
        "export": {"otlp": {"endpoint": otlp_receiver.grpc_endpoint, "timeout_s": 1.0}},
    }
    sent = Sent(3000, seed=5)
    produce(real_kafka.bootstrap, topic, sent.values, partitions=PARTITIONS)
    with AgentProcess(tmp_path, config) as agent:
        agent.wait_rows(sent.total)
        assert not any(at > 0 for at in committed(real_kafka.bootstrap, group, topic, PARTITIONS))
        otlp_receiver.always(ACCEPT)
        eventually_sync(lambda: all_committed(real_kafka, group, topic, sent.total), timeout_s=60)
        assert agent.stop() == 0
    assert_arrived(otlp_receiver.points(), sent)


def bad_values() -> Iterable[tuple[bytes | None, str]]:
    yield None, "tombstone"
    yield b"", "empty"
    yield b"{", "invalid_json"
    yield b'{"model":"m","features":{"x":"\xff"}}', "invalid_json"
    yield b"[1,2]", "not_an_event"
    yield b'{"features":{"x":1}}', "no_model"
    yield b'{"model":"m"}', "no_content"
    yield b'{"model":{},"features":{"x":1}}', "bad_field"
    yield b'{"model":"m","features":' + b'{"a":' * 60 + b"1" + b"}" * 61, "too_deep"
    yield (
        b'{"model":"m","features":{' + b",".join(b'"f%d":1' % i for i in range(150)) + b"}}",
        "too_wide",
    )
    yield b'{"model":"m","features":{"x":"' + b"x" * 9000 + b'"}}', "too_large"


def test_bad_records_are_counted_and_dead_lettered_with_their_original_bytes(
    real_kafka: RealKafka, otlp_receiver: OtlpReceiver, tmp_path: Path
) -> None:
    topic, group = real_kafka.fresh_topic(), unique("group")
    dead = real_kafka.fresh_topic("dead")
    bad = list(bad_values())
    sent = Sent(200, seed=6, models=1)
    produce(real_kafka.bootstrap, topic, [*sent.values[:100], *(v for v, _ in bad)])
    produce(real_kafka.bootstrap, topic, sent.values[100:])
    config = {
        "kafka": kafka_config(real_kafka, topic, group),
        "decode": {"dead_letter_topic": dead, "max_record_bytes": 8192, "max_features": 100},
        "budget": {"max_features_per_stream": 100},
        "export": {"otlp": {"endpoint": otlp_receiver.grpc_endpoint}},
    }
    with AgentProcess(tmp_path, config) as agent:
        state = agent.wait_rows(sent.total)
        assert agent.stop() == 0
    expected: dict[str, int] = defaultdict(int)
    for _, reason in bad:
        expected[reason] += 1
    assert state["tally"]["dropped"] == dict(expected)
    assert state["tally"]["records"] == sent.total + len(bad)
    for reason, n in expected.items():
        named = {"inferometer.reason": reason}
        assert otlp_receiver.latest("inferometer.dropped", **named).value == n
    letters = consume_all(real_kafka.bootstrap, dead, len(bad))
    found = {(m.value(), dict(m.headers())["inferometer.reason"].decode()) for m in letters}
    assert found == {(value, reason) for value, reason in bad}


def test_two_agents_share_a_topic_and_their_sum_is_exact_after_a_clean_handover(
    real_kafka: RealKafka, otlp_receiver: OtlpReceiver, tmp_path: Path
) -> None:
    topic, group = real_kafka.fresh_topic(partitions=PARTITIONS), unique("group")
    config = {
        "kafka": kafka_config(real_kafka, topic, group),
        "export": {"otlp": {"endpoint": otlp_receiver.grpc_endpoint}},
    }
    first, second = Sent(2000, seed=7), Sent(2000, seed=8)
    produce(real_kafka.bootstrap, topic, first.values, partitions=PARTITIONS)
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    with AgentProcess(one, config) as a:
        a.wait_rows(first.total)
        with AgentProcess(two, config) as b:
            b.wait_ready()
            eventually_sync(lambda: len(b.state()["kafka"]["partitions"]) > 0, timeout_s=40)
            produce(real_kafka.bootstrap, topic, second.values, partitions=PARTITIONS)
            eventually_sync(
                lambda: (
                    a.state()["tally"]["rows"] + b.state()["tally"]["rows"]
                    >= first.total + second.total
                ),
                timeout_s=40,
            )
            assert b.stop() == 0
        assert a.stop() == 0
    rows: dict[Stream, float] = defaultdict(float)
    for series in otlp_receiver.points("inference.rows").by_series().values():
        at = series[-1]
        stream = at.attributes["inference.model.name"], at.attributes["inference.model.version"]
        rows[stream] += at.value
    assert rows == {
        stream: first.rows[stream] + second.rows[stream] for stream in first.rows | second.rows
    }
    assert all_committed(real_kafka, group, topic, first.total + second.total)

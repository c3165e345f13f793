"""Input made to hurt, through the whole agent: it stays up, bounded, and every row is accounted for."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path
from typing import Any

import orjson
import pytest

from agent.demo.broker import EmbeddedBroker
from tests.support.agent_process import AgentProcess
from tests.support.kafka_real import unique
from tests.support.produce import produce

#: Deltas (32 MiB, their chunk, and one slice beyond), the base under its budget, buffers, encoders.
MAX_GROWTH_MIB = 260


def resident_mib(agent: AgentProcess) -> float:
    assert agent.process is not None
    statm = Path(f"/proc/{agent.process.pid}/statm").read_text().split()
    return int(statm[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def run_through(
    broker: EmbeddedBroker, folder: Path, values: list[bytes], config: dict[str, Any] | None = None
) -> tuple[dict[str, Any], float]:
    """Feed the values to an agent; its state when all records are counted, and its growth in MiB."""
    topic = unique("hostile")
    broker.create_topic(topic, partitions=1)
    produce(broker.bootstrap, topic, values)
    kafka = {"bootstrap_servers": [broker.bootstrap], "topics": [topic]}
    with AgentProcess(folder, {"kafka": kafka, **(config or {})}) as agent:
        agent.wait_ready()
        before = resident_mib(agent)
        peak = before
        deadline = time.monotonic() + 90
        while True:
            state = agent.state()
            peak = max(peak, resident_mib(agent))
            if state["tally"]["records"] >= len(values):
                break
            assert time.monotonic() < deadline, state["tally"]
            time.sleep(0.2)
        assert agent.get("/livez")[0] == 200
        assert agent.stop() == 0
    return state, peak - before


def counted(state: dict[str, Any]) -> int:
    """Rows of all series together, overflow and ended ones included (state.md, invariant 9)."""
    return sum(s["rows"] for s in state["streams"]) + sum(state["ended"].values())


@pytest.mark.timeout(180)
def test_a_flood_of_model_names_folds_into_overflow_and_keeps_every_row(
    embedded_kafka: EmbeddedBroker, tmp_path: Path
) -> None:
    n = 30_000
    values = [
        orjson.dumps({"model": f"m-{i}", "features": {"a": i, "b": "x"}, "prediction": 0.5})
        for i in range(n)
    ]
    state, growth = run_through(embedded_kafka, tmp_path, values, {"budget": {"max_streams": 50}})
    assert state["tally"]["rows"] == counted(state) == n
    assert state["budget"]["streams"]["used"] == 50
    overflow = [s for s in state["streams"] if s["model"] == "_overflow"]
    assert [s["rows"] for s in overflow] == [n - 50]
    assert growth < MAX_GROWTH_MIB


@pytest.mark.timeout(180)
def test_events_from_all_ages_open_few_windows(
    embedded_kafka: EmbeddedBroker, tmp_path: Path
) -> None:
    rnd = random.Random(31)
    now_ms = int(time.time() * 1000)
    century_ms = 100 * 365 * 86_400_000
    values, future = [], 0
    for _ in range(4000):
        at_ms = rnd.randrange(now_ms - century_ms // 2, now_ms + century_ms)
        # Beyond the Kafka timestamp (about now) by more than max_skew_s: none of them is near it.
        future += at_ms > now_ms + 400_000
        values.append(orjson.dumps({"model": "m", "ts": at_ms, "features": {"a": rnd.random()}}))
    state, growth = run_through(embedded_kafka, tmp_path, values)
    assert state["tally"]["rows"] == counted(state) == len(values)
    assert state["tally"]["irregular"]["future"] == future
    assert len(state["windows"]["open"]) <= 8
    assert growth < MAX_GROWTH_MIB


@pytest.mark.timeout(180)
def test_wide_events_with_names_that_never_return_are_bounded(
    embedded_kafka: EmbeddedBroker, tmp_path: Path
) -> None:
    values = [
        orjson.dumps({"model": f"m-{i % 7}", "features": {f"f{i}-{j}": j for j in range(1500)}})
        for i in range(120)
    ]
    # Each event is 1,500 new cells, 16 MiB: more than the delta may hold, so each is cut by itself.
    small = {"delivery": {"cut_max_bytes": 8 << 20}}
    state, growth = run_through(embedded_kafka, tmp_path, values, small)
    assert state["tally"]["rows"] == counted(state) == len(values)
    assert all(len(s["totals"]["features"]) <= 200 for s in state["streams"])
    assert growth < MAX_GROWTH_MIB


@pytest.mark.timeout(180)
def test_bombs_of_every_codec_and_records_at_the_limits_are_counted_one_by_one(
    embedded_kafka: EmbeddedBroker, tmp_path: Path
) -> None:
    """Batches that open into more than an agent takes, and beside them what a broker just lets pass."""
    topic = unique("hostile")
    embedded_kafka.create_topic(topic, partitions=1)
    large: dict[str, Any] = {"message.max.bytes": 100_000_000, "linger.ms": 0}
    model = {"model": "m", "features": {"a": 1}}
    too_much, too_large = bytes(40 << 20), bytes(20 << 20)
    wide = orjson.dumps({**model, "padding": "x" * 950_000})
    deep = b'{"model":"m","features":' + b'{"a":' * 150_000 + b"1" + b"}" * 150_001
    n_good = 0
    for codec in ("gzip", "snappy", "lz4", "zstd"):
        for value in (too_much, too_large):  # a batch each
            produce(embedded_kafka.bootstrap, topic, [value], compression=codec, **large)
        n_good += produce(embedded_kafka.bootstrap, topic, [orjson.dumps(model)], compression=codec)
    headers = [(f"h{i}", b"v") for i in range(3000)]
    n_good += produce(embedded_kafka.bootstrap, topic, [orjson.dumps(model)] * 20, headers=headers)
    n_good += produce(embedded_kafka.bootstrap, topic, [wide] * 5)
    produce(embedded_kafka.bootstrap, topic, [deep] * 2)
    kafka = {"bootstrap_servers": [embedded_kafka.bootstrap], "topics": [topic]}
    with AgentProcess(tmp_path, {"kafka": kafka}) as agent:
        agent.wait_ready()
        before = peak = resident_mib(agent)
        deadline = time.monotonic() + 90
        while (state := agent.state())["tally"]["records"] < n_good + 10:
            peak = max(peak, resident_mib(agent))
            assert time.monotonic() < deadline, state["tally"]
            time.sleep(0.1)
        assert agent.stop() == 0
    assert state["tally"]["rows"] == counted(state) == n_good
    assert state["tally"]["dropped"] == {"corrupt_batch": 4, "too_large": 4, "too_deep": 2}
    assert peak - before < MAX_GROWTH_MIB

"""The model server as a process, on the embedded broker: every event is read back and checked."""

import json
import os
import re
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pytest
from confluent_kafka import Consumer

from agent.demo import flights as data
from agent.demo.broker import EmbeddedBroker
from agent.demo.model import DelayModel
from agent.demo.model_server import CANARY_EVERY, KM_PER_MILE, planned_breaks

DAYS = 24
DURATION_S = 4.0
TRACEPARENT = re.compile(rb"00-[0-9a-f]{32}-[0-9a-f]{16}-01")


class Served:
    """One run: what the server said, and all records of both topics in order of offset."""

    def __init__(self, messages, inferences, labels):
        self.messages, self.inferences, self.labels = messages, inferences, labels
        self.events = [json.loads(record.value()) for record in inferences]
        self.by_id = {event["id"]: event for event in self.events}


def start(bootstrap, days=DAYS, duration_s=DURATION_S, *more):
    command = [
        *(sys.executable, "-m", "agent.demo.model_server", "--bootstrap", bootstrap),
        *("--topic", "inference", "--label-topic", "labels"),
        *("--days", str(days), "--duration-s", str(duration_s), *more),
    ]
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def until(process, event):
    """Messages up to and including the first of kind `event`."""
    said = []
    for line in process.stdout:
        said.append(json.loads(line))
        if said[-1]["event"] == event:
            return said
    raise AssertionError(f"ended without {event!r}: {said}")


def read_all(bootstrap, topic, n, timeout_s=30.0):
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": topic, "auto.offset.reset": "earliest"}
    )
    consumer.subscribe([topic])
    records, deadline = [], time.monotonic() + timeout_s
    try:
        while len(records) < n and time.monotonic() < deadline:
            records += consumer.consume(2000, 0.5)
        records += consumer.consume(10, 0.5)  # more than promised would be a fault as well
    finally:
        consumer.close()
    assert all(record.error() is None for record in records)
    return records


@pytest.fixture(scope="module")
def january(tmp_path_factory):
    return tmp_path_factory.mktemp("january") / "january.jsonl"


@pytest.fixture(scope="module")
def served(january):
    with EmbeddedBroker() as broker:
        broker.create_topic("inference", 3)
        broker.create_topic("labels", 1)
        process = start(broker.bootstrap, DAYS, DURATION_S, "--baseline", str(january))
        try:
            said = until(process, "ready")
            process.stdin.write(b"\n")
            process.stdin.flush()
            said += until(process, "done")
            assert process.wait(20) == 0
        finally:
            process.kill()
            process.wait()
            process.stdin.close()
            process.stdout.close()
        done = said[-1]
        yield Served(
            said,
            read_all(broker.bootstrap, "inference", done["produced"]),
            read_all(broker.bootstrap, "labels", done["labels"]),
        )


@pytest.fixture(scope="module")
def flights():
    return data.load().head(DAYS)


def test_every_flight_is_served_and_acknowledged_once(served, flights):
    done = served.messages[-1]
    assert done["produced"] == len(flights) == len(served.inferences)
    assert done["failed"] == 0
    assert len(served.by_id) == len(flights)


def test_every_landing_before_the_end_has_one_label(served, flights):
    end_ms = data.end_of(DAYS)
    landed = (flights.lands_ms >= 0) & (flights.lands_ms <= end_ms)
    assert served.messages[-1]["labels"] == landed.sum() == len(served.labels)
    labels = [json.loads(record.value()) for record in served.labels]
    assert len({label["id"] for label in labels}) == len(labels)
    assert Counter(label["label"] for label in labels)["late"] == flights.is_late[landed].sum()
    for record, label in zip(served.labels, labels, strict=True):
        assert set(label) == {"id", "label", "ts"}
        assert record.timestamp()[1] == label["ts"]
        assert label["ts"] >= served.by_id[label["id"]]["ts"]


def test_events_carry_the_event_model_and_the_simulated_time(served):
    for record, event in zip(served.inferences, served.events, strict=True):
        assert event["model"] == "flight-delay"
        assert event["version"] in ("1", "2")
        assert event["status"] == "ok"
        assert tuple(event["features"]) == data.FEATURES
        assert event["segment"] == {"origin": event["features"]["origin"]}
        assert event["latency_ms"] > 0
        assert event["prediction"]["label"] in ("late", "on_time")
        assert 0 < event["prediction"]["score"] < 1
        shares = event["prediction"]["probabilities"]
        assert shares["late"] + shares["on_time"] == pytest.approx(1.0, abs=2e-6)
        assert record.timestamp()[1] == event["ts"]
        assert record.key() == event["id"].encode()
        headers = dict(record.headers())
        assert TRACEPARENT.fullmatch(headers["traceparent"])
    parents = {dict(record.headers())["traceparent"] for record in served.inferences}
    assert len(parents) == len(served.inferences)


def test_each_partition_is_in_order_of_time(served):
    newest = Counter()
    for record, event in zip(served.inferences, served.events, strict=True):
        assert event["ts"] >= newest[record.partition()]
        newest[record.partition()] = event["ts"]
    assert len(newest) == 3


def test_breaks_begin_when_they_are_said_to(served, flights):
    injected = [m for m in served.messages if m["event"] == "injected"]
    assert [m["what"] for m in injected] == [
        "JFK weather feed turned null",
        "distance feed changed unit: miles to km",
    ]
    assert injected[0]["at_s"] == pytest.approx(DURATION_S * 0.5, abs=1.0)
    silent_ms, km_ms = (m["sim_ms"] for m in injected)
    miles = dict(zip(served_ids(flights), flights.numeric["distance"].tolist(), strict=True))
    for event in served.events:
        features = event["features"]
        if event["ts"] >= silent_ms and features["origin"] == "JFK":
            assert all(features[name] is None for name in data.FEEDS["weather"])
        factor = KM_PER_MILE if event["ts"] >= km_ms else 1.0
        assert features["distance"] == pytest.approx(miles[event["id"]] * factor, abs=1e-3)
    before = [e for e in served.events if e["ts"] < silent_ms]
    assert np.mean([e["features"]["temp"] is None for e in before]) < 0.02


def served_ids(flights):
    carriers = flights.categories["carrier"]
    codes = flights.codes["carrier"]
    return [f"{carriers[codes[i]]}{flights.number[i]}-{i}" for i in range(len(flights))]


def test_scores_are_those_of_the_model(served, flights):
    model = DelayModel(data.load())
    n = 500
    scores, _ = model.predict(flights.matrix()[:n])
    for name, score in zip(served_ids(flights)[:n], scores, strict=True):
        event = served.by_id[name]
        assert event["version"] == "1"
        assert event["prediction"]["score"] == pytest.approx(score, abs=1e-6)
        assert (event["prediction"]["label"] == "late") == (round(score, 6) > model.threshold)


def test_the_baseline_is_january_as_the_healthy_model_served_it(served, january):
    written = [json.loads(line) for line in january.read_bytes().splitlines()]
    n = int((data.load().departs_ms < data.end_of(31)).sum())
    assert len(written) == n
    assert {event["version"] for event in written} == {"1"}
    for event in written[:500]:
        same = served.by_id[event["id"]]
        assert event | {"latency_ms": 0} == same | {"latency_ms": 0}


def test_the_canary_takes_every_tenth_flight_of_the_last_fifth(served, flights):
    (said,) = [m for m in served.messages if m["event"] == "canary"]
    chosen = [
        name
        for i, name in enumerate(served_ids(flights))
        if i % CANARY_EVERY == 0 and flights.departs_ms[i] >= said["sim_ms"]
    ]
    assert said["sim_ms"] == data.YEAR_START_MS + int(DAYS * 0.8) * data.DAY_MS
    assert [e["id"] for e in served.events if e["version"] == "2"] != []
    assert {e["id"] for e in served.events if e["version"] == "2"} == set(chosen)


def test_the_canary_calls_far_more_flights_late_than_its_twin(served):
    (said,) = [m for m in served.messages if m["event"] == "canary"]
    share = {}
    for version in ("1", "2"):
        events = [e for e in served.events if e["version"] == version and e["ts"] >= said["sim_ms"]]
        share[version] = np.mean([e["prediction"]["label"] == "late" for e in events])
    assert share["2"] > 2 * share["1"]


def test_a_rollback_takes_the_canarys_traffic_away_and_serves_on():
    with EmbeddedBroker() as broker:
        broker.create_topic("inference", 1)
        broker.create_topic("labels", 1)
        process = start(broker.bootstrap, DAYS, 6.0)
        try:
            until(process, "ready")
            process.stdin.write(b"\nrollback\n")
            process.stdin.flush()
            said = until(process, "done")
            assert process.wait(20) == 0
            assert "rolled_back" in [m["event"] for m in said]
            events = [
                json.loads(r.value())
                for r in read_all(broker.bootstrap, "inference", said[-1]["produced"])
            ]
        finally:
            process.kill()
            process.wait()
            process.stdin.close()
            process.stdout.close()
    assert {event["version"] for event in events} == {"1"}


def test_the_model_ranks_flights_it_has_not_seen():
    year = data.load()
    model = DelayModel(year)
    spring = (year.departs_ms > data.YEAR_START_MS + 60 * data.DAY_MS) & (year.lands_ms >= 0)
    chosen = np.flatnonzero(spring)[:20_000]
    scores, seconds = model.predict(year.matrix()[chosen])
    late = year.is_late[chosen]
    order = np.argsort(np.argsort(scores)) + 1.0
    area = (order[late].sum() - late.sum() * (late.sum() + 1) / 2) / (late.sum() * (~late).sum())
    assert area > 0.6
    assert seconds > 0


def test_a_break_leaves_other_rows_and_features_alone(flights):
    inputs = flights.matrix()[:2000]
    silent, kilometres = planned_breaks(flights, DAYS)
    changed = inputs.copy()
    silent.apply(changed)
    jfk = flights.categories["origin"].index("JFK")
    rows = inputs[:, data.FEATURES.index("origin")] == jfk
    assert np.isnan(changed[rows][:, data.FEATURES.index("temp")]).all()
    assert np.array_equal(changed[~rows], inputs[~rows], equal_nan=True)
    changed = inputs.copy()
    kilometres.apply(changed)
    others = [i for i, name in enumerate(data.FEATURES) if name != "distance"]
    assert np.array_equal(changed[:, others], inputs[:, others], equal_nan=True)


def test_the_end_of_its_input_stops_the_server_after_a_flush():
    with EmbeddedBroker() as broker:
        broker.create_topic("inference", 1)
        broker.create_topic("labels", 1)
        process = start(broker.bootstrap, days=100, duration_s=60.0)
        try:
            until(process, "ready")
            process.stdin.write(b"\n")
            process.stdin.flush()
            while not until(process, "tick")[-1]["produced"]:
                pass  # nothing departs on the first morning before 5 o'clock
            process.stdin.close()
            done = until(process, "done")[-1]
            assert process.wait(20) == 0
            assert 0 < done["produced"] < 20_000
            assert (
                len(read_all(broker.bootstrap, "inference", done["produced"])) == done["produced"]
            )
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


def test_the_schedule_is_sound(flights):
    assert (np.diff(flights.departs_ms) >= 0).all()
    minutes = flights.numeric["sched_minutes"]
    hours_at_800_kmh = flights.numeric["distance"] * KM_PER_MILE / 800
    assert (minutes / 60 > hours_at_800_kmh).all()
    assert (minutes / 60 < hours_at_800_kmh + 4).all()

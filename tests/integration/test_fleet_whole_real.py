"""A whole fleet on a real Apache Kafka: agents, chunk topic, aggregators, collector.

Oracle of the totals: a single agent in memory mode over the same rows, and an account of what was sent.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest

from agent.aggregate import folding
from agent.sketch.kernels.warm import warm
from tests.support.agent_process import Json, merged
from tests.support.fleet_inside import Inside, running
from tests.support.kafka_real import RealKafka, unique
from tests.support.otlp_points import Point, Points
from tests.support.otlp_receiver import OtlpReceiver
from tests.support.produce import committed, produce
from tests.support.sent import Sent
from tests.support.series_rules import assert_series_never_reset
from tests.support.wait import eventually

pytestmark = pytest.mark.timeout(700)  # the first one may have to compile

PARTITIONS = 8
SENT = Sent(4000, seed=7)


@dataclass
class Topic:
    """One topic of events; groups and receivers as many as a test wants."""

    kafka: RealKafka
    name: str
    n_produced: int = 0

    def produce(self, values: list[bytes]) -> None:
        produce(self.kafka.bootstrap, self.name, values, partitions=PARTITIONS)
        self.n_produced += len(values)

    def config(self, group: str, receiver: OtlpReceiver, **more: Any) -> Json:
        base: Json = {
            "kafka": {
                "bootstrap_servers": [self.kafka.bootstrap],
                "topics": [self.name],
                "group_id": group,
                "session_timeout_s": 6.0,
                "heartbeat_interval_s": 0.3,
                "rebalance_timeout_s": 10.0,
            },
            "delivery": {"drain_timeout_s": 5.0},
            "runtime": {"kernel_threads": 1},
            "export": {"otlp": {"endpoint": receiver.grpc_endpoint}},
            "features": {"amount": {"kind": "numeric"}, "balance": {"kind": "numeric"}},
        }
        return merged(base, more)


@dataclass
class Fleet:
    topic: Topic
    receiver: OtlpReceiver
    inside: Inside
    folder: Path
    shards: int = 3  # the models of `Sent` are in two of them
    group: str = field(default_factory=lambda: unique("fleet"))
    chunks: str = field(default_factory=lambda: unique("chunks"))

    def config(self, **more: Any) -> Json:
        delivery = {"mode": "fleet", "chunk_topic": self.chunks, "shards": self.shards}
        base = self.topic.config(self.group, self.receiver, delivery=delivery)
        return merged(base, more)

    def agent(self, **more: Any) -> Any:
        return self.inside.agent(self.config(**more))

    def aggregator(self, shard: int = 0, **more: Any) -> Any:
        config = merged(self.config(aggregate={"shard": shard}), more)
        return self.inside.aggregator(config, self.folder / f"volume-{shard}")

    def rows(self) -> float:
        """Of the newest points of each series; an instance of its own each shard."""
        return sum(point.value for point in self.receiver.points("inference.rows").latest())

    async def counted(self, n: int) -> None:
        await eventually(lambda: self.rows() >= n, timeout_s=40)

    def offsets(self) -> list[int]:
        return committed(self.topic.kafka.bootstrap, self.group, self.topic.name, PARTITIONS)


@pytest.fixture(scope="module", autouse=True)
def warm_kernels() -> None:
    """Before any clock runs."""
    warm()


@pytest.fixture(scope="module")
def topic(real_kafka: RealKafka) -> Topic:
    made = Topic(real_kafka, real_kafka.fresh_topic(partitions=PARTITIONS))
    made.produce(SENT.values)
    return made


@asynccontextmanager
async def fleet_of(
    topic: Topic, folder: Path, receiver: OtlpReceiver, shards: int = 3
) -> AsyncIterator[Fleet]:
    async with running() as inside:
        yield Fleet(topic, receiver, inside, folder, shards)


def newest(points: Points) -> dict[Any, Point]:
    """The newest point of each `inference.*` total, whoever wrote it.

    The histogram of `balance` is left out: it begins anew with its first negative value, so its newest
    point is no total; its missing values and its sum are compared.
    """
    found: dict[Any, Point] = {}
    for point in points.latest():
        is_histogram = point.kind == "exponential_histogram"
        is_signed = is_histogram and point.attributes.get("inference.feature.name") == "balance"
        is_total = (point.monotonic or is_histogram) and not is_signed
        if point.name.startswith("inference.") and is_total and point.value:
            key = (point.name, tuple(sorted(point.attributes.items())))
            assert key not in found, f"{point} has two writers"
            found[key] = point
    return found


def assert_same_totals(found: Points, expected: Points) -> None:
    """Counts, buckets and zeros are equal, sums within 1e-12 of the sum of magnitudes."""
    ours, theirs = newest(found), newest(expected)
    assert ours.keys() == theirs.keys()
    n_histograms = 0
    for key, point in ours.items():
        other = theirs[key]
        if point.kind != "exponential_histogram":
            assert point.value == other.value, key
        else:
            n_histograms += 1
            a, b = point.data, other.data
            assert (a.count, a.zero_count, a.scale) == (b.count, b.zero_count, b.scale), key
            assert (a.positive, a.negative) == (b.positive, b.negative), key
            assert a.sum == pytest.approx(b.sum, rel=1e-12), key
    assert n_histograms > 10


@pytest.fixture(scope="module")
def single(topic: Topic) -> Iterator[Points]:
    """What one agent in memory mode exports of the topic."""
    with OtlpReceiver() as receiver:

        async def run() -> None:
            async with running() as inside:
                agent = inside.agent(topic.config(unique("single"), receiver))
                probe = Fleet(topic, receiver, inside, Path())
                await probe.counted(len(SENT.values))
                await inside.stop(agent)

        asyncio.run(run())
        yield receiver.points()


@pytest.mark.parametrize("n", [1, 2, 4, 8])
async def test_so_many_agents_in_one_group_give_the_totals_of_a_single_one(
    topic: Topic, single: Points, otlp_receiver: OtlpReceiver, tmp_path: Path, n: int
) -> None:
    async with fleet_of(topic, tmp_path, otlp_receiver) as fleet:
        agents = [fleet.agent() for _ in range(n)]
        for shard in range(fleet.shards):
            fleet.aggregator(shard)
        await fleet.counted(len(SENT.values))
        assert sum(fleet.offsets()) == len(SENT.values)
        owners = [agent for agent in agents if agent._source.positions()]
        assert len(owners) == n
        await fleet.inside.stop_all()
    points = otlp_receiver.points()
    assert_same_totals(points, single)
    writers = {point.resource["service.instance.id"] for point in points.named("inference.rows")}
    assert len(writers) == 2
    assert_series_never_reset(points)
    of_agents = {point.name for point in points if point.name == "inferometer.cuts"}
    assert of_agents, "agents speak of themselves"


class Seals:
    """Profiles that an aggregator sealed: (stream, window, rows, coverage)."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.all: list[tuple[Any, int, int, float]] = []
        take = folding._take

        def watched(volume: Any, batch: Any) -> Any:
            done = take(volume, batch)
            self.all += [
                (profile.stream, profile.window, profile.rows, profile.coverage)
                for profile in done.effects.sealed
            ]
            return done

        patch.setattr(folding, "_take", watched)


async def test_a_rebalance_changes_no_seal(
    real_kafka: RealKafka,
    otlp_receiver: OtlpReceiver,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Windows of 2 s of event time: the same profiles, whether agents come and go or not."""
    both = []
    for churns in (False, True):
        with monkeypatch.context() as patch:
            seals = Seals(patch)
            topic = Topic(real_kafka, real_kafka.fresh_topic(partitions=PARTITIONS))
            async with fleet_of(topic, tmp_path / str(churns), otlp_receiver, shards=1) as fleet:
                await _read_in_three(fleet, churns=churns)
            both.append(sorted(seals.all, key=repr))
    assert both[0] == both[1]
    assert len({window for _, window, _, _ in both[0]}) >= 8
    assert {coverage for *_, coverage in both[0]} == {1.0}


async def _read_in_three(fleet: Fleet, *, churns: bool) -> None:
    """A third of the rows each; in between an agent joins, and another leaves."""
    windows: Json = {"windows": {"width_s": 2.0, "out_of_orderness_s": 1.0, "max_open": 20}}
    third = len(SENT.values) // 3
    agents = [fleet.agent(**windows)]
    aggregator = fleet.aggregator(**windows)
    parts = [SENT.values[:third], SENT.values[third : 2 * third], SENT.values[2 * third :]]
    for part in parts:
        fleet.topic.produce(part)
        await eventually(lambda: _has(aggregator, fleet.topic.n_produced), timeout_s=40)
        if churns and part is parts[0]:
            agents.append(fleet.agent(**windows))
            await eventually(agents[1]._source.positions)
            assert len(agents[0]._source.positions()) < PARTITIONS
        elif churns and part is parts[1]:
            await fleet.inside.stop(agents[0])
            await eventually(lambda: len(agents[1]._source.positions()) == PARTITIONS)
    state = await aggregator._state()
    assert state["tally"]["irregular"].get("late", 0) == 0


async def _has(aggregator: Any, rows: int) -> bool:
    return bool((await aggregator._state())["tally"]["rows"] == rows)


WAITS: Json = {
    "windows": {
        "width_s": 2.0,
        "out_of_orderness_s": 1.0,
        "idle_timeout_s": 3.0,
        "owner_timeout_s": 2.0,
        "max_wait_s": 1.0,
    }
}


async def test_a_shard_waits_for_idle_partitions_not_and_for_unowned_ones_a_while(
    real_kafka: RealKafka,
    otlp_receiver: OtlpReceiver,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rows in one of eight partitions: the others are idle, and do not hold it. When the agents are gone,
    nobody says that they are idle any more: the window waits, then seals without those that had not come so
    far."""
    seals = Seals(monkeypatch)
    topic = Topic(real_kafka, real_kafka.fresh_topic(partitions=PARTITIONS))
    windows = _windows_of(SENT.values)
    async with fleet_of(topic, tmp_path, otlp_receiver, shards=1) as fleet:
        agent = fleet.agent(**WAITS)
        aggregator = fleet.aggregator(**WAITS)
        first, second = windows[0], windows[1]
        produce(real_kafka.bootstrap, topic.name, first, partitions=1)
        await eventually(lambda: _has(aggregator, len(first)))
        await eventually(lambda: _rows_of(seals) == len(first))
        assert {coverage for *_, coverage in seals.all} == {1.0}
        seals.all.clear()
        produce(real_kafka.bootstrap, topic.name, second, partitions=1)
        await eventually(lambda: _has(aggregator, len(first) + len(second)))
        await fleet.inside.kill(agent)
        await eventually(lambda: _rows_of(seals) == len(second), timeout_s=30)
        assert {coverage for *_, coverage in seals.all} == {0.0}


def _rows_of(seals: Seals) -> int:
    return sum(rows for _, _, rows, _ in seals.all)


def _windows_of(values: list[bytes]) -> list[list[bytes]]:
    """The events by window of 2 s, oldest first."""
    found: dict[int, list[bytes]] = {}
    for value in values:
        found.setdefault(orjson.loads(value)["ts"] // 2000, []).append(value)
    return [found[window] for window in sorted(found)]


async def test_rows_that_waited_out_an_outage_of_the_aggregator_are_not_late(
    real_kafka: RealKafka,
    otlp_receiver: OtlpReceiver,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All that it knows is older than every time-out when it comes back; the topic has more."""
    seals = Seals(monkeypatch)
    topic = Topic(real_kafka, real_kafka.fresh_topic(partitions=PARTITIONS))
    long = {"windows": WAITS["windows"] | {"idle_timeout_s": 0.5, "max_open": 100}}
    async with fleet_of(topic, tmp_path, otlp_receiver, shards=1) as fleet:
        fleet.agent(**long)
        aggregator = fleet.aggregator(**long)
        half = len(SENT.values) // 2
        topic.produce(SENT.values[:half])
        await eventually(lambda: _has(aggregator, half))
        await fleet.inside.kill(aggregator)
        began = time.monotonic()
        topic.produce(SENT.values[half:])
        await eventually(lambda: sum(fleet.offsets()) == len(SENT.values))
        await eventually(lambda: time.monotonic() - began > 3.5)
        aggregator = fleet.aggregator(**long)
        await eventually(lambda: _has(aggregator, len(SENT.values)))
        assert (await aggregator._state())["tally"]["irregular"].get("late", 0) == 0
        await eventually(lambda: _rows_of(seals) == len(SENT.values))
        assert {coverage for *_, coverage in seals.all} == {1.0}

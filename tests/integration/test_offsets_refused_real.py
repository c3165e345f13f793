"""Offsets that a real broker refuses for one partition alone, and offsets that are rolled back.

Volume mode neither loses nor repeats a row. Fleet mode loses none; what it counts again is exactly what
it says: a chunk's sketches are those of all its partitions, and nobody can take one out.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiokafka.client import AIOKafkaClient

from agent.aggregate.heads import OutsideLink
from agent.ingest.fence import Committed, Fence, commit_offsets, fetch_offsets
from agent.sketch.kernels.warm import warm
from agent.types import Partition
from tests.support.agent_process import Json
from tests.support.fleet_inside import Inside, running
from tests.support.kafka_real import RealKafka, unique
from tests.support.otlp_receiver import OtlpReceiver
from tests.support.produce import committed, produce
from tests.support.refusing_broker import WHY, Refusals
from tests.support.sent import Sent
from tests.support.series_rules import assert_series_never_reset
from tests.support.wait import eventually

pytestmark = pytest.mark.timeout(700)  # the first one may have to compile

PARTITIONS = 3
SENT = Sent(900, seed=61)
THIRD = len(SENT.values) // 3
EACH = THIRD // PARTITIONS  # rows of a partition in a third


@pytest.fixture(scope="module", autouse=True)
def warm_kernels() -> None:
    """Before any clock runs."""
    warm()


@dataclass
class World:
    """One topic, one group; the agent, and in fleet mode an aggregator."""

    mode: str
    kafka: RealKafka
    receiver: OtlpReceiver
    inside: Inside
    folder: Path
    refusals: Refusals
    topic: str = ""
    group: str = field(default_factory=lambda: unique("refused"))

    def __post_init__(self) -> None:
        self.topic = self.kafka.fresh_topic(partitions=PARTITIONS)
        delivery: Json = {"mode": self.mode, "drain_timeout_s": 5.0}
        if self.mode == "fleet":
            delivery |= {"chunk_topic": unique("chunks"), "shards": 1}
        else:
            delivery |= {"volume_path": str(self.folder / "agent")}
        self.config: Json = {
            "kafka": {
                "bootstrap_servers": [self.kafka.bootstrap],
                "topics": [self.topic],
                "group_id": self.group,
                "session_timeout_s": 6.0,
                "heartbeat_interval_s": 0.3,
            },
            "delivery": delivery,
            "runtime": {"kernel_threads": 1},
            "export": {"otlp": {"endpoint": self.receiver.grpc_endpoint}},
            "features": {"amount": {"kind": "numeric"}, "balance": {"kind": "numeric"}},
        }
        self.aggregator: Any = None
        if self.mode == "fleet":
            self.aggregator = self.inside.aggregator(self.config, self.folder / "shard")

    def agent(self) -> Any:
        return self.inside.agent(self.config)

    def produce(self, third: int) -> None:
        values = SENT.values[third * THIRD : (third + 1) * THIRD]
        produce(self.kafka.bootstrap, self.topic, values, partitions=PARTITIONS)

    def rows(self) -> float:
        return sum(point.value for point in self.receiver.points("inference.rows").latest())

    def offsets(self) -> list[int]:
        return committed(self.kafka.bootstrap, self.group, self.topic, PARTITIONS)

    async def settled(self, rows: int, *offsets: int) -> None:
        """So many rows have been exported, and no more come with these offsets."""
        await eventually(lambda: self.rows() >= rows and self.offsets() == list(offsets))
        assert self.rows() == rows

    async def leave(self, agent: Any) -> None:
        """Kill it, and wait until the group is empty: a tool may not change offsets before."""
        await self.inside.kill(agent)

        def is_empty() -> bool:
            asked = self.kafka.admin.describe_consumer_groups([self.group])
            return not asked[self.group].result(20).members

        await eventually(is_empty, timeout_s=20)

    async def backup(self) -> dict[Partition, Committed]:
        """The group's offsets with their metadata."""
        async with self._link() as link:
            return await fetch_offsets(link, self.group, None, ended=asyncio.Event())

    async def restore(self, offsets: dict[Partition, Committed]) -> None:
        """As a tool does, from outside of the group."""
        fence = Fence(self.group, -1, "")
        async with self._link() as link:
            assert await commit_offsets(link, fence, offsets, ended=asyncio.Event()) == {}

    @asynccontextmanager
    async def _link(self) -> AsyncIterator[OutsideLink]:
        client = AIOKafkaClient(bootstrap_servers=self.kafka.bootstrap)
        await client.bootstrap()
        try:
            yield OutsideLink(client, self.group)
        finally:
            await client.close()

    def repeated(self) -> float:
        """Records that the aggregator says are counted again."""
        telemetry = self.aggregator.telemetry
        return float(telemetry.value("inferometer.chunks.misplaced", reason="overlap") or 0)


@pytest.fixture(params=["volume", "fleet"])
async def world(
    request: pytest.FixtureRequest,
    real_kafka: RealKafka,
    otlp_receiver: OtlpReceiver,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[World]:
    refusals = Refusals(monkeypatch)
    async with running() as inside:
        made = World(request.param, real_kafka, otlp_receiver, inside, tmp_path, refusals)
        yield made
        assert_series_never_reset(made.receiver.points())
        if made.aggregator is not None:
            for fate in ("missing", "uncertain"):
                assert made.aggregator.telemetry.total(f"inferometer.chunks.{fate}") == 0


async def test_an_offset_refused_for_one_partition_alone_is_committed_until_it_is_accepted(
    world: World,
) -> None:
    agent = world.agent()
    world.produce(0)
    await world.settled(THIRD, EACH, EACH, EACH)
    world.refusals.partitions = {Partition(world.topic, 0)}
    world.produce(1)
    await eventually(lambda: agent._mode.reasons())
    assert agent._mode.reasons() == [
        f"offsets of a chunk are refused, and committed again: {world.topic}/0: {WHY}"
    ]
    assert not (await agent._ready()).ready
    assert world.offsets()[0] == EACH
    world.refusals.partitions = ()
    world.produce(2)
    await world.settled(3 * THIRD, *[3 * EACH] * PARTITIONS)
    assert agent._mode.reasons() == []
    if world.mode == "fleet":
        assert world.repeated() == 0


async def test_an_agent_that_ends_while_one_partition_is_refused_repeats_what_is_said(
    world: World,
) -> None:
    agent = world.agent()
    world.produce(0)
    await world.settled(THIRD, EACH, EACH, EACH)
    world.refusals.partitions = {Partition(world.topic, 0)}
    world.produce(1)
    await eventually(lambda: agent._mode.reasons())
    await world.leave(agent)
    world.refusals.partitions = ()
    world.produce(2)
    again = world.agent()
    await eventually(lambda: world.offsets() == [3 * EACH] * PARTITIONS)
    if world.mode == "volume":
        await world.settled(3 * THIRD, *[3 * EACH] * PARTITIONS)
        assert again.telemetry.value("inferometer.state.fallbacks", reason="rolled_back") == 1
    else:
        # As many as the chunk held of that partition; none at all when it was one without rows.
        await eventually(lambda: world.rows() == 3 * THIRD + world.repeated())
        assert world.repeated() <= EACH


async def test_offsets_rolled_back_with_their_metadata_lose_nothing_and_repeat_what_is_said(
    world: World,
) -> None:
    agent = world.agent()
    world.produce(0)
    await world.settled(THIRD, EACH, EACH, EACH)
    backup = await world.backup()
    world.produce(1)
    await world.settled(2 * THIRD, *[2 * EACH] * PARTITIONS)
    await world.leave(agent)
    await world.restore(backup)
    assert world.offsets() == [EACH] * PARTITIONS
    world.produce(2)
    again = world.agent()
    if world.mode == "volume":
        await world.settled(3 * THIRD, *[3 * EACH] * PARTITIONS)
        reason = again.telemetry.value("inferometer.state.fallbacks", reason="rolled_back")
        assert reason == PARTITIONS
    else:
        await world.settled(4 * THIRD, *[3 * EACH] * PARTITIONS)
        assert world.repeated() == THIRD

"""What takes long is done in other threads than the loop's: journal, fold, snapshot, opening of chunks.

How long the loop is held beside them is a benchmark's business (`benchmarks.state`).
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from agent.aggregate import folding
from agent.aggregate.heads import Group as HeadsOfGroup
from agent.aggregate.intake import Intake
from agent.aggregate.shard import ShardReader
from agent.config import Config, Delivery, Kafka
from agent.delivery import volume as volume_mode
from agent.delivery.volume import VolumeMode
from agent.fleet import mode as fleet_mode
from agent.fleet.chunk_topic import ChunkTopic
from agent.fold.base import Fold
from agent.owner_thread import OwnerThread
from agent.state import volume as volumes
from agent.state.files import Files
from agent.state.recovery import FoldCodec, Owner
from agent.state.volume import Volume
from agent.telemetry import Telemetry
from agent.types import Partition
from tests.support.fold_inputs import CODEC, Inputs, chunk
from tests.support.shard_life import Group, life
from tests.unit.test_fleet_mode import P0
from tests.unit.test_fleet_mode import Agent as FleetAgent

T0 = Partition("t", 0)


class Watched:
    """Names of the threads in which functions ran, by function."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._patch = patch
        self.threads: defaultdict[str, set[str]] = defaultdict(set)

    def __call__(self, owner: Any, *names: str) -> None:
        for name in names:
            self._patch.setattr(owner, name, self.noting(name, getattr(owner, name)))

    def noting(self, name: str, function: Any) -> Any:
        def noted(*arguments: Any, **named: Any) -> Any:
            self.threads[name].add(threading.current_thread().name)
            return function(*arguments, **named)

        return noted

    def ran_in(self, thread: str) -> set[str]:
        """Functions that ran in this thread, and in no other."""
        return {name for name, threads in self.threads.items() if threads == {thread}}


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(monkeypatch)


async def test_volume_mode_journals_folds_and_writes_snapshots_on_the_fold_thread(
    tmp_path: Path, watched: Watched
) -> None:
    watched(Files, "write", "sync")
    watched(Inputs, "apply", "tick", "export")
    watched(volume_mode, "to_bytes")
    watched(volumes, "write_snapshot")
    codec = FoldCodec(CODEC.make, watched.noting("dump", CODEC.dump), CODEC.load)
    volume = Volume(tmp_path, Owner("g", ("t",)), codec, Telemetry())
    fold: OwnerThread[Any] = OwnerThread("fold", Inputs(0))

    async def commit(
        epoch: int, offsets: Mapping[Partition, int], metadata: Mapping[Partition, str]
    ) -> dict[Partition, str]:
        return {}

    config = Config(delivery=Delivery(mode="volume", volume_path=str(tmp_path)))
    mode = VolumeMode(config, volume, fold, commit, Telemetry())
    await mode.open()
    assert await mode.settle([T0], {}) == {}
    await mode.place(1, {T0: 0})
    mode.begin(1)
    made = chunk(mode.run_id, 1, 0, 5)
    made.ranges[0].lineage = mode.lineages([T0])[T0]
    assert await mode.deliver(made) is not None
    assert await mode.export(10**18, zeros=True) is not None
    await mode.finish()
    await fold.call(lambda _: volume.close())
    fold.close(2.0)
    names = {"write", "sync", "apply", "tick", "export", "to_bytes", "write_snapshot", "dump"}
    assert watched.threads.keys() == watched.ran_in("fold") == names


async def test_an_aggregator_folds_and_writes_snapshots_on_the_fold_thread(
    tmp_path: Path, watched: Watched
) -> None:
    watched(Files, "write", "sync")
    watched(Fold, "apply", "export")
    watched(folding, "to_bytes", "_take")
    watched(volumes, "write_snapshot")
    async with life(tmp_path, Group()) as one:
        await one.open()
        await one.take(1)
        await one.export()
        await one.fold.kept.snapshot()
    names = {"write", "sync", "apply", "export", "to_bytes", "_take", "write_snapshot"}
    assert watched.threads.keys() == watched.ran_in("fold") == names


async def test_records_of_the_chunk_topic_are_opened_off_the_loop(
    monkeypatch: pytest.MonkeyPatch, watched: Watched
) -> None:
    watched(Intake, "record", "heads", "next")

    class Consumer:
        _client = None

        async def end_offsets(self, tps: list[Any]) -> dict[Any, int]:
            return dict.fromkeys(tps, 1)

    class Heads:
        async def read(self, *, ended: Any) -> Any:
            return HeadsOfGroup({}, frozenset())

    intake = Intake(0, 1, max_bytes=1 << 20, missing_timeout_s=1.0)

    async def done(batch: Any) -> None:
        pass

    reader = ShardReader(Kafka(), ChunkTopic("chunks", 1), 0, intake, done)
    await reader._poll(Consumer(), Heads())  # type: ignore[arg-type]
    record = type("Record", (), {"offset": 0, "value": b"not a record"})
    assert await reader._take(Consumer(), [record])
    loop = threading.current_thread().name
    assert watched.threads.keys() == {"record", "heads", "next"}
    assert not any(loop in threads for threads in watched.threads.values())


async def test_a_fleet_agent_writes_its_chunks_out_off_the_loop(watched: Watched) -> None:
    watched(fleet_mode, "records_of", "split")
    agent = FleetAgent()
    await agent.begin(1, P0)
    assert await agent.mode.deliver(agent.chunk(1, p0=(0, 5))) is not None
    loop = threading.current_thread().name
    assert watched.threads.keys() == {"records_of", "split"}
    assert not any(loop in threads for threads in watched.threads.values())

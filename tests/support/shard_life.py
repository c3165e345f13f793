"""One aggregator's fold, volume and group, without a reader and a broker."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from agent.aggregate.accept import Fate, Verdict
from agent.aggregate.chains import ends_of
from agent.aggregate.folding import ShardFold
from agent.aggregate.intake import Fold as FoldChunk
from agent.aggregate.intake import Intake
from agent.aggregate.shard import Batch
from agent.config import Aggregate, Config, Delivery, Windows
from agent.ingest.fence import Committed
from agent.judging import Folds
from agent.state.chunk import merge_digest
from agent.state.heads import Head, chunk_id
from agent.telemetry import Telemetry
from agent.types import PartitionRange, StreamKey
from tests.support.blocks import Row, chunk_of, range_of

FLEET = "0" * 15 + "a"  # run id of the agent
T0_MS = 1_700_000_000_000
WINDOWS = Windows()


def told(run_id: str, offset: int, number: int) -> Committed:
    return Committed(offset, Head(run_id, offset, run_id, number).metadata)


class Group:
    """Stands in for `Guard`: the shard's group, always ours."""

    def __init__(self) -> None:
        self.told: Committed | None = None
        self.run_id = ""
        self.n_joined = 0

    async def look(self) -> Committed | None:
        return self.told

    async def committed(self) -> Committed | None:
        self.n_joined += 1
        return self.told

    async def confirm(self, position: int, number: int) -> None:
        self.told = told(self.run_id, position, number)


class Life:
    """One aggregator's process, without its reader."""

    def __init__(self, folder: Path, group: Group, windows: Windows) -> None:
        self.config = Config(
            windows=windows,
            delivery=Delivery(mode="fleet", chunk_topic="chunks", shards=1),
            aggregate=Aggregate(volume_path=str(folder)),
        )
        self.telemetry = Telemetry()
        folds = Folds(self.config, self.telemetry, None)
        self.fold = ShardFold(self.config, "g-0", folds, self.telemetry)
        self.group: Any = group
        group.run_id = self.fold.volume.run_id

    async def open(self) -> Intake:
        return await self.fold.open(self.group)

    async def take(self, number: int, *, n_rows: int = 5) -> None:
        """One chunk, behind one record; confirmed as by the next batch."""
        rows = [Row(StreamKey("m", "1"), T0_MS + i) for i in range(n_rows)]
        await self.fold_in(number, rows, [range_of(0, rows, from_offset=number * n_rows)])
        await self.fold.take(Batch([], number), self.group)

    async def fold_in(self, number: int, rows: list[Row], ranges: list[PartitionRange]) -> None:
        """A chunk of these rows, which counts, as a batch of its own."""
        width_ms = int(self.config.windows.width_s * 1000)
        digest = merge_digest(self.config)
        made = chunk_of([[rows]], digest=digest, ranges=ranges, number=number, width_ms=width_ms)
        verdict = Verdict(Fate.FOLDED, chunk_id(FLEET, number), (), tuple(ends_of(ranges)))
        work = FoldChunk(replace(made, run_id=FLEET), verdict)
        await self.fold.take(Batch([work], number), self.group)

    async def export(self) -> tuple[int, int, int]:
        """Rows of all series, their start time, and the export's time."""
        snapshot = await self.fold.kept.export(1, zeros=True)
        assert snapshot is not None
        (metric,) = [metric for metric in snapshot.metrics if metric.name == "inference.rows"]
        points: list[Any] = list(metric.points)
        (start_ns,) = {point.start_ns for point in points}
        return sum(point.value for point in points), start_ns, snapshot.time_ns


@asynccontextmanager
async def life(folder: Path, group: Group, windows: Windows = WINDOWS) -> AsyncIterator[Life]:
    one = Life(folder, group, windows)
    try:
        yield one
    finally:
        one.fold.close()

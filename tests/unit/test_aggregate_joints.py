"""What does not abut, from records of the chunk topic to the aggregator's counter and its words."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.aggregate.intake import Fold, Intake
from agent.aggregate.shard import Batch
from agent.state.heads import Head
from agent.state.parts import records_of
from agent.types import Partition
from tests.support.fleet import bare_chunk, range_at
from tests.support.shard_life import Group, life

P0 = Partition("events", 0)
RUN, LINE, LATER_LINE = "a" * 16, "1" * 16, "2" * 16


def folds(intake: Intake, number: int, line: str, start: int, end: int, prev: str) -> Fold:
    """The next chunk of the run, which the group's offset names."""
    chunk = bare_chunk(RUN, number, [range_at(P0, line, start, end, prev)], has_body=False)
    (value,) = records_of(chunk, 0, 1, ())
    intake.record(intake.position, value, 0.0)
    intake.heads({P0: Head(line, end, RUN, number)}, intake.position, 0.0)
    what = intake.next(0.0)
    assert isinstance(what, Fold)
    intake.settle(what)
    return what


async def test_rows_that_are_left_out_or_counted_again_are_counted_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with life(tmp_path / "v", Group()) as one:
        intake = await one.open()
        chunks = [
            folds(intake, 1, LINE, 0, 10, ""),
            folds(intake, 2, LINE, 10, 15, f"{RUN};1"),
            folds(intake, 3, LINE, 10, 20, f"{RUN};1"),  # rolled back by 5
            folds(intake, 4, LATER_LINE, 27, 30, ""),  # set forward by 7
        ]
        await one.fold.take(Batch(list(chunks), intake.oldest), one.group)
        assert one.telemetry.value("inferometer.chunks.misplaced", reason="overlap") == 5
        assert one.telemetry.value("inferometer.chunks.misplaced", reason="gap") == 7
    said = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert len(said) == 2
    assert f"counted up to offset 15, and chunk {RUN};3 goes on at 10" in said[0]
    assert f"counted up to offset 20, and chunk {RUN};4 goes on at 27" in said[1]

"""A stream with segments, which share the weight of the detector with all traffic: quiet, and broken in one of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from itertools import islice
from typing import Final

import numpy as np

from agent.judge.attribution import causes, segment_causes
from agent.judge.cells import CellKey, Statistic
from agent.judge.counted import merged
from agent.judge.detector import ChangeDetector
from agent.verdict import State
from benchmarks.verdicts.caught import COURSE, Caught
from benchmarks.verdicts.quiet import Parts, Source, block_rows, of_blocks, segment
from benchmarks.verdicts.scores import Columns, names_of
from benchmarks.verdicts.trial import BUDGET, Outcome, fresh
from benchmarks.verdicts.windows import column

#: Shares of traffic of the segments.
SHARES: Final = (0.4, 0.3, 0.2, 0.1)
_MOVED = 0  # the column that is broken
_BY: Final = 0.5
_N_FEATURES: Final = 8


def in_parts(n_features: int, broken: int | None = None) -> Source:
    """Independent rows of segments whose columns differ; their shares of a window vary by chance.

    broken  the segment in which the first column has moved by half a standard deviation
    """
    columns = Columns(n_features)

    def windows(rng: np.random.Generator, rows: int) -> Iterator[Parts]:
        while True:
            parts = []
            for i, n in enumerate(rng.multinomial(rows, SHARES).tolist()):
                z = 0.9 * rng.standard_normal((n, n_features)) + 0.3 * i
                if i == broken:
                    z[:, _MOVED] += 0.9 * _BY
                parts.append(columns.counted(z, rng))
            yield parts

    return windows


@dataclass
class InSegment(Caught):
    """A break in one segment. `segments`: how often it was the first of those that explain the alarm."""

    segments: int = 0

    @property
    def segment_share(self) -> float | None:
        return self.segments / self.fired if self.fired else None


def in_a_segment(share: float, rows: int, reference_rows: int, runs: int, seed: int) -> InSegment:
    """The segment with that share of traffic breaks, after each of so many references."""
    broken = SHARES.index(share)
    out = InSegment(f"a segment of {share:g}")
    name = names_of(_N_FEATURES)[_MOVED]
    key = CellKey(column(name), Statistic.LOC)
    quiet, moved = in_parts(_N_FEATURES), in_parts(_N_FEATURES, broken)
    for run in range(runs):
        rng = fresh(seed, run, broken)
        size = block_rows(reference_rows)
        blocks = list(islice(quiet(rng, size), reference_rows // size))
        against = of_blocks(blocks)
        before = {
            segment(i): reduce(merged, part) for i, part in enumerate(zip(*blocks, strict=True))
        }
        detector = ChangeDetector(against.calibration, BUDGET * against.guard)
        kept = Outcome()
        streams = [quiet(rng, rows)] * COURSE.quiet + [moved(rng, rows)] * COURSE.broken
        for at, stream in enumerate(streams):
            parts = next(stream)
            step = detector.step(at, *against.cells(at, parts))
            if step.state is not State.FIRING:
                continue
            if at < COURSE.quiet:
                kept.pages += 1
                continue
            kept.delay = at - COURSE.quiet + 1
            kept.rows = kept.delay * rows
            out.right += causes(step.evidence)[0].feature == name
            windows = {segment(i): part for i, part in enumerate(parts)}
            explained = segment_causes(key, against.hours[0], windows, before)
            out.segments += bool(explained) and explained[0].segment == segment(broken)
            break
        out.outcomes.append(kept)
    return out

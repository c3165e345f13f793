"""Abrupt changes of one model, told from its last windows: what pages while less than its cycle is known.

`recent` says what to expect of the next window; the change detector adds up what is beyond that. Its budget is the
rule's: nothing else pages for a change at that time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from agent.judge.calibration import NOTHING_LEARNED
from agent.judge.cells import CellValue, Prepared
from agent.judge.counted import Counted
from agent.judge.detector import ChangeDetector, Step
from agent.judge.recent import Recent, RecentKept
from agent.types import Column


class AbruptKept(msgspec.Struct, array_like=True):
    recent: RecentKept
    detector: bytes


class Jump(NamedTuple):
    """What the last windows say of this one: the detector's step, what it was compared with, and how many rows
    were expected."""

    step: Step
    baseline: Prepared
    expected_rows: float | None


class Abrupt:
    """See the module. For each window `step`, then `learn` if nothing is wrong with it."""

    def __init__(
        self,
        target_windows: float,
        ask: float,
        width_ms: int,
        takes: Callable[[Column | None], bool],
    ) -> None:
        """`width_ms`: of windows. `takes`: which columns are watched; None stands for the stream's own."""
        self._target, self._ask, self._takes = target_windows, ask, takes
        self._recent = Recent(width_ms)
        self._detector: ChangeDetector | None = None
        self._cells: list[CellValue] = []

    def step(self, window: int, read: Counted, *, with_volume: bool) -> Jump | None:
        """Judge the next window; None while too few were seen. `with_volume`: its rows are all there are."""
        recent = self._recent
        self._cells = [
            cell
            for cell in recent.measured(read, with_volume=with_volume)
            if self._takes(cell.key.column)
        ]
        values, calibration = recent.judged(self._cells)
        if calibration.is_learning or recent.prepared is None:
            return None
        # Variances move with every window: a detector of the new ones goes on with the evidence so far.
        detector = ChangeDetector(calibration, self._target, ask=self._ask)
        if self._detector is not None:
            detector.load(self._detector.dump())
        self._detector = detector
        return Jump(detector.step(window, values), recent.prepared, recent.expected_rows)

    def learn(self, read: Counted, *, with_volume: bool) -> None:
        """The window of the last `step` is healthy."""
        self._recent.learn(read, self._cells, with_volume=with_volume)

    def kept(self) -> AbruptKept:
        """All there is, to go on from."""
        detector = self._detector.dump() if self._detector is not None else b""
        return AbruptKept(self._recent.kept(), detector)

    def restore(self, kept: AbruptKept) -> None:
        """Go on from `kept`, in place. Raises DecodeError."""
        self._recent.restore(kept.recent)
        if kept.detector:
            self._detector = ChangeDetector(NOTHING_LEARNED, self._target, ask=self._ask)
            self._detector.load(kept.detector)

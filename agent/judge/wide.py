"""Wide windows: of a stream of few rows, as many windows together as show what is asked.

A canary with a hundred rows a window is blind: they show a shift of .65 deviations at best. So windows that are blind
are joined, with the twin's where there is one, until their rows show the effect asked, or twice as many no longer show
much more (noise that lasts), or a day is full (an hour where the baseline is one of hours); then the change detector and the state test judge them as one. What closes a block is
how many rows it has, never what they say, so evidence means what it means for single windows. Single windows go on being
judged beside it: what is large enough pages at once.

A block is a step for many windows of the budget, so the same threshold pages at most half as often; it is doubled,
which makes what both together spend at most a quarter more than the single ones' budget.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec

from agent.fold.profile import Profile
from agent.judge.cells import CellValue, Prepared, Statistic, measure
from agent.judge.counted import Counted, counted
from agent.judge.detector import ChangeDetector, Step
from agent.judge.noise import Noise
from agent.judge.panes import DAY_MS, HOUR_MS, MIN_ROWS
from agent.judge.standing import Standing
from agent.judge.state_test import StateTest
from agent.judge.union import united

_SHARE: Final = 2.0
#: Independent rows show an effect smaller by a factor of .71 in twice as many; past this it is not worth the wait.
_GAIN: Final = 0.85


class WideKept(msgspec.Struct, array_like=True):
    n: int
    whole: bytes  # b"": no window
    twin: bytes
    detector: bytes
    state: bytes
    minimum: float | None
    half: float


class Block(NamedTuple):
    """Windows that were judged as one.

    whole, read  their rows; baseline: what they were compared with
    change, state  steps of both tests
    """

    whole: Profile
    read: Counted
    baseline: Prepared
    change: Step
    state: Step


class Wide:
    """One rule's on one model, against one standing."""

    def __init__(
        self, standing: Standing, target_windows: float, ask: float, limit: float, width_ms: int
    ) -> None:
        """`limit`: PSI that is allowed. `width_ms`: of windows."""
        self._standing = standing
        self._ask = ask
        calibration = standing.calibration
        target = _SHARE * target_windows
        self._detector = ChangeDetector(calibration, target, ask=ask)
        self._state = StateTest(calibration, target, limit=limit)
        self._noise = Noise(calibration, 1)
        self._most = max(1, (HOUR_MS if standing.whole.reference.hours else DAY_MS) // width_ms)
        self._n = 0
        self._whole: Profile | None = None
        self._twin: Profile | None = None
        self._half = 0.0  # what half as many windows, or fewer, showed; 0: not known
        self.minimum: float | None = None  # what the last block showed

    def take_over(self, before: Wide) -> None:
        """Go on with the open block of another standing, in place."""
        self._n, self._half, self.minimum = before._n, before._half, before.minimum
        self._whole, self._twin = before._whole, before._twin

    @property
    def is_sighted(self) -> bool:
        """Whether the last block showed what is asked."""
        return self.minimum is not None and self.minimum <= self._ask

    def forget(self) -> None:
        """A window that shows enough by itself: those gathered before it are dropped."""
        self._n, self._whole, self._twin, self._half, self.minimum = 0, None, None, 0.0, None

    def add(
        self, whole: Profile, twin: Profile | None, takes: Callable[[CellValue], bool]
    ) -> Block | None:
        """The next blind window; a block when that completes one. `takes`: cells that are watched."""
        self._whole = whole if self._whole is None else united([self._whole, whole], whole.stream)
        if twin is not None:
            self._twin = twin if self._twin is None else united([self._twin, twin], twin.stream)
        self._n += 1
        if self._whole.rows < MIN_ROWS:
            return None
        read = counted(self._whole)
        known = self._standing.whole.prepared(self._whole.start_ms)
        baseline = known if self._twin is None else Prepared(self._twin)
        cells = [cell for cell in measure(baseline, read) if takes(cell)]
        minimum = self._minimum(cells)
        is_double = self._n & (self._n - 1) == 0
        no_gain = is_double and bool(self._half) and (minimum or 0.0) > _GAIN * self._half
        if is_double:
            self._half = minimum or 0.0
        shows = minimum is not None and minimum <= self._ask
        if not shows and not no_gain and self._n < self._most:
            return None
        window = self._whole.window
        block = Block(
            self._whole,
            read,
            baseline,
            self._detector.step(window, cells),
            self._state.step(window, cells),
        )
        self.forget()
        self.minimum = minimum
        return block

    def _minimum(self, cells: list[CellValue]) -> float | None:
        """AUC - 1/2 that half of the numeric columns would show."""
        loc = [cell for cell in cells if cell.key.statistic is Statistic.LOC]
        shown = sorted(self._noise.deviations(loc).minimum.tolist())
        return float(shown[len(shown) // 2]) if shown else None

    def kept(self) -> WideKept:
        """All there is, to go on from."""
        return WideKept(
            self._n,
            self._whole.to_bytes() if self._whole is not None else b"",
            self._twin.to_bytes() if self._twin is not None else b"",
            self._detector.dump(),
            self._state.dump(),
            self.minimum,
            self._half,
        )

    def restore(self, kept: WideKept) -> None:
        """Go on from `kept`, in place. Raises DecodeError."""
        self._n, self.minimum, self._half = kept.n, kept.minimum, kept.half
        self._whole = Profile.from_bytes(kept.whole) if kept.whole else None
        self._twin = Profile.from_bytes(kept.twin) if kept.twin else None
        self._detector.load(kept.detector)
        self._state.load(kept.state)

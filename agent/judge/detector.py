"""The change detector: evidence adds up over windows in every cell, and one sum per model pages.

Per cell and window the deviation past tolerance and margin becomes z' = min(5, z - kappa), which is a bet
against "nothing has changed": e = exp(l z' - l^2 / 2) has mean at most 1 while nothing has, for l = 1, 2, 4.
Bets restart in every window (Shiryaev-Roberts): R <- (1 + R) e, and M, the weighted sum of all R, is an
e-detector under any dependence between cells (Shin, Ramdas and Rinaldo 2023): the mean number of windows
until M >= A by chance is at least A. That is the promise of a budget; not "none this month".

Half the weight is on cells of all traffic and half on segments, so that segments cannot deafen the model; a
tenth is kept for cells that turn up later.

Invariants
1. A step is a function of the state and its arguments: no clock, no randomness, no order of a hash.
2. Windows go by in order, each once; `load(dump())` continues bit by bit the same.
3. While pending or firing nothing that is learned moves (`Step.is_frozen`), or drift would become normal.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.errors import DecodeError
from agent.judge.calibration import Calibration
from agent.judge.cells import CellKey, CellValue, Statistic
from agent.judge.noise import Noise
from agent.judge.special import log_normal_tail, normal_quantile, normal_tail
from agent.verdict import State

Floats = NDArray[np.float64]
Segment = tuple[tuple[str, str], ...]
#: One outlier must not page by itself, whatever its size: evidence of one window is capped at this z.
MOST_Z: Final = 5.0
_SLOPES: Final = np.array([1.0, 2.0, 4.0])
_MOST_EVIDENCE: Final = 1e12
#: Shares of the weight.
_WHOLE, _SEGMENTS, _LATER = 0.45, 0.45, 0.1
#: Pending at A / 100, and cells whose own evidence is below 1 have no past.
PENDING_SHARE: Final = 0.01
#: Windows in a row in which all that moved is back, and the evidence of the weakest bet falls over them.
CALM_WINDOWS: Final = 3
_CALM: Final = 2.0
#: What every z is lowered by; less history than _MUCH widens it.
_KAPPA, _MUCH_HISTORY, _MOST_KAPPA = 0.5, 200, 2.5
_LIST_FDR: Final = 0.05
_LOG10: Final = math.log(10.0)


def _one_sided() -> tuple[Floats, Floats]:
    """The z whose one tail is both tails beyond |z|, at points of |z|."""
    at = np.linspace(0.0, 37.0, 2961)
    logs = [min(-1e-9, log_normal_tail(float(z)) + math.log(2.0)) for z in at]
    return at, np.array([max(-4.0, normal_quantile(p)) for p in logs])


_TWO_SIDED, _AS_ONE = _one_sided()


class CellId(NamedTuple):
    """A cell of all traffic (`segment` None) or of one segment."""

    segment: Segment | None
    key: CellKey


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What one cell has to say in an alarm.

    score   -log10 p since its evidence began, uncapped
    share   of M that is this cell's
    z       deviations from the baseline in this window, signed; effect: in the statistic's own unit
    minimum  smallest effect that two windows of this size would show
    is_back  nothing is to be seen of it in this window: it is listed for what came before
    """

    id: CellId
    score: float
    share: float
    z: float
    effect: float
    minimum: float
    rows: float
    is_back: bool = False


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """What one window brought.

    m, threshold     evidence of the model, and what it pages at
    evidence         cells that are in the alarm (false discovery rate 5 %), best first; empty while quiet
    minimum_effect   AUC - 1/2 that half of the numeric columns would show in two windows; None without any
    """

    window: int
    state: State
    previous: State
    m: float
    threshold: float
    evidence: list[Evidence] = []
    minimum_effect: float | None = None

    @property
    def is_frozen(self) -> bool:
        """Whether baselines must not move."""
        return self.state in (State.PENDING, State.FIRING)


class _Cell(msgspec.Struct, array_like=True):
    """One cell's evidence between windows."""

    id: CellId
    weight: float
    slot: int
    score: float = 0.0
    calm: int = 0
    is_open: bool = False
    gained: float = 0.0  # log evidence of the weakest bet over the calm windows

    def follow(self, z: float, gain: float, *, is_alive: bool) -> None:
        """A window: deviations beyond what is allowed, what the weakest bet won, whether there is evidence."""
        self.score = self.score + _score(z) if is_alive else 0.0
        if z < _CALM:
            self.calm, self.gained = self.calm + 1, self.gained + gain
        else:
            self.recall()

    def recall(self) -> None:
        """The calm windows so far count no more."""
        self.calm, self.gained = 0, 0.0

    @property
    def is_calm(self) -> bool:
        return self.calm >= CALM_WINDOWS and self.gained < 0.0


class _Kept(msgspec.Struct, array_like=True):
    cells: list[_Cell]
    evidence: list[list[float]]
    state: State
    first: int
    later: int


class ChangeDetector:
    """Channel 2 of one model. About 1 kB for each 10 cells."""

    def __init__(
        self, calibration: Calibration, target_windows: float, *, ask: float = 0.05
    ) -> None:
        """`target_windows`: A, windows between false pages. `ask`: AUC - 1/2 that it should see; windows too
        small for it are BLIND, and page all the same when they see more."""
        self.calibration = calibration
        self.threshold = target_windows * calibration.guard
        self._ask = ask
        self._knows_volume = any(c.key.statistic is Statistic.VOLUME for c in calibration.cells)
        scarcity = max(1.0, math.sqrt(_MUCH_HISTORY / max(1, calibration.windows)))
        self._kappa = min(_MOST_KAPPA, _KAPPA * scarcity)
        self._cells: dict[CellId, _Cell] = {}
        self._evidence: Floats = np.zeros((0, len(_SLOPES)))
        self._state = State.LEARNING if calibration.is_learning else State.OK
        self._n_first = 0
        self._n_later = 0
        self._noise: Noise | None = None

    # ------------------------------------------------------------ one window

    def step(
        self,
        window: int,
        whole: Sequence[CellValue],
        segments: Mapping[Segment, Sequence[CellValue]] | None = None,
    ) -> Step:
        """Judge the next window: cells of all traffic, and of each segment that has rows."""
        previous = self._state
        if self.calibration.is_learning:
            return self._quiet(window, State.LEARNING, None)
        ids, values = self._taken(whole, segments or {})
        if not values:
            return self._quiet(window, self._state, None)
        assert self._noise is not None
        found = self._noise.deviations(values)
        cells = [self._cells[i] for i in ids]
        slots = np.array([cell.slot for cell in cells])
        stretch = {n: self.calibration.stretch_at(n) for n in {v.n for v in values}}
        past = found.past / np.array([stretch[v.n] for v in values])
        level = np.where(found.two, np.interp(past, _TWO_SIDED, _AS_ONE), past)
        bet = np.minimum(MOST_Z, level - self._kappa)[:, None]
        won = _SLOPES * bet - _SLOPES**2 / 2.0
        grown = (1.0 + self._evidence[slots]) * np.exp(won)
        self._evidence[slots] = np.minimum(grown, _MOST_EVIDENCE)
        own = self._evidence.mean(axis=1)
        weights = np.array([cell.weight for cell in self._cells.values()])  # in order of slots
        m = float(weights @ own)
        alive = (own[slots] >= 1.0).tolist()
        for cell, z, gain, is_alive in zip(
            cells, level.tolist(), won[:, 0].tolist(), alive, strict=True
        ):
            cell.follow(z, gain, is_alive=is_alive)
        minimum = _median(
            float(found.minimum[i])
            for i, v in enumerate(values)
            if ids[i].segment is None and v.key.statistic is Statistic.LOC
        )
        self._state = self._next(m, minimum)
        evidence: list[Evidence] = []
        if self._state in (State.PENDING, State.FIRING):
            listed = self._listed(cells)
            for cell in listed:
                cell.is_open = True
            at = {cell.id: i for i, cell in enumerate(cells)}
            evidence = [
                Evidence(
                    id=cell.id,
                    score=cell.score,
                    share=float(weights[cell.slot] * own[cell.slot]) / m,
                    z=float(found.z[at[cell.id]]),
                    effect=values[at[cell.id]].effect,
                    minimum=float(found.minimum[at[cell.id]]),
                    rows=values[at[cell.id]].n,
                    is_back=cell.calm > 0,
                )
                for cell in listed
            ]
        elif self._state is State.RESOLVED:
            self._forget()
        return Step(
            window=window,
            state=self._state,
            previous=previous,
            m=m,
            threshold=self.threshold,
            evidence=evidence,
            minimum_effect=minimum,
        )

    def _quiet(self, window: int, state: State, minimum: float | None) -> Step:
        previous, self._state = self._state, state
        return Step(
            window=window,
            state=state,
            previous=previous,
            m=0.0,
            threshold=self.threshold,
            minimum_effect=minimum,
        )

    def _next(self, m: float, minimum: float | None) -> State:
        if self._state is State.FIRING:  # what was found counts until it is back, and no longer
            return State.RESOLVED if self._is_calm() else State.FIRING
        if m >= self.threshold:
            for cell in self._cells.values():
                cell.recall()
            return State.FIRING
        if m >= PENDING_SHARE * self.threshold:
            return State.PENDING
        for cell in self._cells.values():
            cell.is_open = False
        return State.BLIND if minimum is not None and minimum > self._ask else State.OK

    def _is_calm(self) -> bool:
        return all(cell.is_calm for cell in self._cells.values() if cell.is_open)

    def _forget(self) -> None:
        self._evidence[:] = 0.0
        for cell in self._cells.values():
            cell.score, cell.is_open = 0.0, False

    def _listed(self, cells: Sequence[_Cell]) -> list[_Cell]:
        """Benjamini and Hochberg's list of this window's cells by their scores, best first; never empty."""
        ordered = sorted(cells, key=lambda c: (-c.score, c.slot))
        n = len(self._cells)
        last = 1
        for rank, cell in enumerate(ordered, 1):
            if cell.score >= -math.log10(_LIST_FDR * rank / n):
                last = rank
        return ordered[:last]

    # ------------------------------------------------------------ cells

    def _taken(
        self, whole: Sequence[CellValue], segments: Mapping[Segment, Sequence[CellValue]]
    ) -> tuple[list[CellId], list[CellValue]]:
        """Cells that can be judged; those that are new get their weight."""
        ids: list[CellId] = []
        values: list[CellValue] = []
        fresh: list[CellId] = []
        for segment, cells in _by_segment(whole, segments):
            for value in cells:
                if value.key.statistic is Statistic.VOLUME and not self._knows_volume:
                    continue
                cell = CellId(segment, value.key)
                if cell not in self._cells:
                    fresh.append(cell)
                ids.append(cell)
                values.append(value)
        if fresh:
            self._admit(fresh)
        if self._noise is None and values:
            self._noise = Noise(self.calibration, self._n_first)
        return ids, values

    def _admit(self, fresh: Sequence[CellId]) -> None:
        is_first = not self._cells
        self._n_first = self._n_first or len(fresh)
        n_whole = sum(cell.segment is None for cell in fresh)
        for cell in fresh:
            if is_first:
                of_whole = cell.segment is None
                weight = _WHOLE / n_whole if of_whole else _SEGMENTS / (len(fresh) - n_whole)
            else:  # sum of 1 / j^2 is pi^2 / 6: the reserve is never used up
                self._n_later += 1
                weight = _LATER * 6.0 / (math.pi * self._n_later) ** 2
            self._cells[cell] = _Cell(cell, weight, len(self._cells))
        new = np.zeros((len(fresh), len(_SLOPES)))
        self._evidence = np.concatenate((self._evidence, new))

    # ------------------------------------------------------------ kept

    def dump(self) -> bytes:
        """All that the next step depends on, but for the arguments of the constructor."""
        kept = _Kept(
            list(self._cells.values()),
            self._evidence.tolist(),
            self._state,
            self._n_first,
            self._n_later,
        )
        return msgspec.msgpack.encode(kept)

    def load(self, data: bytes) -> None:
        """Continue from `dump`, in place. Raises DecodeError for bytes that are not of one."""
        try:
            kept = msgspec.msgpack.decode(data, type=_Kept)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            raise DecodeError(f"change detector: {error}") from None
        n = len(kept.cells)
        if (
            len(kept.evidence) != n
            or any(len(row) != len(_SLOPES) for row in kept.evidence)
            or [cell.slot for cell in kept.cells] != list(range(n))
        ):
            raise DecodeError("change detector: cells and evidence do not match")
        self._cells = {cell.id: cell for cell in kept.cells}
        self._evidence = np.array(kept.evidence).reshape(n, len(_SLOPES))
        self._state, self._n_first, self._n_later = kept.state, kept.first, kept.later
        self._noise = None


def _by_segment(
    whole: Sequence[CellValue], segments: Mapping[Segment, Sequence[CellValue]]
) -> Iterator[tuple[Segment | None, Sequence[CellValue]]]:
    yield None, whole
    for segment in sorted(segments):
        yield segment, segments[segment]


def _score(z: float) -> float:
    """-log10 of the normal tail beyond z."""
    return -(log_normal_tail(z) if z > 0.0 else math.log(normal_tail(z))) / _LOG10


def _median(values: Iterator[float]) -> float | None:
    found = sorted(values)
    return found[len(found) // 2] if found else None

"""The state test: is a column farther from its baseline than anybody wants, however slowly it got there?

The change detector sees what changes, and may follow a slow wander; this one asks a window by itself.
The null is an interval, PSI <= limit, so that it does not fire ever more as rows grow:

    p = P(chi'^2_{B-1}(N limit) >= N PSI),   1/N = phi(n)/n + phi(m)/m

with phi from `calibration`. Where phi is of the shape without the column's location, the location's part of the PSI, its
square in deviations, counts with a phi of its own: so that a stream's own days are not held against it. Fires when two
windows of three have p <= 1 / (A K) in some of K cells; one is pending. Resolved when three in a row have none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from agent.errors import DecodeError
from agent.judge.calibration import Calibration
from agent.judge.cells import CellValue, Statistic
from agent.judge.detector import CellId, Evidence, Segment, Step
from agent.judge.noise import Noise
from agent.judge.special import noncentral_chi2_log_tail
from agent.verdict import State

#: Strict, usual, lenient.
LIMITS: Final = (0.02, 0.1, 0.25)
#: Windows that count, and how many of them must be beyond the limit.
_OF, _NEEDED = 3, 2
_LOG10: Final = math.log(10.0)
#: Evidence stated for what has no tail left to speak of.
_MOST_SCORE: Final = 300.0


class _Kept(msgspec.Struct, array_like=True):
    hits: dict[str, list[bool]]
    state: State


class StateTest:
    """Channel 3 of one model. Needs no history to be valid: uncalibrated rows count as dependent by half."""

    def __init__(
        self, calibration: Calibration, target_windows: float, *, limit: float = LIMITS[1]
    ) -> None:
        self.limit = limit
        self._target = target_windows
        self._noise = Noise(calibration, 1)
        self._hits: dict[str, list[bool]] = {}
        self._state = State.OK

    def step(
        self,
        window: int,
        whole: Sequence[CellValue],
        segments: Mapping[Segment, Sequence[CellValue]] | None = None,
    ) -> Step:
        """Judge the next window. `m` is the largest score of a cell, `threshold` what a hit needs."""
        previous = self._state
        found = []
        for segment, cells in [(None, whole), *sorted((segments or {}).items())]:
            location = {c.key.column: c for c in cells if c.key.statistic is Statistic.LOC}
            found += [
                (CellId(segment, cell.key), cell, location.get(cell.key.column))
                for cell in cells
                if cell.key.statistic is Statistic.SHAPE
            ]
        needed = math.log10(self._target * max(1, len(found)))
        hits: list[Evidence] = []
        top = 0.0
        seen = set()
        for cell_id, cell, loc in found:
            score, minimum = self._score(cell, loc)
            top = max(top, score)
            name = _name(cell_id)
            seen.add(name)
            kept = self._hits.setdefault(name, [])
            is_hit = score >= needed
            kept.append(is_hit)
            del kept[:-_OF]
            if any(kept):
                evidence = Evidence(
                    id=cell_id,
                    score=score,
                    share=0.0,
                    z=0.0,
                    effect=cell.effect,
                    minimum=minimum,
                    rows=cell.n,
                    is_back=not is_hit,
                )
                hits.append(evidence)
        for name in [n for n, kept in self._hits.items() if n not in seen and not any(kept)]:
            del self._hits[name]
        self._state = self._next(previous)
        hits.sort(key=lambda e: (-e.score, _name(e.id)))
        return Step(
            window=window,
            state=self._state,
            previous=previous,
            m=top,
            threshold=needed,
            evidence=hits if self._state in (State.PENDING, State.FIRING) else [],
        )

    def _score(self, cell: CellValue, loc: CellValue | None) -> tuple[float, float]:
        """-log10 p of one cell, and the PSI that two windows of its size would show. `loc`: of the same column, where
        it has one."""
        rows = 1.0 / self._noise.variance(cell)
        psi = math.exp(cell.x) * cell.df * (1.0 / cell.n + 1.0 / cell.m)
        found, wanders = rows * psi, 1.0
        if loc is not None:
            wanders = max(1.0, rows * self._noise.wander(cell, loc))
            found -= rows * (loc.effect / loc.spread) ** 2 * (1.0 - 1.0 / wanders)
        log_p = noncentral_chi2_log_tail(max(0.0, found), cell.df, rows * self.limit)
        # Six deviations of a noncentral chi-square above its mean.
        mean, spread = cell.df + rows * self.limit, 2.0 * (cell.df + 2.0 * rows * self.limit)
        return min(_MOST_SCORE, -log_p / _LOG10), (mean + 6.0 * math.sqrt(spread)) / rows * wanders

    def _next(self, previous: State) -> State:
        if any(sum(kept) >= _NEEDED for kept in self._hits.values()):
            return State.FIRING
        if any(any(kept) for kept in self._hits.values()):
            return State.FIRING if previous is State.FIRING else State.PENDING
        return State.RESOLVED if previous is State.FIRING else State.OK

    def dump(self) -> bytes:
        """All that the next step depends on, but for the arguments of the constructor."""
        return msgspec.msgpack.encode(_Kept(self._hits, self._state))

    def load(self, data: bytes) -> None:
        """Continue from `dump`, in place. Raises DecodeError for bytes that are not of one."""
        try:
            kept = msgspec.msgpack.decode(data, type=_Kept)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            raise DecodeError(f"state test: {error}") from None
        self._hits, self._state = kept.hits, kept.state


def _name(cell: CellId) -> str:
    """A cell as a key that sorts and is kept."""
    return msgspec.json.encode(cell).decode()

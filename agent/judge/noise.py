"""How far each cell of a window is from what noise makes of it: a window's cells to numbers of deviations.

The variance of a cell is phi(n)/n from the window's rows and phi(m)/m from the baseline's (`calibration`
has phi). The second part is the same in every window that is judged against this baseline: chance that
does not average out, and that evidence which adds up would take for a change. So its share is set
aside as a `margin`, wide enough for the worst of all cells.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from agent.judge.calibration import Calibration, CellNoise, without_location
from agent.judge.cells import LOG_RATIOS, TOLERANCE, CellKey, CellValue, Statistic, unseen_z
from agent.judge.special import normal_quantile, spread_chi2_z

Floats = NDArray[np.float64]
#: Chance that chance in the baseline exceeds the margin of any cell.
_MARGIN_RISK: Final = 0.05
#: Blocks that say how a location wanders; fewer have seen too little of it to explain what is far.
_LONG_HISTORY: Final = 256
#: phi of cells that were never calibrated: half again what independent rows show.
_UNKNOWN_PHI: Final = 1.5


@dataclass(frozen=True, slots=True, eq=False)
class Deviations:
    """One entry for each cell; float64[k] where not said otherwise.

    z       deviations from the baseline: signed for cells with two sides, else positive is more
    past    deviations beyond tolerance and margin; |z| less both for cells with two sides
    two     bool[k], whether both directions count
    minimum  effect that two windows of this size would show: tolerance, margin and six errors
    """

    z: Floats
    past: Floats
    two: NDArray[np.bool_]
    minimum: Floats


class Noise:
    """The noise of a model's cells, ready to be asked about windows. Pure: it holds no state."""

    def __init__(self, calibration: Calibration, n_cells: int) -> None:
        self.calibration = calibration
        self._cells = {cell.key: cell for cell in calibration.cells}
        self._reach = normal_quantile(math.log(_MARGIN_RISK / 2.0 / max(1, n_cells)))
        self._unknown = _unknown(calibration)

    def deviations(self, values: Sequence[CellValue]) -> Deviations:
        """Of cells in the order given; a volume must have been calibrated."""
        k = len(values)
        z, past, minimum, lasting = np.zeros(k), np.zeros(k), np.zeros(k), np.ones(k)
        two = np.zeros(k, np.bool_)
        shapes: list[int] = []
        terms: list[tuple[float, float, float, float, float]] = []
        for i, (whole, rest) in enumerate(zip(values, without_location(values), strict=True)):
            noise = self._of(whole.key)
            cell = rest if noise.repeats else whole
            statistic = cell.key.statistic
            tolerance = TOLERANCE[statistic]
            if statistic is Statistic.VOLUME:
                sd = math.sqrt(noise.phi[0])
                two[i] = True
                z[i] = (cell.x - noise.rate) / sd
                past[i] = abs(z[i]) - tolerance / sd
                minimum[i] = tolerance + 6.0 * sd
                continue
            if statistic is Statistic.PAIRS:  # noise, margin and tolerance of each pair are in x
                z[i] = past[i] = cell.x
                minimum[i] = tolerance + 6.0 * cell.spread / math.sqrt(cell.n)
                continue
            phi_n = noise.phi_at(cell.n)
            if statistic is Statistic.UNSEEN:
                good_turing = (cell.df + 3.0 * math.sqrt(cell.df + 1.0)) / cell.m
                rate = max(noise.rate, good_turing)
                z[i] = past[i] = unseen_z(cell.effect * cell.n, cell.n, rate, phi_n)
                minimum[i] = tolerance + rate + 6.0 * math.sqrt(rate * phi_n / cell.n)
                continue
            own, theirs = phi_n / cell.n, self._of_baseline(noise, cell.m)
            total = own + theirs
            lasting[i] = math.sqrt(noise.lasting_at(cell.n))
            if statistic in LOG_RATIOS:
                by_chance = total * (cell.df if statistic is Statistic.SHAPE else cell.spread**2)
                shapes.append(i)
                at_one = (1.0 / cell.n + 1.0 / cell.m) / total
                ratio = math.exp(cell.x) * at_one
                allowed = 1.0 + tolerance / by_chance
                terms.append((ratio, allowed, cell.df, noise.spread_at(cell.n), theirs / total))
                # A ratio of 1 + 6 sqrt(2 / df) is six deviations.
                minimum[i] = tolerance + 6.0 * lasting[i] * math.sqrt(2.0 / cell.df) * by_chance
                continue
            two[i] = True
            margin = self._reach * math.sqrt(theirs / total)
            error = cell.spread * math.sqrt(total)
            if statistic is Statistic.LOC:
                z[i] = cell.effect / error
                past[i] = abs(z[i]) - math.hypot(tolerance / error, margin)
            else:  # x has the tolerance taken off and the baseline's error in it
                z[i] = cell.x / math.sqrt(total / (1.0 / cell.n + 1.0 / cell.m))
                past[i] = abs(z[i]) - margin
            minimum[i] = math.hypot(tolerance, margin * error) + 6.0 * lasting[i] * error
        if shapes:
            ratio, allowed, df, spread, share = np.array(terms).T
            at = np.array(shapes)
            z[at] = spread_chi2_z(ratio, df, spread)
            past[at] = spread_chi2_z(ratio / allowed, df, spread) - self._reach * share
        return Deviations(z, past / lasting, two, minimum)

    def variance(self, cell: CellValue) -> float:
        """phi(n)/n + phi(m)/m: one over the independent rows that window and baseline are worth together."""
        noise = self._of(cell.key)
        return noise.phi_at(cell.n) / cell.n + self._of_baseline(noise, cell.m)

    def wander(self, shape: CellValue, loc: CellValue) -> float:
        """Variance of a column's location in its own deviations, where the noise of the column's shape is without it;
        0 where it is not, or where history is too short to say."""
        if not self._of(shape.key).repeats or self.calibration.windows < _LONG_HISTORY:
            return 0.0
        return self.variance(loc)

    def _of_baseline(self, noise: CellNoise, m: float) -> float:
        """phi(m)/m; of a baseline of separate stretches each is as noisy as a window of its size."""
        return noise.phi_at(min(m, self.calibration.together or m)) / m

    def _of(self, key: CellKey) -> CellNoise:
        return self._cells.get(key) or self._unknown[key.statistic]


def _unknown(calibration: Calibration) -> dict[Statistic, CellNoise]:
    """For cells that history did not have: the noisiest of their statistic that it had."""
    found = {}
    for statistic in Statistic:
        held = [c for c in calibration.cells if c.key.statistic is statistic]
        worst = max(held, key=lambda c: c.phi[-1]) if held else None
        key = CellKey(None, statistic)
        found[statistic] = (
            CellNoise(key, worst.sizes, worst.phi, worst.spread, 0.0, worst.repeats)
            if worst is not None
            else CellNoise(key, [1.0], [_UNKNOWN_PHI], [0.0], 0.0)
        )
    return found

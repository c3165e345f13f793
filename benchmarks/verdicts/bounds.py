"""Shown distances against the exact ones of the raw values: how many lie outside of their certified bounds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agent.judge.drift_shown import Distance, numeric_distances
from agent.judge.numeric_cells import NumericBaseline
from benchmarks.frame import CannotRun
from benchmarks.verdicts.windows import numbers_of

Floats = NDArray[np.float64]
Rng = np.random.Generator

SHAPES: Final[dict[str, Callable[[Rng, int], Floats]]] = {
    "normal": lambda r, n: r.normal(size=n),
    "normal, far from zero": lambda r, n: r.normal(1000.0, 1.0, n),
    "normal, below zero": lambda r, n: r.normal(-40.0, 15.0, n),
    "lognormal(2)": lambda r, n: np.exp(2.0 * r.normal(size=n)),
    "lognormal(5)": lambda r, n: np.exp(5.0 * r.normal(size=n)),
    "t5": lambda r, n: r.standard_t(5, n),
    "cauchy": lambda r, n: r.standard_cauchy(n),
    "pareto": lambda r, n: r.pareto(1.5, n) + 1.0,
    "exponential": lambda r, n: r.exponential(3.0, n),
    "uniform": lambda r, n: r.random(n),
    "zero-inflated": lambda r, n: np.where(r.random(n) < 0.7, 0.0, np.exp(r.normal(size=n))),
    "counts": lambda r, n: r.poisson(4.0, n).astype(float),
    "beta(.1, .1)": lambda r, n: r.beta(0.1, 0.1, n),
    "either side of zero": lambda r, n: r.choice([-1.0, 1.0], n) * r.uniform(5.0, 10.0, n),
    "outliers": lambda r, n: r.normal(1000.0, 1.0, n) * np.where(r.random(n) < 0.001, 1e6, 1.0),
}
#: Rows of baseline and window.
SIZES: Final = ((100, 100), (1_000, 4_000), (20_000, 5_000), (100_000, 10_000))
#: What becomes of the window.
CHANGES: Final[tuple[Callable[[Floats], Floats], ...]] = (
    lambda x: x,
    lambda x: x + 0.3 * x.std(),
    lambda x: x * 1.3,
)
#: Both sides of a comparison are rounded.
_ROUNDING: Final = 1e-9


class Compared(NamedTuple):
    """One distance of one pair of samples. `used`: how much of the bound on its side the exact value takes,
    0 where the bound leaves no room and it needs none."""

    metric: str
    used: float
    is_outside: bool


@dataclass
class Held:
    """All comparisons of one distance."""

    n: int = 0
    outside: int = 0
    most_used: float = 0.0

    def take(self, one: Compared) -> None:
        self.n += 1
        self.outside += one.is_outside
        self.most_used = max(self.most_used, one.used)


def bounds_held(repeats: int, seed: int, sizes: int = len(SIZES)) -> dict[str, Held]:
    """By distance, over all shapes, the first of the sizes, changes, and so many draws. Raises CannotRun."""
    found: dict[str, Held] = {}
    rng = np.random.default_rng(seed)
    for make in SHAPES.values():
        for n_baseline, n_window in SIZES[:sizes]:
            for change in CHANGES:
                for _ in range(repeats):
                    baseline, window = make(rng, n_baseline), change(make(rng, n_window))
                    for one in compared(baseline, window):
                        found.setdefault(one.metric, Held()).take(one)
    return found


def compared(baseline: Floats, window: Floats) -> Iterator[Compared]:
    """Each shown distance of two samples against the one that scipy, or numpy, finds in their values."""
    a, b = numbers_of(baseline), numbers_of(window)
    base = NumericBaseline.at(a, min(a.scale, b.scale))
    exact = exact_distances(baseline, window)
    for shown in numeric_distances(base, b):
        if shown.metric in exact:
            yield _against(shown, exact[shown.metric])


def exact_distances(baseline: Floats, window: Floats) -> dict[str, float]:
    """Of the values themselves. Raises CannotRun without scipy."""
    try:
        from scipy import stats  # type: ignore[import-untyped]
    except ImportError:
        raise CannotRun("scipy is not installed; install requirements-bench.lock") from None
    pairs = len(window) * len(baseline)
    return {
        "ks": float(stats.ks_2samp(baseline, window, method="asymp").statistic),
        "wasserstein": float(stats.wasserstein_distance(baseline, window)),
        "auc": float(stats.mannwhitneyu(window, baseline, method="asymptotic").statistic) / pairs,
    }


def _against(shown: Distance, exact: float) -> Compared:
    slack = _ROUNDING * max(1.0, abs(exact))
    is_outside = not shown.low - slack <= exact <= shown.high + slack
    room = shown.high - shown.value if exact > shown.value else shown.value - shown.low
    off = abs(exact - shown.value)
    used = 0.0 if off <= slack else off / room if room > 0.0 else float("inf")
    return Compared(shown.metric, used, is_outside)

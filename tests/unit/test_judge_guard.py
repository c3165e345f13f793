"""The replay guard: quiet history costs nothing, history that would have paged does."""

from __future__ import annotations

from functools import reduce

import numpy as np

from agent.judge.calibration import Calibration, calibrate
from agent.judge.cells import Prepared
from agent.judge.counted import Counted, merged
from agent.judge.guard import MOST_GUARD, guarded
from benchmarks.verdicts.windows import counted_of


def judged(means: list[float], rows: int = 300) -> Calibration:
    rng = np.random.default_rng(1)
    blocks: list[Counted] = [
        counted_of({"x": rng.normal(mean, 1.0, rows), "y": rng.normal(size=rows)}) for mean in means
    ]
    return guarded(calibrate(Prepared(reduce(merged, blocks)), blocks), blocks)


def test_quiet_history_leaves_the_budget_as_it_is() -> None:
    assert judged([0.0] * 128).guard == 1.0


def test_history_with_a_change_inside_raises_the_threshold_by_a_bounded_factor() -> None:
    assert judged([0.0] * 64 + [1.0] * 64).guard == MOST_GUARD


def test_short_history_is_not_replayed() -> None:
    assert judged([0.0] * 8 + [1.0] * 8).guard == 1.0

"""The demo's model: will this flight arrive more than 15 minutes late?

Trained on every fourth flight of the first eight weeks, then served all year, as a team would that
started in March with two months of history. So in those eight weeks a quarter of the served rows
were seen in training; summer is out of sample in every sense, and that drift is real.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import numpy as np

from agent.demo.flights import CATEGORICAL, DAY_MS, FEATURES, YEAR_START_MS, Flights

if TYPE_CHECKING:
    from numpy.typing import NDArray

NAME: Final = "flight-delay"
VERSION: Final = "1"
CANARY_VERSION: Final = "2"
TRAIN_DAYS: Final = 56
TRAIN_EVERY: Final = 4


class DelayModel:
    """Gradient boosted trees; holes in the weather are an ordinary input to them."""

    def __init__(self, flights: Flights, *, seed: int = 0, balanced: bool = False) -> None:
        """Train; about 0.2 s. The threshold makes as many flights late as really were.

        balanced: weigh late flights up to as much as the others, and forget to calibrate afterwards: scores
        are far too high. A mistake that offline ranking metrics do not show.
        """
        from sklearn.ensemble import HistGradientBoostingClassifier

        inputs = flights.matrix()
        known = (flights.lands_ms >= 0) & (flights.departs_ms < YEAR_START_MS + TRAIN_DAYS * DAY_MS)
        chosen = known & (np.arange(len(flights)) % TRAIN_EVERY == 0)
        self._trees = HistGradientBoostingClassifier(
            max_iter=80,
            max_leaf_nodes=15,
            min_samples_leaf=50,
            l2_regularization=1.0,
            categorical_features=[name in CATEGORICAL for name in FEATURES],
            class_weight="balanced" if balanced else None,
            random_state=seed,
        ).fit(inputs[chosen], flights.is_late[chosen])
        held_out = known & ~chosen
        scores = self._trees.predict_proba(inputs[held_out])[:, 1]
        late_share = float(flights.is_late[held_out].mean())
        self.threshold = float(np.quantile(scores, 1.0 - late_share))

    def predict(self, inputs: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
        """Probability of being late for float64[n, features], and the seconds the call took."""
        started = time.perf_counter()
        scores = self._trees.predict_proba(inputs)[:, 1]
        return np.asarray(scores, np.float64), time.perf_counter() - started

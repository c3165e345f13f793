"""When to try again: exponential pauses with jitter, never sooner than the receiver asked."""

from __future__ import annotations

import random
from collections.abc import Callable


class Backoff:
    """State of retries against one receiver; survives from one export to the next."""

    def __init__(
        self,
        initial_s: float,
        max_s: float,
        *,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._initial_s = initial_s
        self._max_s = max_s
        self._uniform = uniform
        self._n_failures = 0
        self.not_before = 0.0  # clock time before which nothing should be sent

    def failed(self, now: float, retry_after_s: float | None) -> float:
        """Note a transient failure; returns and sets the clock time of the next try.

        Pauses double from `initial_s` to `max_s`; jitter takes away up to half, so that a fleet
        that failed together does not come back together.
        """
        pause_s = min(self._max_s, self._initial_s * 2.0 ** min(self._n_failures, 30))
        pause_s = max(self._uniform(pause_s / 2, pause_s), retry_after_s or 0.0)
        self._n_failures += 1
        self.not_before = now + pause_s
        return self.not_before

    def succeeded(self) -> None:
        """The receiver answered: begin from the shortest pause again."""
        self._n_failures = 0
        self.not_before = 0.0

"""Log lines about failures that go on: at most one every ten seconds of each kind."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

EVERY_S = 10.0


class Complaints:
    """Says a thing once, then counts it in silence, and says how often when it is due again."""

    def __init__(self, log: logging.Logger, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self._said: dict[str, tuple[float, int]] = {}

    def say(self, kind: str, message: str) -> None:
        """Log `message` as a warning unless one of this `kind` was logged in the last ten seconds."""
        now = self._clock()
        last, silent = self._said.get(kind, (now - EVERY_S, 0))
        if now - last < EVERY_S:
            self._said[kind] = (last, silent + 1)
            return
        more = f" ({silent} more like it since)" if silent else ""
        self._said[kind] = (now, 0)
        self._log.warning("%s%s", message, more)

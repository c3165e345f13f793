"""Says a lasting state at most every so often."""

import time
from collections.abc import Callable

#: Different things remembered; past it all may be said again.
_MAX_THINGS = 100


class Announcer:
    """Decides whether a message about `what` is due."""

    def __init__(self, every_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._every_s = every_s
        self._clock = clock
        self._said_at: dict[str, float] = {}

    def may_say(self, what: str) -> bool:
        """True when `what` was not said in the last `every_s` seconds; then it counts as said."""
        now = self._clock()
        said_at = self._said_at.get(what)
        if said_at is not None and now - said_at < self._every_s:
            return False
        if len(self._said_at) >= _MAX_THINGS:
            self._said_at.clear()
        self._said_at[what] = now
        return True

    def forget(self, what: str) -> None:
        """The state is over: the next one is said at once."""
        self._said_at.pop(what, None)

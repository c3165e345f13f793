"""Room: who is judged while memory for judging lasts, and what is known of those that are not.

Invariants
1. Models are charged by what they hold, by estimate (`sizes`), and while they learn by what they will need; the sum
   never exceeds the limit for longer than the input that made a model grow past it.
2. Declared models come first: for one of them others are let go, the youngest first. Nothing else lets a judged
   model go, but that models that are judged grow.
3. Who is refused may ask again after RETRY_WINDOWS, for what it then turned out to need: nobody comes and goes.
4. A function of inputs in their order; `restore(kept())` continues the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from agent.judge.reference import ModelKey

RETRY_WINDOWS: Final = 10
#: Refused models that are known by name, some 300 bytes each; further ones are counted only.
MOST_REFUSED: Final = 2_000


class Refused(msgspec.Struct, array_like=True):
    """A model that is not judged: since which window, when it was last heard of, when it may ask again, for what."""

    since: int
    last: int
    next: int
    asked_bytes: int


class RoomKept(msgspec.Struct, array_like=True):
    charges: list[tuple[ModelKey, int]]
    refused: list[tuple[ModelKey, Refused]]


class Room:
    """See the module. One owner, the judge."""

    def __init__(self, limit_bytes: int, is_declared: Callable[[ModelKey], bool]) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self.refused: dict[ModelKey, Refused] = {}
        self._is_declared = is_declared
        self._charges: dict[ModelKey, int] = {}  # oldest first

    def charge_of(self, key: ModelKey) -> int:
        """Bytes that a judged model is charged with."""
        return self._charges.get(key, 0)

    def charge(self, key: ModelKey, size_bytes: int) -> None:
        """A model that is judged holds so much now, or is going to."""
        self.used_bytes += size_bytes - self._charges.get(key, 0)
        self._charges[key] = size_bytes

    def release(self, key: ModelKey) -> None:
        """A model is judged no more."""
        self.used_bytes -= self._charges.pop(key, 0)

    def may_ask(self, key: ModelKey, window: int) -> bool:
        """Whether a model that is not judged may be again in this window."""
        known = self.refused.get(key)
        return known is None or window >= known.next

    def asks(self, key: ModelKey, size_bytes: int) -> list[ModelKey] | None:
        """Whom to let go so that a new model fits; None: it does not."""
        known = self.refused.get(key)
        size_bytes = max(size_bytes, known.asked_bytes if known is not None else 0)
        over = self.used_bytes + size_bytes - self.limit_bytes
        found: list[ModelKey] = []
        if over > 0 and not self._is_declared(key):
            return None
        for other in reversed(self._charges):
            if over <= 0:
                break
            if not self._is_declared(other):
                found.append(other)
                over -= self._charges[other]
        return found if over <= 0 else None

    def beyond(self) -> list[ModelKey]:
        """Whom to let go, now that models have grown past the limit: the youngest that nobody declared, then of the
        others."""
        over, found = self.used_bytes - self.limit_bytes, []
        if over <= 0:
            return []
        youngest = list(reversed(self._charges))
        for key in sorted(youngest, key=self._is_declared):
            if over <= 0:
                break
            found.append(key)
            over -= self._charges[key]
        return found

    def admit(self, key: ModelKey) -> bool:
        """A model is judged from now on; whether it had been refused."""
        return self.refused.pop(key, None) is not None

    def refuse(self, key: ModelKey, window: int, asked_bytes: int) -> bool:
        """A model is not judged in this window; whether that is news to be told."""
        known = self.refused.get(key)
        if known is None:
            if len(self.refused) < MOST_REFUSED:
                next = window + RETRY_WINDOWS
                self.refused[key] = Refused(window, window, next, asked_bytes)
                return True
            return False
        known.last = window
        if window >= known.next:
            known.next = window + RETRY_WINDOWS
            known.asked_bytes = max(known.asked_bytes, asked_bytes)
        return False

    def forget(self, before: int) -> None:
        """Refused models that were not heard of since this window are gone."""
        gone = [key for key, known in self.refused.items() if known.last < before]
        for key in gone:
            del self.refused[key]

    def kept(self) -> RoomKept:
        """All there is, to go on from."""
        return RoomKept(list(self._charges.items()), list(self.refused.items()))

    def restore(self, kept: RoomKept) -> None:
        """Go on from `kept`, in place, whether it fits or not."""
        self._charges = dict(kept.charges)
        self.used_bytes = sum(self._charges.values())
        self.refused = dict(kept.refused)

"""What memory mode may count again: rows in [C, R) of each assignment that ended without a clean hand-over.

C is what was committed when it ended, R how far it had been read. R is not seen from outside; it is at most
the end of the log by then. Partitions of agents that lived on are within the bound, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from tests.chaos.ledger import Account, Ledger

Offsets = Mapping[int, int]


class _Range(NamedTuple):
    since: Offsets
    until: Offsets | None
    times: int


class Repeats:
    """Of one round, over the rows of `ledger`."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._ranges: list[_Range] = []
        self._settled = Account()

    def allow(self, since: Offsets, until: Offsets | None = None, times: int = 1) -> None:
        """Rows from `since` to `until` may be counted again, so often. None: to the last one of the round."""
        self._ranges.append(_Range(since, until, times))

    def settle(self) -> None:
        """Look up the rows, while the topic is there. Behind `hold`: those that were on their way have come."""
        for since, until, times in self._ranges:
            account = self._ledger.between(since, self._ledger.ends() if until is None else until)
            for key, n in account.of.items():
                self._settled.of[key] += times * n
        self._ranges.clear()

    def take(self) -> Account:
        """All that was allowed since the last time."""
        self.settle()
        allowed, self._settled = self._settled, Account()
        return allowed

"""Space-saving, set-associative, with Python dicts: 16 sets of 8 keys, a key's low four bits choose its set.

Metwally, Agrawal, El Abbadi (ICDT 2005), in each set by itself. Deterministic: of equal counts a key whose
text is not kept goes first, then the one that lies in the set's first place.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

SETS, WAYS = 16, 8


@dataclass
class Entry:
    """count - over <= true count <= count."""

    key: int
    count: int
    over: int
    has_text: bool


@dataclass
class Table:
    """A set is a list of at most 8 entries, each in the place it was put in."""

    sets: list[list[Entry]] = field(default_factory=lambda: [[] for _ in range(SETS)])

    def add(self, key: int) -> None:
        """Count one key."""
        ways = self.sets[key % SETS]
        for entry in ways:
            if entry.key == key:
                entry.count += 1
                entry.has_text = True
                return
        if len(ways) < WAYS:
            ways.append(Entry(key, 1, 0, True))
            return
        at = min(range(WAYS), key=lambda i: (ways[i].count, ways[i].has_text, i))
        least = ways[at].count
        ways[at] = Entry(key, least + 1, least, False)

    def least(self, number: int) -> int:
        """A key of this set that is not in it has occurred at most so often."""
        ways = self.sets[number]
        return min(entry.count for entry in ways) if len(ways) == WAYS else 0

    def entries(self) -> dict[int, tuple[int, int]]:
        """(count, overestimate) by key."""
        return {entry.key: (entry.count, entry.over) for ways in self.sets for entry in ways}


def table_of(keys: Iterable[int]) -> Table:
    """The table after these keys, in order."""
    table = Table()
    for key in keys:
        table.add(key)
    return table


def merged(a: Table, b: Table) -> dict[int, tuple[int, int]]:
    """(count, overestimate) by key of both together: bounds add, each set keeps the 8 largest counts.

    Agarwal et al. (PODS 2012). Of equal counts the smaller key stays.
    """
    out: dict[int, tuple[int, int]] = {}
    for number in range(SETS):
        sides = [
            ({e.key: (e.count, e.over) for e in table.sets[number]}, table.least(number))
            for table in (a, b)
        ]
        both = {}
        for key in {key for entries, _ in sides for key in entries}:
            parts = [entries.get(key, (least, least)) for entries, least in sides]
            both[key] = (sum(c for c, _ in parts), sum(o for _, o in parts))
        kept = sorted(both, key=lambda key: (-both[key][0], key))[:WAYS]
        out.update({key: both[key] for key in kept})
    return out

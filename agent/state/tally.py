"""The tally of a chunk, or of all of them, as it is written in a header."""

from __future__ import annotations

from collections import Counter

import msgspec

from agent.types import Tally


class WrittenTally(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """A `Tally` in the order of its fields: they are added at the end alone."""

    records: int
    events: int
    rows: int
    labels: int
    size_bytes: int
    rows_by_tier: dict[str, int]
    dropped: dict[str, int]
    irregular: dict[str, int]
    labels_by_model: dict[str, int]

    @staticmethod
    def of(tally: Tally) -> WrittenTally:
        return WrittenTally(
            tally.records,
            tally.events,
            tally.rows,
            tally.labels,
            tally.size_bytes,
            dict(tally.rows_by_tier),
            dict(tally.dropped),
            dict(tally.irregular),
            dict(tally.labels_by_model),
        )

    def tally(self) -> Tally:
        return Tally(
            records=self.records,
            events=self.events,
            rows=self.rows,
            labels=self.labels,
            size_bytes=self.size_bytes,
            rows_by_tier=Counter(self.rows_by_tier),
            dropped=Counter(self.dropped),
            irregular=Counter(self.irregular),
            labels_by_model=Counter(self.labels_by_model),
        )

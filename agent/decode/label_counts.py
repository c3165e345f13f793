"""Counting the labels of many rows at once: by stream in a kernel, and much later by the name of their model.

Invariants
 1. What has been counted goes into a tally at the end of the fetch, or at a cut before that: names cost
    more than rows do.
 2. It outlives the streams: of a table that is cleared meanwhile nothing is lost.
"""

from __future__ import annotations

import numpy as np

from agent.decode.events import JsonDecoder
from agent.decode.lanes import StreamTable
from agent.types import Tally


class LabelCounts:
    """Labels of each stream of one stream table since they were taken last.

    address     of int64[streams], added to by `close_rows`; changes with `fit`
    is_pending  set by who counts
    """

    def __init__(self) -> None:
        self.is_pending = False
        self._models: list[str] = []  # of each stream
        self._names: list[str] = []  # that its labels are counted by; "" not asked for yet
        self._earlier: dict[str, int] = {}  # labels of streams that are no more, by model
        self._resize(64)

    def _resize(self, n: int) -> None:
        self._counts = np.zeros(n, np.int64)
        self.address: int = self._counts.ctypes.data

    def fit(self, table: StreamTable) -> None:
        """Make room for all streams of the table."""
        known = len(self._models)
        if len(table.keys) == known:
            return
        self._models += [key.model for key in table.keys[known:]]
        self._names += [""] * (len(self._models) - known)
        if len(self._models) > len(self._counts):
            counts = self._counts
            self._resize(2 * len(self._models))
            self._counts[: len(counts)] = counts

    def forget_streams(self) -> None:
        """The stream table was cleared."""
        earlier = self._earlier
        for stream, n in self._counted():
            model = self._models[stream]
            earlier[model] = earlier.get(model, 0) + n
        self._models.clear()
        self._names.clear()

    def take(self, json: JsonDecoder, tally: Tally) -> None:
        """Move what has been counted into the tally, under the names that labels are counted by. O(streams)."""
        if not self.is_pending:
            return
        self.is_pending = False
        labels, names = tally.labels_by_model, self._names
        get = labels.get
        for stream, n in self._counted():
            name = names[stream]
            if not name:
                name = names[stream] = json.label_name(self._models[stream])
            labels[name] = get(name, 0) + n
        for model, n in self._earlier.items():
            labels[json.label_name(model)] += n
        self._earlier.clear()

    def _counted(self) -> list[tuple[int, int]]:
        """Streams with labels, and how many; all counts are then 0."""
        counts = self._counts[: len(self._models)]
        streams = counts.nonzero()[0]
        found = list(zip(streams.tolist(), counts[streams].tolist(), strict=True))
        counts[:] = 0
        return found

"""Counting the labels of many rows at once: by stream in a kernel, then by the name of their model."""

from __future__ import annotations

import numpy as np

from agent.decode.events import JsonDecoder
from agent.decode.lanes import StreamTable
from agent.types import Tally


class LabelCounts:
    """Labels of each stream, and which name they are counted by. Belongs to one generation of a stream table.

    address   of int64[streams], added to by `close_rows` and emptied by `take`; changes with `fit`
    """

    def __init__(self) -> None:
        self._names: list[str] = []
        self._index: dict[str, int] = {}
        self._resize(64)

    def _resize(self, n: int) -> None:
        self._counts = np.zeros(n, np.int64)
        self.address: int = self._counts.ctypes.data
        self._name_of = np.full(n, -1, np.int32)

    def fit(self, table: StreamTable) -> None:
        """Make room for all streams of the table. All labels have been taken."""
        if len(table.keys) > len(self._counts):
            known = self._name_of
            self._resize(2 * len(table.keys))
            self._name_of[: len(known)] = known

    def take(self, json: JsonDecoder, table: StreamTable, tally: Tally) -> None:
        """Move what has been counted into the tally, by name. O(streams)."""
        n = len(table.keys)
        streams = self._counts[:n].nonzero()[0]
        numbers = self._name_of[streams]
        if int(numbers.min()) < 0:
            for stream in streams[numbers < 0].tolist():
                name = json.label_name(table.keys[stream].model)
                self._name_of[stream] = self._index.setdefault(name, len(self._names))
                if self._name_of[stream] == len(self._names):
                    self._names.append(name)
            numbers = self._name_of[streams]
        counts = np.zeros(len(self._names), np.int64)
        np.add.at(counts, numbers, self._counts[streams])
        self._counts[:n] = 0
        found = counts.nonzero()[0].tolist()
        names = [self._names[number] for number in found]
        tally.labels_by_model.update(dict(zip(names, counts[found].tolist(), strict=True)))

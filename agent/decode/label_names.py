"""Counting the labels of many rows at once, by the name of their model."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agent.decode.events import JsonDecoder
from agent.decode.lanes import StreamTable
from agent.types import Tally


class LabelNames:
    """Which name the labels of each stream are counted by. Belongs to one generation of a stream table."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._index: dict[str, int] = {}
        self._of_stream = np.zeros(0, np.int32)

    def count(
        self, streams: NDArray[np.int32], json: JsonDecoder, table: StreamTable, tally: Tally
    ) -> None:
        """Add one label for each of these rows, given by stream. O(rows + names)."""
        names = self._of_stream
        if len(names) < len(table.keys):
            names = np.full(2 * len(table.keys), -1, np.int32)
            names[: len(self._of_stream)] = self._of_stream
            self._of_stream = names
        numbers = names[streams]
        if int(numbers.min()) < 0:
            for stream in np.unique(streams[numbers < 0]).tolist():
                names[stream] = self._number(json.label_name(table.keys[stream].model))
            numbers = names[streams]
        counts = np.bincount(numbers)
        found = np.flatnonzero(counts)
        found_names = [self._names[number] for number in found.tolist()]
        tally.labels += len(streams)
        tally.labels_by_model.update(dict(zip(found_names, counts[found].tolist(), strict=True)))

    def _number(self, name: str) -> int:
        number = self._index.get(name)
        if number is None:
            number = self._index[name] = len(self._names)
            self._names.append(name)
        return number

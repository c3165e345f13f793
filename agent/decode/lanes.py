"""Which stream is which number, and which lane of its rows holds which (column, JSON type).

Invariants
 1. Stream numbers and lanes are append-only between two `clear()`s, so blocks made earlier stay right.
 2. One table belongs to one kernel thread. It is a cache: clearing it costs only learning again.
 3. Lanes of a stream are bounded by `max_lanes`: a producer that invents names for ever costs counts, not memory.
"""

from __future__ import annotations

from agent.types import Column, JsonType, StreamKey

Segment = tuple[tuple[str, str], ...]


class ColumnLanes:
    """The lanes of one column of one stream; -1 where a type has not been seen.

    `is_code`: declared categorical, so numbers and booleans are taken as their JSON text.
    `bounds`: declared (min, max), None when there is none.
    `inner`: columns below, by wire name, when the value has been an object.
    """

    __slots__ = (
        "boolean",
        "bounds",
        "column",
        "first",
        "first_is_string",
        "inner",
        "is_code",
        "number",
        "other",
        "string",
        "vector",
    )

    def __init__(
        self, column: Column, is_code: bool = False, bounds: tuple[float, float] | None = None
    ) -> None:
        self.column = column
        self.is_code = is_code
        self.bounds = bounds
        self.number = -1
        self.boolean = -1
        self.string = -1
        self.vector = -1
        self.other = -1
        self.first = -1  # lane that takes the NULL marker
        self.first_is_string = False
        self.inner: dict[str, ColumnLanes] = {}


class StreamLanes:
    """One stream: its number, key, and columns by role and wire name.

    `is_ambiguous`: two spellings lead to one column (`{"a":{"b":1}}` and `{"a.b":1}`, or names that
    were cut), so rows must be flattened before they are read.
    """

    __slots__ = ("columns", "features", "idx", "is_ambiguous", "key", "predictions", "usage")

    def __init__(self, idx: int, key: StreamKey) -> None:
        self.idx = idx
        self.key = key
        self.features: dict[str, ColumnLanes] = {}
        self.predictions: dict[str, ColumnLanes] = {}
        self.usage: dict[str, ColumnLanes] = {}
        self.columns: dict[Column, ColumnLanes] = {}
        self.is_ambiguous = False


class StreamTable:
    """Streams and their lanes.

    keys            StreamKey of each stream
    numeric_lanes   per stream, (column, type) of each lane of `Block.numbers`
    string_lanes    per stream, column of each lane of `Block.string_*`
    numeric_width, string_width   lanes of the widest stream
    size            columns and lanes of all streams: about 0.5 kB each
    """

    def __init__(self) -> None:
        self.keys: list[StreamKey] = []
        self.numeric_lanes: list[list[tuple[Column, JsonType]]] = []
        self.string_lanes: list[list[Column]] = []
        self.numeric_width = 0
        self.string_width = 0
        self.size = 0
        self.streams: list[StreamLanes] = []
        self._index: dict[tuple[str, str, Segment], StreamLanes] = {}

    def intern(self, key: StreamKey) -> int:
        """The number of this stream; a new one when it is new."""
        return self.stream(*key).idx

    def stream(self, model: str, version: str, segment: Segment) -> StreamLanes:
        """The same, as the lanes to write to."""
        # A tuple equals a StreamKey of the same parts, so the common case makes no StreamKey.
        found = self._index.get((model, version, segment))
        if found is None:
            key = StreamKey(model, version, segment)
            found = StreamLanes(len(self.keys), key)
            self._index[key] = found
            self.keys.append(key)
            self.streams.append(found)
            self.numeric_lanes.append([])
            self.string_lanes.append([])
        return found

    def add_numeric(self, stream: StreamLanes, column: ColumnLanes, kind: JsonType) -> int:
        """A new lane of `Block.numbers` for this column and type."""
        lanes = self.numeric_lanes[stream.idx]
        lane = len(lanes)
        lanes.append((column.column, kind))
        self.size += 1
        self.numeric_width = max(self.numeric_width, lane + 1)
        if kind is JsonType.NUMBER:
            column.number = lane
        elif kind is JsonType.BOOLEAN:
            column.boolean = lane
        elif kind is JsonType.VECTOR:
            column.vector = lane
        else:
            column.other = lane
        if column.first < 0:
            column.first = lane
        return lane

    def add_string(self, stream: StreamLanes, column: ColumnLanes) -> int:
        """A new lane of `Block.string_*` for this column."""
        lanes = self.string_lanes[stream.idx]
        lane = len(lanes)
        lanes.append(column.column)
        self.size += 1
        self.string_width = max(self.string_width, lane + 1)
        column.string = lane
        if column.first < 0:
            column.first = lane
            column.first_is_string = True
        return lane

    def n_lanes(self, stream: StreamLanes) -> int:
        return len(self.numeric_lanes[stream.idx]) + len(self.string_lanes[stream.idx])

    def clear(self) -> None:
        """Forget all streams. Only at a cut, when no block that uses the table is left."""
        self.keys.clear()
        self.numeric_lanes.clear()
        self.string_lanes.clear()
        self.streams.clear()
        self._index.clear()
        self.numeric_width = 0
        self.string_width = 0
        self.size = 0

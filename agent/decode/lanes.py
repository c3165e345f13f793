"""Which stream is which number, and which lane of its rows holds which (column, JSON type).

Streams share the lanes of their *shape*: all streams of one model, and models with the same columns.
So what is learned about one stream's rows holds for thousands.

Invariants
 1. Stream numbers, shapes and lanes are append-only between two `clear()`s, so blocks made earlier stay right.
 2. One table belongs to one kernel thread. It is a cache: clearing it costs only learning again.
 3. Lanes of a shape are bounded by its users (`rows`): a producer that invents names for ever costs
    counts, not memory. Before a model adds more than a few columns or lanes to a shape that other
    models use, it gets a shape of its own (`OwnShape`): it must not use up theirs.
 4. A stream number is one (StreamKey, Shape). A model that moved has two numbers for one key; the fold
    adds them up, as it does for two kernel threads.
"""

from __future__ import annotations

from agent.types import Column, JsonType, Role, StreamKey

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


#: A new model joins a shape that has this part of its names, and is at most this much wider.
_COVERED = 0.9
_WIDER, _WIDER_NAMES = 1.5, 4
#: Shapes that are looked at for a new model: the latest.
_CANDIDATES = 64
#: Columns and lanes that a model may add to a shape others use too: a few, or half of what it holds.
_FEW = 16

#: Names of an event's values: (role, wire name) at the top of features, prediction and usage.
Names = frozenset[tuple[Role, str]]


class OwnShape(Exception):
    """A model needs more new columns than a shared shape takes from one: move it, then decode again."""

    def __init__(self, model: str) -> None:
        super().__init__(model)
        self.model = model


class Shape:
    """Lanes that streams share, and the columns behind them by role and wire name.

    number      index in `StreamTable.shapes`
    numeric     (column, type) of each lane of `Block.numbers`; append-only
    strings     column of each lane of `Block.string_*`; append-only
    vectors     columns that have had a vector
    is_ambiguous  two spellings lead to one column (`{"a":{"b":1}}` and `{"a.b":1}`, or names that
        were cut), so rows must be flattened before they are read
    """

    __slots__ = (
        "columns",
        "features",
        "is_ambiguous",
        "models",
        "number",
        "numeric",
        "paths",
        "predictions",
        "strings",
        "usage",
        "vectors",
    )

    def __init__(self, number: int) -> None:
        self.number = number
        self.numeric: list[tuple[Column, JsonType]] = []
        self.strings: list[Column] = []
        self.vectors: set[Column] = set()
        self.features: dict[str, ColumnLanes] = {}
        self.predictions: dict[str, ColumnLanes] = {}
        self.usage: dict[str, ColumnLanes] = {}
        self.columns: dict[Column, ColumnLanes] = {}
        self.is_ambiguous = False
        #: The one path of each (role, name) that compiled tiers read (`resolver`).
        self.paths: dict[tuple[str, str], tuple[str, ...]] = {}
        #: What each model that uses it has added while it was not the only one.
        self.models: dict[str, int] = {}

    @property
    def n_lanes(self) -> int:
        return len(self.numeric) + len(self.strings)

    @property
    def n_names(self) -> int:
        return len(self.features) + len(self.predictions) + len(self.usage)

    def covers(self, names: Names) -> int:
        """How many of `names` it has."""
        columns = {
            Role.FEATURE: self.features,
            Role.PREDICTION: self.predictions,
            Role.USAGE: self.usage,
        }
        return sum(name in columns[role] for role, name in names)


class StreamLanes:
    """One stream: its number, key and shape, whose columns are at hand here too."""

    __slots__ = ("columns", "features", "idx", "key", "predictions", "shape", "usage")

    def __init__(self, idx: int, key: StreamKey, shape: Shape) -> None:
        self.idx = idx
        self.key = key
        self.shape = shape
        self.features = shape.features
        self.predictions = shape.predictions
        self.usage = shape.usage
        self.columns = shape.columns


class StreamTable:
    """Streams and their lanes.

    keys            StreamKey of each stream
    numeric_lanes   per stream, (column, type) of each lane of `Block.numbers`: its shape's list
    string_lanes    per stream, column of each lane of `Block.string_*`: its shape's list
    shapes          all shapes, by number
    numeric_width, string_width   lanes of the widest shape
    has_vectors     whether any shape has a column of vectors
    size            columns and lanes of all shapes: about 0.5 kB each
    generation      grows when the table is cleared: what others keep by stream or shape is then void
    """

    def __init__(self) -> None:
        self.keys: list[StreamKey] = []
        self.numeric_lanes: list[list[tuple[Column, JsonType]]] = []
        self.string_lanes: list[list[Column]] = []
        self.size = 0
        self.has_vectors = False
        self.numeric_width = 0
        self.string_width = 0
        self.streams: list[StreamLanes] = []
        self.shapes: list[Shape] = []
        self.generation = 0
        self._index: dict[tuple[str, str, Segment], StreamLanes] = {}
        self._pairs: dict[tuple[StreamKey, int], StreamLanes] = {}
        self._shape_of: dict[str, Shape] = {}
        self._label_shape: Shape | None = None

    def intern(self, key: StreamKey) -> int:
        """The number of this stream; a new one when it is new."""
        return (self.find(*key) or self.make(*key, frozenset())).idx

    def find(self, model: str, version: str, segment: Segment) -> StreamLanes | None:
        """The stream as the lanes to write to; None when it is new."""
        # A tuple equals a StreamKey of the same parts, so the common case makes no StreamKey.
        return self._index.get((model, version, segment))

    def make(self, model: str, version: str, segment: Segment, names: Names) -> StreamLanes:
        """A new stream; `names`: those of the event in hand, by which a new model finds its shape."""
        shape = self._shape_of.get(model)
        if shape is None:
            shape = self._shape_like(names) or self._new_shape()
            self._shape_of[model] = shape
            shape.models[model] = 0
        stream = self._enter(StreamKey(model, version, segment), shape)
        self._index[stream.key] = stream
        return stream

    def paired(self, key: StreamKey, shape: Shape) -> StreamLanes:
        """The stream of this key whose rows have the lanes of `shape`, whatever shape its model has now."""
        return self._pairs.get((key, shape.number)) or self._enter(key, shape)

    def label_shape(self, model: str | None) -> Shape:
        """The shape of a label that makes no row: its model's, or one for all that have none."""
        shape = None if model is None else self._shape_of.get(model)
        if shape is None:
            if self._label_shape is None:
                self._label_shape = self._new_shape()
            shape = self._label_shape
        return shape

    def move(self, model: str) -> None:
        """Give the model a shape of its own; its rows from here on have new stream numbers."""
        self._shape_of[model].models.pop(model, None)
        shape = self._shape_of[model] = self._new_shape()
        shape.models[model] = 0
        for key in [key for key in self._index if key[0] == model]:
            del self._index[key]

    def _enter(self, key: StreamKey, shape: Shape) -> StreamLanes:
        made = StreamLanes(len(self.keys), key, shape)
        self._pairs[key, shape.number] = made
        self.keys.append(key)
        self.streams.append(made)
        self.numeric_lanes.append(shape.numeric)
        self.string_lanes.append(shape.strings)
        return made

    def _new_shape(self) -> Shape:
        shape = Shape(len(self.shapes))
        self.shapes.append(shape)
        return shape

    def _shape_like(self, names: Names) -> Shape | None:
        """The narrowest of the latest shapes that has nearly all of these names and not many more."""
        best: Shape | None = None
        widest = _WIDER * len(names) + _WIDER_NAMES
        for shape in self.shapes[-_CANDIDATES:]:
            if (
                0 < shape.n_names <= widest
                and (best is None or shape.n_names < best.n_names)
                and shape.covers(names) >= _COVERED * len(names)
            ):
                best = shape
        return best

    def charge(self, stream: StreamLanes) -> None:
        """One more column or lane for a stream. Raises OwnShape when a shared shape takes no more of it."""
        models = stream.shape.models
        if len(models) > 1:
            model = stream.key.model
            added = models.get(model, 0) + 1
            if added > max(_FEW, stream.shape.n_lanes // 2):
                raise OwnShape(model)
            models[model] = added
        self.size += 1

    def add_numeric(self, stream: StreamLanes, column: ColumnLanes, kind: JsonType) -> int:
        """A new lane of `Block.numbers` for this column and type. Raises OwnShape."""
        self.charge(stream)
        lanes = stream.shape.numeric
        lane = len(lanes)
        lanes.append((column.column, kind))
        self.numeric_width = max(self.numeric_width, lane + 1)
        if kind is JsonType.NUMBER:
            column.number = lane
        elif kind is JsonType.BOOLEAN:
            column.boolean = lane
        elif kind is JsonType.VECTOR:
            column.vector = lane
            stream.shape.vectors.add(column.column)
            self.has_vectors = True
        else:
            column.other = lane
        if column.first < 0:
            column.first = lane
        return lane

    def add_string(self, stream: StreamLanes, column: ColumnLanes) -> int:
        """A new lane of `Block.string_*` for this column. Raises OwnShape."""
        self.charge(stream)
        lanes = stream.shape.strings
        lane = len(lanes)
        lanes.append(column.column)
        self.string_width = max(self.string_width, lane + 1)
        column.string = lane
        if column.first < 0:
            column.first = lane
            column.first_is_string = True
        return lane

    def clear(self) -> None:
        """Forget all streams. Only at a cut, when no block that uses the table is left."""
        self.generation += 1
        self.keys.clear()
        # Lists of shapes are shared with nobody who outlives this.
        self.numeric_lanes.clear()
        self.string_lanes.clear()
        self.streams.clear()
        self.shapes.clear()
        self._index.clear()
        self._pairs.clear()
        self._shape_of.clear()
        self._label_shape = None
        self.has_vectors = False
        self.size = self.numeric_width = self.string_width = 0

"""The answers of `leaves`: what becomes of the value at one path, by configuration and shape.

Invariants
 1. Exactly what `events` and `rows` do with such a value, or None.
 2. One path for one column of a shape: a second spelling of a name is refused, so two values of a row
    never meet in a lane, and what the orjson tier counts as irregular is left to it.
 3. At most `decode.max_features` paths of a shape are answered, so no row of them is too wide.
 4. Lanes are added to a shape by the orjson tier's own code, and only while one model uses it.
"""

from __future__ import annotations

import hashlib
import os
from typing import Any

from agent.config import Config
from agent.config.syntax import parse_path
from agent.decode.fields import FieldMap
from agent.decode.lanes import ColumnLanes, Shape, StreamLanes, StreamTable
from agent.decode.leaves import (
    CONTENT,
    ID,
    LABEL,
    MODEL,
    STATUS,
    TRACEPARENT,
    TRACESTATE,
    VERSION,
    Leaf,
    Op,
    WireKind,
)
from agent.decode.rows import LATENCY, RowBuffer
from agent.types import Column, Role, StreamKey

Path = tuple[str, ...]

_SKIP = Leaf(Op.SKIP)
_CONTENT = Leaf(Op.SKIP, flags=CONTENT)
_TEXTS = (WireKind.STRING, WireKind.NUMBER)
_FIELDS = {"model": MODEL, "version": VERSION, "status": STATUS, "id": ID}
#: A value of each kind, from which the orjson tier learns a lane.
_SAMPLES: dict[WireKind, Any] = {
    WireKind.NULL: None,
    WireKind.BOOL: True,
    WireKind.NUMBER: 0.0,
    WireKind.STRING: "",
    WireKind.VECTOR: [0.0],
}
#: Column of a prediction that is no object, by what it is.
_SCALAR_PREDICTION = {
    WireKind.BOOL: "value",
    WireKind.NUMBER: "value",
    WireKind.STRING: "label",
    WireKind.VECTOR: "vector",
}
LATENCY_DIVISOR = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}


class ConfigResolver:
    """Answers for the shapes of one stream table. One owner: the thread of the table.

    Keeps what it answered in `Shape.paths`, so it is forgotten with the table.
    """

    def __init__(self, config: Config, table: StreamTable) -> None:
        decode = config.decode
        self._table = table
        self._rows = RowBuffer(config, table)
        self._max_paths = decode.max_features
        self._max_name_bytes = decode.max_name_bytes
        self._segments = None if decode.segments is None else frozenset(decode.segments)
        self._divisor = LATENCY_DIVISOR[decode.fields.latency_unit]
        self._key = os.urandom(16)
        #: (native field, path it is read from, name in it where a map says so). Nothing reads tags.
        self._targets: list[tuple[str, Path, str | None]] = [
            (name, parts, None) for name, parts in FieldMap(decode.fields).roots() if name != "tags"
        ]
        for name in ("features", "segment"):
            where = getattr(decode.fields, name)
            if not isinstance(where, str):
                self._targets = [t for t in self._targets if t[0] != name]
                for key, path in where.items():
                    self._targets.append((name, parse_path(path), key))

    def salt(self, name: str) -> int:
        """What tells the values of one segment name from those of another; of this process only."""
        return int.from_bytes(
            hashlib.blake2b(name.encode(), digest_size=8, key=self._key).digest(), "little"
        )

    def resolve(self, shape: Shape, path: Path, kind: WireKind) -> Leaf | None:
        """What to do with a value of `kind` at `path` in events of this shape; None: they are misfits."""
        hits = []
        for target in self._targets:
            parts = target[1]
            if path[: len(parts)] == parts:
                hits.append(target)
            elif (
                kind in (WireKind.VECTOR, WireKind.ARRAY)
                and parts[: len(path)] == path
                and parts[len(path)].isdigit()
            ):
                return None  # an element of this array is a field
        if not hits:
            return _SKIP
        if len(hits) > 1:
            return None
        name, parts, key = hits[0]
        rest = path[len(parts) :]
        if key is not None:
            rest = (key, *rest)
        if name == "features":
            return self._feature(shape, path, rest, kind)
        if name == "prediction":
            return self._prediction(shape, path, rest, kind)
        if name == "usage":
            return self._usage(shape, path, rest, kind)
        if name == "segment":
            return self._segment(shape, path, rest, kind)
        return self._single(shape, path, name, rest, kind)

    def is_skipped(self, path: Path) -> bool:
        """Whether nothing at or below `path` is ever read: tags, and what no field leads to."""
        for name, parts, _ in self._targets:
            n = min(len(parts), len(path))
            if parts[:n] == path[:n] and (name != "tags" or len(parts) > len(path)):
                return False
        return True

    # ------------------------------------------------------------ fields of one value

    def _single(
        self, shape: Shape, path: Path, name: str, rest: Path, kind: WireKind
    ) -> Leaf | None:
        if kind is WireKind.NULL and not rest:
            return _SKIP  # a field that is null is absent
        if name == "label":
            return Leaf(Op.LABEL, flags=LABEL)
        if name in ("id", "tracestate") and (rest or kind not in _TEXTS):
            return _SKIP  # no text, no drop
        if rest:
            return None
        if name == "ts":
            return Leaf(Op.TIME) if kind in _TEXTS else None
        if name == "latency_ms":
            return self._latency(shape, path) if kind is WireKind.NUMBER else None
        if name == "traceparent":
            return Leaf(Op.FIELD, TRACEPARENT) if kind is WireKind.STRING else None
        if name == "tracestate":
            return Leaf(Op.FIELD, TRACESTATE) if kind is WireKind.STRING else _SKIP
        return Leaf(Op.FIELD, _FIELDS[name]) if kind in _TEXTS else None

    def _latency(self, shape: Shape, path: Path) -> Leaf | None:
        if not self._claim(shape, Role.LATENCY, LATENCY.name, path):
            return None
        if LATENCY not in shape.columns and self._may_add(shape):
            self._rows.put_latency(self._stream(shape), 0.0)
            self._rows.clear()
        column = shape.columns.get(LATENCY)
        if column is None or column.number < 0:
            return None
        return Leaf(Op.SCALED, column.number, divisor=self._divisor)

    def _segment(self, shape: Shape, path: Path, rest: Path, kind: WireKind) -> Leaf | None:
        if not rest:
            return _SKIP if kind in (WireKind.NULL, WireKind.EMPTY) else None
        name = rest[0]
        if not self._claim(shape, "segment", name, path[: len(path) - len(rest) + 1]):
            return None
        if self._segments is not None and name not in self._segments:
            return _SKIP
        if len(rest) > 1 or self._is_long(name):
            return None
        if kind is WireKind.NULL:
            return _SKIP
        if kind in (WireKind.STRING, WireKind.NUMBER, WireKind.BOOL):
            return Leaf(Op.SEGMENT, salt=self.salt(name))
        return None

    # ------------------------------------------------------------ columns

    def _feature(self, shape: Shape, path: Path, rest: Path, kind: WireKind) -> Leaf | None:
        if not rest:
            return self._whole(kind)
        return self._column(shape, path, Role.FEATURE, rest, kind)

    def _prediction(self, shape: Shape, path: Path, rest: Path, kind: WireKind) -> Leaf | None:
        if rest:
            return self._column(shape, path, Role.PREDICTION, rest, kind)
        name = _SCALAR_PREDICTION.get(kind)
        if name is None:
            return self._whole(kind)
        # No row has both, so this is no second spelling of `prediction.<name>`.
        return self._column(shape, (*path, name), Role.PREDICTION, (name,), kind)

    def _usage(self, shape: Shape, path: Path, rest: Path, kind: WireKind) -> Leaf | None:
        if not rest:
            return self._whole(kind)
        if kind is WireKind.NUMBER:
            if rest == ("ttft_ms",):
                leaf = self._column(shape, path, Role.USAGE, ("ttft",), kind)
                return leaf and leaf._replace(op=Op.SCALED, divisor=1000.0)
            return self._column(shape, path, Role.USAGE, rest, kind)
        name = ".".join(rest)
        if self._is_long(name) or not self._claim(shape, Role.USAGE, name, path):
            return None
        return _CONTENT

    def _whole(self, kind: WireKind) -> Leaf | None:
        """Of `features`, `prediction` or `usage` itself, when it holds no column."""
        if kind is WireKind.NULL:
            return _SKIP
        return _CONTENT if kind is WireKind.EMPTY else None

    def _column(
        self, shape: Shape, path: Path, role: Role, rest: Path, kind: WireKind
    ) -> Leaf | None:
        name = ".".join(rest)
        if self._is_long(name) or not self._claim(shape, role, name, path):
            return None
        if kind is WireKind.EMPTY:
            return _CONTENT
        if kind not in _SAMPLES:
            return None
        leaf = self._lane(shape.columns.get(Column(role, name)), kind)
        if leaf is None and self._may_add(shape):
            self._learn(shape, role, rest, _SAMPLES[kind])
            leaf = self._lane(shape.columns.get(Column(role, name)), kind)
        return leaf

    def _lane(self, column: ColumnLanes | None, kind: WireKind) -> Leaf | None:
        """The lane that a value of this kind has in its column, if it has one yet."""
        if column is None:
            return None
        if kind is WireKind.NULL:
            op, lane = Op.NULL_NUMBER, column.first
            if column.first_is_string:
                op = Op.NULL_STRING
        elif kind is WireKind.STRING:
            op, lane = Op.STRING, column.string
        elif kind is WireKind.VECTOR:
            op, lane = Op.VECTOR, column.vector
        elif column.is_code:
            op, lane = Op.CODE, column.string
        elif kind is WireKind.NUMBER:
            op, lane = Op.NUMBER, column.number
        else:
            op, lane = Op.BOOLEAN, column.boolean
        return Leaf(op, lane, flags=CONTENT) if lane >= 0 else None

    def _claim(self, shape: Shape, role: str, name: str, path: Path) -> bool:
        """Whether `path` is, or now becomes, the one spelling of this name in the shape."""
        paths = shape.paths
        known = paths.get((role, name))
        if known is None:
            if len(paths) >= self._max_paths:
                return False
            paths[role, name] = path
            return True
        return known == path

    def _is_long(self, name: str) -> bool:
        limit = self._max_name_bytes
        return len(name) * 4 > limit and len(name.encode()) > limit

    # ------------------------------------------------------------ new lanes

    def _may_add(self, shape: Shape) -> bool:
        return len(shape.models) <= 1

    def _stream(self, shape: Shape) -> StreamLanes:
        return StreamLanes(-1, StreamKey("", ""), shape)

    def _learn(self, shape: Shape, role: Role, rest: Path, value: Any) -> None:
        """Put a sample row in and take it back: lanes stay."""
        for part in reversed(rest[1:]):
            value = {part: value}
        columns = {
            Role.FEATURE: shape.features,
            Role.PREDICTION: shape.predictions,
            Role.USAGE: shape.usage,
        }
        self._rows.put(self._stream(shape), columns[role], role, {rest[0]: value})
        self._rows.clear()
        self._rows.odd.clear()

"""The paths that events have, and what the scan tier does with the value at each: learned from orjson rows.

A *path* is the number of (path above, key); 0 is the top of an event. Paths hold for all shapes, since
they are walked before it is known whose event it is. A key at the top that is none of the configured
fields' is read by nobody, so it need not be learned. What becomes of a leaf is kept by (shape, path,
kind), as `resolver` answers it.

Invariants
 1. Append-only between two `clear()`s; kernels run between two calls, never during one.
 2. Bounded. A full table learns nothing more and, when that goes on, begins again from nothing: names
    that came and went, or were invented to fill it, do not keep later producers out.
 3. It is a cache: what it does not know is decoded by the orjson tier, with the same result.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from agent.config import Config
from agent.decode.fields import FieldMap
from agent.decode.kernels import scan_layout as layout
from agent.decode.kernels.hashing import PROCESS_KEY
from agent.decode.kernels.path_slots import (
    hash_text,
    insert_leaves,
    insert_models,
    insert_paths,
)
from agent.decode.kernels.values import new_frame
from agent.decode.lanes import Shape
from agent.decode.leaves import MODEL, VERSION, Leaf, Op, Resolver, WireKind

#: Entries of each table, at most: 2 MB of paths, 2 MB of leaves, and twice that for their slots.
MAX_PATHS = 1 << 14
MAX_LEAVES = 1 << 16
MAX_MODELS = 1 << 14
MAX_SHAPES = 1 << 16
#: Records that a full table may refuse to learn before it begins again.
MAX_REFUSED = 1024
#: Records of a model in a row that had nothing to learn; behind them only one in so many is looked at.
_IDLE, _EVERY = 8, 16
#: Deeper events are left to the orjson tier.
MAX_DEPTH = 32

_ACTIONS = {
    (Op.NUMBER, WireKind.NUMBER): layout.PUT_NUMBER,
    (Op.SCALED, WireKind.NUMBER): layout.PUT_SCALED,
    (Op.BOOLEAN, WireKind.BOOL): layout.PUT_NUMBER,
    (Op.VECTOR, WireKind.VECTOR): layout.PUT_NUMBER,
    (Op.STRING, WireKind.STRING): layout.PUT_STRING,
    (Op.CODE, WireKind.STRING): layout.PUT_STRING,
    (Op.CODE, WireKind.BOOL): layout.PUT_STRING,
    (Op.CODE, WireKind.NUMBER): layout.PUT_INTEGER_TEXT,
    (Op.NULL_NUMBER, WireKind.NULL): layout.PUT_NULL_NUMBER,
    (Op.NULL_STRING, WireKind.NULL): layout.PUT_NULL_STRING,
    (Op.FIELD, WireKind.STRING): layout.PUT_FIELD,
    (Op.FIELD, WireKind.NUMBER): layout.PUT_INTEGER_FIELD,
    (Op.TIME, WireKind.NUMBER): layout.PUT_TIME_NUMBER,
    (Op.TIME, WireKind.STRING): layout.PUT_TIME_TEXT,
    # Their hashes are taken on the way; what is no canonical integer has been refused there.
    (Op.SEGMENT, WireKind.STRING): layout.KEEP_NOTHING,
    (Op.SEGMENT, WireKind.NUMBER): layout.KEEP_NOTHING,
    (Op.SEGMENT, WireKind.BOOL): layout.KEEP_NOTHING,
}
_PARTS = {MODEL: layout.IS_MODEL, VERSION: layout.IS_VERSION}


class PathTable:
    """The tables of the scan tier of one kernel thread. One owner.

    address   of TABLES (`kernels.scan_layout`), for `kernels.scan.scan`; it never changes

    Memory: 130 kB of scratch, then by what is learned, at most about 12 MB.
    """

    def __init__(self, config: Config, resolver: Resolver) -> None:
        self._resolver = resolver
        make_frame: Any = new_frame
        self._frame: NDArray[np.int64] = make_frame(
            config.decode.max_name_bytes, config.decode.max_record_bytes
        )
        self._scratch = np.zeros(layout.SCRATCH_WORDS, np.int64)
        self._tables = np.zeros(layout.N_TABLE_FIELDS, np.int64)
        self.address: int = self._tables.ctypes.data
        self._set(layout.MAX_DEPTH, min(config.decode.max_depth, MAX_DEPTH))
        self._set(layout.FRAME, self._frame.ctypes.data)
        self._set(layout.SCRATCH, self._scratch.ctypes.data)
        roots = FieldMap(config.decode.fields).roots()
        #: Keys at the top of an event that lead to something; () when others may, too.
        self._names: tuple[str, ...] = tuple(sorted({parts[0] for _, parts in roots}))
        another = "".join(self._names) + "."
        if len(self._names) > MAX_PATHS // 4 or not resolver.is_skipped((another,)):
            self._names = ()
        self.clear()

    @property
    def n_paths(self) -> int:
        """Paths that were learned: the names of the fields are known beforehand."""
        return len(self._path_of) - len(self._names)

    @property
    def n_leaves(self) -> int:
        return self._leaves.n

    def clear(self) -> None:
        """Forget everything: when the stream table is cleared, since shapes get new numbers."""
        self._path_of: dict[tuple[int, str], int] = {}
        self._skipped: set[int] = set()
        self._known: dict[int, bool] = {}  # keys of leaves, and whether it is the model's name
        self._shape_of: dict[int, int] = {}  # by hash of the model
        self._idle: dict[tuple[int, str], int] = {}  # by shape and model
        self._n_refused = 0
        self._paths = _Slots(16, insert_paths)
        self._leaves = _Slots(4, insert_leaves)
        self._models = _Slots(2, insert_models)
        self._widths = np.zeros((16, 2), np.int64)
        for name in self._names:
            self._path(0, (), name)
        self._set(layout.IS_OPEN, int(len(self._names) > 0))
        self._point()

    def learn(self, record: bytes, shape: Shape, model: str = "") -> bool:
        """Take in the paths and leaves of an event that the orjson tier made a row of; whether any was new.

        record  JSON text of one object; anything else, or more than a kernel takes, teaches nothing
        shape   of its row's stream
        model   of its row's stream: models of one shape are not to wait for each other

        Whoever has had nothing new for a while is looked at only now and then.
        """
        who = shape.number, model
        idle = self._idle.get(who, 0)
        if idle > _IDLE and idle % _EVERY:
            self._idle[who] = idle + 1
            return False
        if shape.number >= MAX_SHAPES or record.count(b":") > layout.MAX_LEAVES:
            return False
        tree = orjson.loads(record)
        if type(tree) is not dict:
            return False
        if not self._has_room():
            self._n_refused += 1
            if self._n_refused < MAX_REFUSED:
                return False
            self.clear()
        n_before = self.n_paths + self.n_leaves
        try:
            is_new = self._place(self._walk(0, (), tree, shape, 1), shape)
        finally:
            self._point()  # tables may have grown, whatever happens
        is_new = is_new or self.n_paths + self.n_leaves > n_before
        if len(self._idle) > MAX_MODELS:
            self._idle.clear()
        self._idle[who] = 0 if is_new else idle + 1
        return is_new

    # ------------------------------------------------------------ walking

    def _walk(
        self, parent: int, prefix: tuple[str, ...], items: dict[str, Any], shape: Shape, depth: int
    ) -> str | None:
        """Learn all below one object; the model's name if it is found there."""
        model = None
        for key, value in items.items():
            path = self._path(parent, prefix, key)
            if path is None or path in self._skipped:
                continue
            if type(value) is dict and value:
                if depth < MAX_DEPTH:
                    below = self._walk(path, (*prefix, key), value, shape, depth + 1)
                    model = model if below is None else below
                continue
            kind = wire_kind(value)
            number = (shape.number + 1) << 32 | path << 3 | kind
            is_model = self._known.get(number)
            if is_model is None:
                is_model = self._learn_leaf(number, (*prefix, key), kind, shape)
            if is_model:
                model = value if type(value) is str else str(value)
        return model

    def _path(self, parent: int, prefix: tuple[str, ...], key: str) -> int | None:
        """The path of this key, entered if it is new; None when there is no room for it."""
        path = self._path_of.get((parent, key))
        if path is None and self._paths.n < MAX_PATHS:
            path = self._path_of[parent, key] = len(self._path_of) + 1
            is_skipped = self._resolver.is_skipped((*prefix, key))
            if is_skipped:
                self._skipped.add(path)
            entry = (_hash(key), parent, path, 0, 0, 0, int(is_skipped), 0, *_as_written(key))
            self._paths.add(entry)
        return path

    def _learn_leaf(
        self, number: int, keys: tuple[str, ...], kind: WireKind, shape: Shape
    ) -> bool | None:
        """Enter what to do with a leaf, if there is an answer; whether it is the model's name."""
        if self._leaves.n >= MAX_LEAVES:
            return None
        leaf = self._resolver.resolve(shape, keys, kind)
        action = None if leaf is None else _action(leaf, kind)
        if leaf is None or action is None:
            return None
        lane = 0 if action == layout.KEEP_NOTHING else leaf.lane
        operand = int(np.float64(leaf.divisor).view(np.int64)) if leaf.op is Op.SCALED else 0
        self._leaves.add((number, action | leaf.flags << 8 | lane << 32, operand, 0))
        self._widen(shape)
        path = number >> 3 & 0x1FFFFFFF
        if leaf.op is Op.SEGMENT:
            self._mark_part(path, kind, layout.IS_SEGMENT, leaf.salt)
        elif leaf.op is Op.FIELD and leaf.lane in _PARTS:
            self._mark_part(path, kind, _PARTS[leaf.lane], 0)
        is_model = leaf.op is Op.FIELD and leaf.lane == MODEL
        self._known[number] = is_model
        return is_model

    # ------------------------------------------------------------ tables

    def _mark_part(self, path: int, kind: WireKind, part: int, salt: int) -> None:
        """Values of this kind at this path are a part of the stream's key."""
        entry = self._paths.entries[path - 1]
        entry[layout.SLOT_STREAM // 8] |= part << 4 * kind
        entry[layout.SLOT_SALT // 8] = _signed(salt)
        self._paths.write(path - 1)

    def _place(self, model: str | None, shape: Shape) -> bool:
        """Note the shape of a model; whether it is news."""
        key = 0 if model is None else _hash(model)
        if self._shape_of.get(key) == shape.number:
            return False
        if key in self._shape_of:  # it moved
            row = self._models.entries[: self._models.n, 0].tolist().index(key)
            self._models.entries[row, 1] = shape.number + 1
            self._models.write(row)
        else:
            self._models.add((key, shape.number + 1))
        self._shape_of[key] = shape.number
        self._widen(shape)
        return True

    def _widen(self, shape: Shape) -> None:
        """Rows of this shape have all the lanes that it has now."""
        while shape.number >= len(self._widths):
            self._widths = np.concatenate((self._widths, np.zeros_like(self._widths)))
        self._widths[shape.number] = len(shape.numeric), len(shape.strings)

    def _has_room(self) -> bool:
        return (
            self._paths.n < MAX_PATHS
            and self._leaves.n < MAX_LEAVES
            and self._models.n < MAX_MODELS
        )

    def _set(self, offset: int, value: int) -> None:
        self._tables[offset // 8] = value

    def _point(self) -> None:
        """Write where the tables lie now."""
        for offset, slots in (
            (layout.SLOTS, self._paths),
            (layout.LEAVES, self._leaves),
            (layout.MODELS, self._models),
        ):
            self._set(offset, slots.slots.ctypes.data)
            self._set(offset + 8, len(slots.slots) - 1)
        self._set(layout.WIDTHS, self._widths.ctypes.data)
        # It holds the address of a slot.
        self._scratch[layout.TOP_SLOT // 8 : layout.FIRST_LEAF // 8] = 0
        self._scratch[(layout.OTHER_SLOT + layout.SLOT_IS_SKIPPED) // 8] = 1


class _Slots:
    """Entries in the order they came, and the open-addressing table of them, at most half full."""

    def __init__(self, width: int, insert: Any) -> None:
        self.n = 0
        self.entries = np.zeros((64, width), np.int64)
        self.slots = np.zeros((256, width), np.int64)
        self._insert = insert

    def add(self, entry: tuple[int, ...]) -> None:
        if self.n == len(self.entries):
            self.entries = np.concatenate((self.entries, np.zeros_like(self.entries)))
        self.entries[self.n] = entry
        self.n += 1
        if 2 * self.n > len(self.slots):
            self.slots = np.zeros((2 * len(self.slots), self.slots.shape[1]), np.int64)
            self._write(0, self.n)
        else:
            self._write(self.n - 1, 1)

    def write(self, row: int) -> None:
        """Write an entry that has changed into its slot."""
        self._write(row, 1)

    def _write(self, first: int, n: int) -> None:
        self._insert(
            self.entries.ctypes.data + first * self.entries.strides[0],
            n,
            self.slots.ctypes.data,
            len(self.slots) - 1,
        )


def wire_kind(value: Any) -> WireKind:
    """What a parsed JSON value is on the wire; objects with keys are no leaves."""
    kind = type(value)
    if value is None:
        return WireKind.NULL
    if kind is bool:
        return WireKind.BOOL
    if kind is int or kind is float:
        return WireKind.NUMBER
    if kind is str:
        return WireKind.STRING
    if kind is dict:
        return WireKind.EMPTY
    return WireKind.VECTOR if set(map(type, value)) <= {int, float} else WireKind.ARRAY


def _action(leaf: Leaf, kind: WireKind) -> int | None:
    if leaf.op in (Op.SKIP, Op.LABEL):
        return layout.KEEP_NOTHING
    return _ACTIONS.get((leaf.op, kind))


def _hash(text: str) -> int:
    """Keyed hash of a text, as an int64."""
    raw = text.encode()
    padded = np.frombuffer(raw + bytes(16), np.uint8)
    return _signed(hash_text(padded.ctypes.data, len(raw), PROCESS_KEY.ctypes.data))


def _as_written(key: str) -> tuple[int, ...]:
    """The rest of a key's slot: how it is written when nothing needs an escape, mask, length."""
    raw = key.encode()
    if len(raw) > 30 or '"' in key or "\\" in key or any(char < " " for char in key):
        return (0,) * 8
    written = raw + b'":'
    words = np.frombuffer(written.ljust(32, b"\0"), np.int64).tolist()
    return *words, (1 << len(written)) - 1, len(written), 0, 0


def _signed(word: int) -> int:
    """The int64 with the bits of this uint64."""
    word = int(word)
    return word - (1 << 64) if word >> 63 else word

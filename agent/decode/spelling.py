"""How one event is spelled: its constant bytes, and between them the values that change.

    {"model":"m","features":{"a":1.5,"b":null}}

is `{"model":"` text `","features":{"a":` number `,"b":null` nothing `}}` end. The records spelled here
have been accepted by orjson, so nothing is checked twice; what templates cannot do is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from agent.decode.kernels.template import ANY, END
from agent.decode.kernels.values import NOTHING, operand_of, step_of
from agent.decode.leaves import Leaf, Op, WireKind

#: Keys of objects as text, numbers of array elements as int: `{"0":1}` and `[1]` end differently.
Path = tuple[str | int, ...]
#: Entering an object or array, or a value: its path. Leaving it: the path and LEFT.
Mark = tuple[str | int | None, ...]
LEFT = None

#: Values of one event, at most.
MAX_VALUES = 512

_SPACE = re.compile(rb"[ \t\r\n]*")
_KEY = re.compile(rb'"([^"\\]*)"[ \t\r\n]*:[ \t\r\n]*')
_TEXT = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_NUMBER = re.compile(rb"-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_NUMBERS = re.compile(rb"\[[-+.0-9eE, \t\r\n]*\]")
_EMPTY = re.compile(rb"\{[ \t\r\n]*\}")
_WORDS = {
    116: (b"true", WireKind.BOOL),
    102: (b"false", WireKind.BOOL),
    110: (b"null", WireKind.NULL),
}
_STRUCTURE = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)
_SKIPPED = Leaf(Op.SKIP)


class Unspellable(Exception):
    """A record that no template can be made of."""


class Piece(NamedTuple):
    """Constant bytes, and the value behind them (or the end, whose path is None).

    text     with what opens the value: a quote or bracket; all of it for null and `{}`
    step     of `kernels.values` or `kernels.template`
    lane     of the leaf; for ANY the levels of brackets that the value may have
    operand  of the leaf; for ANY the byte that the value must begin with, 0 any
    """

    text: bytes
    path: Path | None
    step: int
    lane: int = 0
    operand: int = 0
    flags: int = 0


class Spelling(NamedTuple):
    """An event's pieces in order, and in which order it enters and leaves its objects and values."""

    pieces: list[Piece]
    marks: list[Mark]


class Speller:
    """Spells the events of one configuration.

    resolve      as `leaves.Resolver.resolve` for one shape
    is_skipped   as `leaves.Resolver.is_skipped`
    has_fields   whether an element of the array at this path is a field or holds one
    """

    def __init__(
        self,
        max_depth: int,
        is_skipped: Callable[[tuple[str, ...]], bool],
        has_fields: Callable[[tuple[str, ...]], bool],
    ) -> None:
        self._max_depth = max_depth
        self._is_skipped = is_skipped
        self._has_fields = has_fields

    def spell(
        self, record: bytes, resolve: Callable[[tuple[str, ...], WireKind], Leaf | None]
    ) -> Spelling:
        """The spelling of a record that holds one object. Raises Unspellable."""
        return _Pass(self, record, resolve).run()


class _Pass:
    """One record on its way through."""

    def __init__(
        self,
        speller: Speller,
        record: bytes,
        resolve: Callable[[tuple[str, ...], WireKind], Leaf | None],
    ) -> None:
        self._max_depth = speller._max_depth
        self._is_skipped = speller._is_skipped
        self._has_fields = speller._has_fields
        self._resolve = resolve
        self._record = record
        self._at = 0
        self._constant = 0  # where the constant bytes in hand began
        self._pieces: list[Piece] = []
        self._marks: list[Mark] = []

    def run(self) -> Spelling:
        self._pass_space()
        if self._record[self._at : self._at + 1] != b"{":
            raise Unspellable("not an object")
        self._object((), (), 1)
        self._pieces.append(Piece(self._record[self._constant :], None, END))
        return Spelling(self._pieces, self._marks)

    # ------------------------------------------------------------ structure

    def _pass_space(self) -> None:
        found = _SPACE.match(self._record, self._at)
        assert found is not None
        self._at = found.end()

    def _object(self, path: Path, names: tuple[str, ...], depth: int) -> None:
        """Keys and values from the opening brace to behind the closing one."""
        record = self._record
        seen = set()
        while True:
            self._at += 1  # brace or comma
            self._pass_space()
            if record[self._at] == 125:
                break
            found = _KEY.match(record, self._at)
            if found is None:
                raise Unspellable("a key with an escape")
            key = found[1].decode()
            if key in seen:
                raise Unspellable("a key that comes twice")
            seen.add(key)
            self._at = found.end()
            self._value((*path, key), (*names, key), depth)
            self._pass_space()
            if record[self._at] == 125:
                break
        self._at += 1

    def _array(self, path: Path, names: tuple[str, ...], depth: int) -> None:
        """The same for the elements of an array."""
        n = 0
        while True:
            self._at += 1  # bracket or comma
            self._pass_space()
            if self._record[self._at] == 93:
                break
            self._value((*path, n), (*names, str(n)), depth)
            n += 1
            self._pass_space()
            if self._record[self._at] == 93:
                break
        self._at += 1

    def _inside(
        self,
        walk: Callable[[Path, tuple[str, ...], int], None],
        path: Path,
        names: tuple[str, ...],
        depth: int,
    ) -> None:
        if depth >= self._max_depth:
            raise Unspellable("too deep")
        self._marks.append(path)
        walk(path, names, depth + 1)
        self._marks.append((*path, LEFT))

    # ------------------------------------------------------------ values

    def _value(self, path: Path, names: tuple[str, ...], depth: int) -> None:
        record, at = self._record, self._at
        first = record[at]
        if first == 123:
            empty = _EMPTY.match(record, at)
            if self._is_skipped(names):
                self._any(path, depth)
            elif empty is not None:
                self._leaf(path, names, WireKind.EMPTY, empty.end(), empty.end())
            else:
                self._inside(self._object, path, names, depth)
        elif first == 91:
            self._bracket(path, names, depth)
        elif first == 34:
            text = _TEXT.match(record, at)
            assert text is not None
            self._leaf(path, names, WireKind.STRING, at + 1, text.end())
        elif first in _WORDS:
            word, kind = _WORDS[first]
            end = at + len(word)
            self._leaf(path, names, kind, end if kind is WireKind.NULL else at, end)
        else:
            number = _NUMBER.match(record, at)
            assert number is not None
            self._leaf(path, names, WireKind.NUMBER, at, number.end())

    def _bracket(self, path: Path, names: tuple[str, ...], depth: int) -> None:
        if self._is_skipped(names):
            self._any(path, depth)
            return
        numbers = _NUMBERS.match(self._record, self._at)
        kind = WireKind.ARRAY if numbers is None else WireKind.VECTOR
        leaf = self._resolve(names, kind)
        if leaf is None:
            if not self._has_fields(names):
                raise Unspellable("an array")
            self._inside(self._array, path, names, depth)
        elif leaf.op in (Op.SKIP, Op.LABEL) and leaf == self._resolve(names, WireKind.ARRAY):
            self._any(path, depth, leaf.flags, first=91)
        elif numbers is None or depth >= self._max_depth:
            raise Unspellable("an array")
        else:
            self._leaf(path, names, kind, self._at + 1, numbers.end())

    def _leaf(
        self, path: Path, names: tuple[str, ...], kind: WireKind, begin: int, end: int
    ) -> None:
        """A value whose changing part begins at `begin`."""
        leaf = _SKIPPED if self._is_skipped(names) else self._resolve(names, kind)
        step = None if leaf is None else step_of(leaf, kind)
        if leaf is None or step is None:
            raise Unspellable("a value that templates do not read")
        lane = 0 if step == NOTHING else max(leaf.lane, 0)
        self._add(path, begin, end, step, lane, operand_of(leaf), leaf.flags)

    def _any(self, path: Path, depth: int, flags: int = 0, first: int = 0) -> None:
        """A value that nobody reads, brackets and all; `first`: its first byte, when others would be read."""
        open_brackets = 0
        for found in _STRUCTURE.finditer(self._record, self._at):
            token = found[0]
            if token in b"[{":
                open_brackets += 1
            elif token in b"]}":
                open_brackets -= 1
                if not open_brackets:
                    self._add(
                        path, self._at, found.end(), ANY, self._max_depth - depth, first, flags
                    )
                    return
        raise Unspellable("brackets do not match")

    def _add(
        self, path: Path, begin: int, end: int, step: int, lane: int, operand: int, flags: int
    ) -> None:
        text = self._record[self._constant : begin]
        self._pieces.append(Piece(text, path, step, lane, operand, flags))
        self._marks.append(path)
        self._at = self._constant = end
        if len(self._pieces) > MAX_VALUES:
            raise Unspellable("too many values")

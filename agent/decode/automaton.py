"""One template: all spellings of a producer's events that go through their values in one order.

A state is "the value at path p has been read", the first one "nothing yet"; an edge is a piece: constant
bytes, then a value. Spellings are merged edge by edge, so a template takes combinations that it has not
seen: what it takes is more than what it was made of, and must still be what orjson takes.

Invariants
 1. No run meets an object, an array or a value twice: what each spelling enters and leaves, one behind
    the other, makes up one graph for all of them, and that has no cycle.
 2. Two values of one run never go to one lane or field: a lane has one path.
 3. All runs through a state have the same brackets open, since its path says which.
"""

from __future__ import annotations

import struct
import zlib
from graphlib import CycleError, TopologicalSorter
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from agent.decode.kernels import values as steps
from agent.decode.kernels.template import (
    END,
    NODE_BYTES,
    NODE_TEXT,
    ONWARD,
)
from agent.decode.lanes import Shape
from agent.decode.spelling import Mark, Path, Piece, Spelling

#: Pieces that may come behind one value, and nodes of one template, at most.
MAX_CHOICES = 12
MAX_NODES = 2048

_NODE = struct.Struct("<32sIiiiBBBBIQ")
assert _NODE.size == NODE_BYTES
_NUMERIC = frozenset((steps.NUMBER, steps.SCALED, steps.BOOLEAN, steps.VECTOR, steps.NULL_NUMBER))
_STRINGS = frozenset((steps.STRING, steps.CODE_NUMBER, steps.CODE_BOOL, steps.NULL_STRING))
_FIELDS = frozenset((steps.FIELD_STRING, steps.FIELD_NUMBER, steps.NAME_STRING, steps.NAME_NUMBER))
_SEGMENTS = frozenset((steps.SEGMENT_STRING, steps.SEGMENT_NUMBER, steps.SEGMENT_BOOL))
_TIMES = frozenset((steps.TIME_NUMBER, steps.TIME_STRING))


class Fit(NamedTuple):
    """How a spelling relates to a template: pieces it has in common, and those that are new."""

    share: float
    new: list[tuple[Path, Piece]]


class Template:
    """The automaton of one shape, and its nodes as the kernel reads them.

    Memory: 64 bytes a node, one or two nodes a value; about ten times that in Python.
    """

    def __init__(self, shape: Shape, spelling: Spelling) -> None:
        self.shape = shape
        self.n_numbers = self.n_strings = 0
        #: Rows that fitted, decayed; the owner's.
        self.uses = 0
        self._choices: dict[Path, list[Piece]] = {}
        self._before: dict[Mark, set[Mark]] = {}
        self._paths: dict[tuple[str, int], Path] = {}
        self.nodes: NDArray[np.uint8] = np.zeros(0, np.uint8)
        fit = self.fit(spelling)
        if not self.merge(spelling, fit):
            raise ValueError("two values of one spelling go to one place")

    @property
    def address(self) -> int:
        """Of the nodes."""
        return self.nodes.ctypes.data

    @property
    def n_nodes(self) -> int:
        return len(self.nodes) // NODE_BYTES

    def knows(self, path: Path) -> bool:
        return path in self._choices

    def fit(self, spelling: Spelling) -> Fit:
        """What of this spelling is known."""
        new = []
        state: Path = ()
        for piece in spelling.pieces:
            if piece not in self._choices.get(state, ()):
                new.append((state, piece))
            state = piece.path or ()
        return Fit(1 - len(new) / len(spelling.pieces), new)

    def merge(self, spelling: Spelling, fit: Fit) -> bool:
        """Take in a spelling; False, and nothing is changed, when that is not possible. `fit`: what of it is new."""
        paths = dict(self._paths)
        for _, piece in fit.new:
            for place in _places(piece):
                if paths.setdefault(place, piece.path or ()) != piece.path:
                    return False
        choices = {state: list(pieces) for state, pieces in self._choices.items()}
        for state, piece in fit.new:
            pieces = choices.setdefault(state, [])
            if len(pieces) >= MAX_CHOICES:
                return False
            pieces.append(piece)
        before = {mark: set(marks) for mark, marks in self._before.items()}
        last: Mark | None = None
        for mark in spelling.marks:
            marks = before.setdefault(mark, set())
            if last is not None:
                marks.add(last)
            last = mark
        try:
            order = list(TopologicalSorter(before).static_order())
        except CycleError:
            return False
        nodes = _lay_out(choices, order)
        if nodes is None:
            return False
        self._paths, self._choices, self._before, self.nodes = paths, choices, before, nodes
        for _, piece in fit.new:
            if piece.step in _NUMERIC:
                self.n_numbers = max(self.n_numbers, piece.lane + 1)
            elif piece.step in _STRINGS:
                self.n_strings = max(self.n_strings, piece.lane + 1)
        return True


def _places(piece: Piece) -> list[tuple[str, int]]:
    """Where the value of a piece goes: what no other path may write."""
    if piece.step in _NUMERIC:
        return [("number", piece.lane)]
    if piece.step in _STRINGS:
        return [("string", piece.lane)]
    if piece.step in _FIELDS:
        return [("field", piece.lane)]
    if piece.step in _SEGMENTS:
        return [("segment", piece.operand)]
    return [("time", 0)] if piece.step in _TIMES else []


def _lay_out(choices: dict[Path, list[Piece]], order: list[Mark]) -> NDArray[np.uint8] | None:
    """All pieces as nodes, in the order in which they are met; None when they are too many."""
    states: list[Path] = [(), *(cast("Path", mark) for mark in order if mark in choices)]
    parts = {
        state: [max(1, -(-len(piece.text) // NODE_TEXT)) for piece in choices[state]]
        for state in states
    }
    first = {}
    n_nodes = 0
    for state in states:
        first[state] = n_nodes * NODE_BYTES
        n_nodes += sum(parts[state])
    if n_nodes > MAX_NODES:
        return None
    raw = bytearray()
    for state in states:
        for i, piece in enumerate(choices[state]):
            n = parts[state][i]
            is_last_choice = i == len(choices[state]) - 1
            other = -1 if is_last_choice else len(raw) + n * NODE_BYTES
            for part in range(n):
                text = piece.text[part * NODE_TEXT : (part + 1) * NODE_TEXT]
                is_last = part == n - 1
                following = len(raw) + NODE_BYTES
                if is_last:
                    following = 0 if piece.step == END else first[piece.path or ()]
                raw += _NODE.pack(
                    text,
                    (1 << len(text)) - 1,
                    following,
                    other,
                    piece.lane if is_last else 0,
                    len(text),
                    piece.step if is_last else ONWARD,
                    piece.flags if is_last else 0,
                    piece.text.count(b'"', 0, part * NODE_TEXT) & 1,
                    zlib.crc32(repr(state).encode()),
                    piece.operand if is_last else 0,
                )
    # A node is a cache line.
    whole = np.zeros(len(raw) + NODE_BYTES, np.uint8)
    skip = -whole.ctypes.data % NODE_BYTES
    nodes = whole[skip : skip + len(raw)]
    nodes[:] = np.frombuffer(raw, np.uint8)
    return nodes

"""The templates of one kernel thread: learned from events, used by most rows, forgotten when unused.

Invariants
 1. Learned only from records that another tier has made one row of.
 2. Bounded: MAX_TEMPLATES, each of bounded size. When there are as many, the least used makes room.
 3. Learning costs at most LEARNING_SHARE of the time, over a minute or so, whatever producers send: who
    shuffles the keys of each event only finds that nothing is learned.
 4. A cache: what fits no template is decoded by another tier, with the same result.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.config import Config
from agent.decode.automaton import Template
from agent.decode.fields import FieldMap
from agent.decode.kernels import scan_layout
from agent.decode.kernels import template as kernel
from agent.decode.kernels.values import MARKS, MARKS_STRIDE, new_frame
from agent.decode.lanes import Shape
from agent.decode.leaves import Leaf, Resolver, WireKind
from agent.decode.spelling import Path, Speller, Spelling, Unspellable

MAX_TEMPLATES = 256
#: Part of the time that learning may take, and how much of it may come at once (seconds).
LEARNING_SHARE = 0.02
_BURST_S = 0.3
#: A spelling that shares so many of its pieces with a template becomes part of it.
_ALIKE = 0.5
#: Deeper events are left to other tiers.
_MAX_DEPTH = 32
#: Names that have been seen once; a second time they are learned.
_MAX_SIGHTED = 4096
#: A template that had fewer rows when the next one was to be learned was not worth it.
_USEFUL = 16
_MAX_WAIT = 1023
#: Rows after which all counts of use are halved.
_AGE_ROWS = 1 << 20
_ZONE_BYTES = 1 << 16
_PADDING = 64


class Templates:
    """What templates there are, as tables for `kernels.template.decode_templates`. One owner.

    address   of the kernel's TABLE; it never changes

    Memory: 32 kB, 130 kB of scratch, 64 kB for texts, and the templates: some 3 kB each for 20 values.
    """

    def __init__(
        self, config: Config, resolver: Resolver, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        decode = config.decode
        self._resolver = resolver
        self._clock = clock
        max_depth = min(decode.max_depth, _MAX_DEPTH)
        self._elements = _element_paths(config)
        self._speller = Speller(max_depth, resolver.is_skipped, self._elements.__contains__)
        make_frame: Any = new_frame
        self._frame: NDArray[np.int64] = make_frame(decode.max_name_bytes, decode.max_record_bytes)
        # Of two records each of two kinds; of records that are never that long, no page is ever touched.
        self._marks = np.zeros((4, decode.max_record_bytes // 64 + 3), np.uint64)
        self._frame[MARKS // 8] = self._marks.ctypes.data
        self._frame[MARKS_STRIDE // 8] = self._marks.strides[0]
        self._places = np.zeros((kernel.N_LINES, kernel.WAYS, 2), np.uint64)
        self._header = np.zeros((MAX_TEMPLATES, kernel.N_TEMPLATE_SLOTS), np.int64)
        self._scratch = np.zeros(scan_layout.SCRATCH_WORDS, np.int64)
        self._skip_tables = np.zeros(scan_layout.N_TABLE_FIELDS, np.int64)
        self._skip_tables[scan_layout.FRAME // 8] = self._frame.ctypes.data
        self._skip_tables[scan_layout.SCRATCH // 8] = self._scratch.ctypes.data
        self._texts = np.zeros(_ZONE_BYTES, np.uint8)
        zone = self._texts.ctypes.data
        self._zone = np.array([zone + _PADDING, zone + _ZONE_BYTES - _PADDING], np.int64)
        self._table = np.zeros(kernel.N_TABLE_SLOTS, np.int64)
        for slot, array in (
            (kernel.TEMPLATES, self._header),
            (kernel.PLACES, self._places),
            (kernel.FRAME, self._frame),
            (kernel.SKIP_TABLES, self._skip_tables),
            (kernel.ZONE, self._zone),
        ):
            self._table[slot] = array.ctypes.data
        self.address: int = self._table.ctypes.data
        self._templates: list[Template] = []
        self._credit_s = _BURST_S
        self._credited_at = clock()
        self.clear()

    def clear(self) -> None:
        """Forget everything: when the stream table is cleared, since shapes get new numbers."""
        self._templates = []
        self._sighted: set[tuple[int, Path]] = set()
        self._newest: Template | None = None
        self._wait = self._pause = 0
        self._publish(None)

    # ------------------------------------------------------------ what there is

    def __len__(self) -> int:
        return len(self._templates)

    @property
    def n_nodes(self) -> int:
        return sum(template.n_nodes for template in self._templates)

    @property
    def n_attempts(self) -> int:
        """Templates that were tried and did not fit, so far."""
        return int(self._table[kernel.ATTEMPTS])

    def uses(self) -> list[int]:
        """Rows that fitted each template, decayed; most used first."""
        self._read_uses()
        return sorted((template.uses for template in self._templates), reverse=True)

    # ------------------------------------------------------------ learning

    def may_learn(self) -> bool:
        """Whether there is time to learn now: `observe` does nothing without."""
        now = self._clock()
        earned = LEARNING_SHARE * (now - self._credited_at)
        self._credited_at = now
        self._credit_s = min(_BURST_S, self._credit_s + earned)
        return self._credit_s > 0

    def observe(self, record: bytes, shape: Shape) -> bool:
        """Learn the spelling of a record that fitted no template; whether anything changed.

        record  accepted by another tier as one row, or as one label, of a stream of this shape
        """
        if not self.may_learn():
            return False
        began = self._clock()
        try:
            return self._learn(record, shape)
        finally:
            self._credit_s -= self._clock() - began

    def _learn(self, record: bytes, shape: Shape) -> bool:
        def resolve(path: tuple[str, ...], kind: WireKind) -> Leaf | None:
            return self._resolver.resolve(shape, path, kind)

        try:
            spelling = self._speller.spell(record, resolve)
        except Unspellable:
            return False
        self._read_uses()
        own = [template for template in self._templates if template.shape is shape]
        for template in sorted(own, key=lambda template: -template.uses):
            fit = template.fit(spelling)
            if not fit.new:
                return False  # a value of it is odd, and not how it is spelled
            if fit.share < _ALIKE:
                continue
            paths = [piece.path for _, piece in fit.new if piece.path is not None]
            if not self._have_sighted(shape, [path for path in paths if not template.knows(path)]):
                return False
            if template.merge(spelling, fit):
                self._publish(template)
                return True
        if (own or len(self._templates) == MAX_TEMPLATES) and not self._is_worth_a_template():
            return False
        return self._add(shape, spelling)

    def _have_sighted(self, shape: Shape, paths: list[Path]) -> bool:
        """Whether these paths have been seen before: names that come but once are not worth learning."""
        news = {(shape.number, path) for path in paths} - self._sighted
        if len(self._sighted) + len(news) > _MAX_SIGHTED:
            self._sighted.clear()
        self._sighted |= news
        return not news

    def _is_worth_a_template(self) -> bool:
        """Whether another template for a known shape, or in another's place, is likely to be used.

        As long as new ones are not used, more and more chances are passed over.
        """
        if self._wait > 0:
            self._wait -= 1
            return False
        if self._newest is not None and self._newest.uses < _USEFUL:
            self._pause = min(2 * self._pause + 1, _MAX_WAIT)
        else:
            self._pause //= 2
        self._wait = self._pause
        return True

    def _add(self, shape: Shape, spelling: Spelling) -> bool:
        try:
            template = Template(shape, spelling)
        except ValueError:
            return False
        if len(self._templates) == MAX_TEMPLATES:
            self._templates.remove(min(self._templates, key=lambda each: each.uses))
        self._templates.append(template)
        self._newest = template
        self._publish(template)
        return True

    # ------------------------------------------------------------ tables

    def _read_uses(self) -> None:
        """Take over the kernel's counts; when they are large, halve them and drop who has none."""
        counts = self._header[: len(self._templates), kernel.USES].tolist()
        for template, uses in zip(self._templates, counts, strict=True):
            template.uses = uses
        if sum(counts) < _AGE_ROWS:
            return
        for template in self._templates:
            template.uses //= 2
        self._templates = [t for t in self._templates if t.uses or t is self._newest]
        self._publish(None)

    def _publish(self, changed: Template | None) -> None:
        """Write all templates, most used first: the order in which they are tried. `changed`: tried at first."""
        self._templates.sort(key=lambda template: -template.uses)
        self._header[:] = 0
        for row, template in zip(self._header, self._templates, strict=False):
            row[kernel.NODES] = template.address
            row[kernel.N_NUMBERS] = template.n_numbers
            row[kernel.N_STRINGS] = template.n_strings
            row[kernel.SHAPE] = template.shape.number
            row[kernel.USES] = template.uses
        self._table[kernel.N_TEMPLATES] = len(self._templates)
        self._table[kernel.CURRENT] = 0 if changed is None else self._templates.index(changed)
        self._places[:] = 0


def _element_paths(config: Config) -> frozenset[tuple[str, ...]]:
    """Paths of the arrays of which an element is a field, or holds one."""
    found: set[tuple[str, ...]] = set()
    for _, parts in FieldMap(config.decode.fields).roots():
        for i, part in enumerate(parts):
            if part.isascii() and part.isdigit():
                if str(int(part)) != part:
                    return frozenset()  # `00` is element 0 too: two names for one place
                found.add(parts[:i])
    return frozenset(found)

"""One slice: a block of records through all tiers.

    template tier -> scan tier on its misfits -> `finish` on the rows of each -> orjson tier on the rest,
    in order -> further rows of streams it has just bound -> windows -> one Block for each compiled tier

Invariants
 1. Every record of a slice is decoded by one tier, and counted once. The orjson tier alone says
    "dropped" and "irregular" (but for a trace context that is not valid, which costs nothing to see).
 2. A slice may end early, at the *cut*: at records that need more new cells than `slice_values`, bring
    too many new streams, or leave too much to the orjson tier. Records behind the cut are decoded again
    with the next slice, by then often with what was learned of those before it.
 3. All but the orjson tier's work is a few calls a block: no Python object a row.
 4. Blocks are views: good until the next slice is decoded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.config import Config
from agent.decode.bindings import Bindings
from agent.decode.events import SLICE_BYTES, Decoded, JsonDecoder
from agent.decode.indexed import Indexed
from agent.decode.kept import Sampler, SpanKeeper
from agent.decode.kernels.finish import LABEL_ONLY, ROW, WAITS, sum_sizes
from agent.decode.kernels.scan import scan
from agent.decode.kernels.template import decode_templates
from agent.decode.label_counts import LabelCounts
from agent.decode.lanes import Shape, StreamTable
from agent.decode.paths import PathTable
from agent.decode.resolver import ConfigResolver
from agent.decode.row_arrays import MAX_NUMBERS, MAX_ROWS, MAX_STRINGS
from agent.decode.templates import Templates
from agent.decode.tier_rows import TierRows
from agent.sketch.sampled_block import Vector, with_vectors
from agent.types import Block, Irregular, Partition, Record, Tally, Tier

#: Records of a slice that may go to the orjson tier: few while the compiled tiers still learn.
_FEW_ODD, _MANY_ODD = 32, 512
#: Records of a slice that the compiled tiers learn from, at most.
_LESSONS = 32
#: Rows of the scanner that templates are made of, at most.
_SPELLINGS = 4
#: Rows of the scanner that pass before the next lesson, at most: each lesson in vain doubles them. A
#: lesson costs as much as the scanner does for a thousand rows.
_MAX_REST = 1 << 16
_FIRST_ROWS = 64
#: Readable bytes around text.
_PADDING = 64
_DAY_MS = 86_400_000


@dataclass(slots=True)
class Load:
    """Records that lie in a buffer, and how far they are decoded."""

    index: Indexed
    record_of: Callable[[int], Record]
    is_label_topic: bool
    partition: Partition
    lineage: str
    is_untimed: bool  # some records have no timestamp
    at: int = 0


class SliceDecoder:
    """All tiers of one kernel thread. `json` is its orjson tier, in whose slices the others join."""

    def __init__(
        self,
        config: Config,
        table: StreamTable,
        sampler: Sampler | None,
        json: JsonDecoder,
        learning_clock: Callable[[], float],
    ) -> None:
        self._table = table
        self._json = json
        self._keeper = (
            None if sampler is None else SpanKeeper(sampler, table, links=config.judge.enabled)
        )
        self._width_ms = int(config.windows.width_s) * 1000
        self._max_skew_ms = round(config.windows.max_skew_s * 1000)
        self._max_jump_ms = round(config.windows.max_jump_s * 1000)
        resolver = ConfigResolver(config, table)
        self._paths = PathTable(config, resolver)
        self._templates = Templates(config, resolver, learning_clock)
        self._bindings = Bindings()
        self._labels = LabelCounts()
        self._templated = TierRows(Tier.TEMPLATE, is_listed=False)
        self._scanned = TierRows(Tier.SCAN, is_listed=True)
        self._all = np.arange(MAX_ROWS)
        self._zone = np.zeros(2, np.int64)
        self._zone_address: int = self._zone.ctypes.data
        self._generation = table.generation
        self._n_rows = _FIRST_ROWS
        self._most_odd = _FEW_ODD
        # Rows of the scanner to pass over before templates are made of some, and after a lesson in vain.
        self._rest = self._pause = 0
        # Of the slice in hand: the last record that was a row, and has told the orjson tier its time.
        self._last_row = -1

    def on_cut(self) -> None:
        """The owner's delta is empty again: every (stream, window) will need cells."""
        self._bindings.forget_windows()

    @property
    def has_labels(self) -> bool:
        """Labels of the slices so far are in no tally yet by the name of their model."""
        return self._labels.is_pending

    def take_labels(self, tally: Tally) -> None:
        """Count those labels in this tally."""
        self._labels.take(self._json, tally)

    def decode(self, load: Load) -> Decoded:
        """The next slice of the load."""
        if self._table.generation != self._generation:
            self._forget()
        out = self._json.begin(0, load.partition)
        self._last_row = -1
        index = load.index
        n = min(self._n_rows, index.n - load.at, self._most_rows())
        self._bindings.reserve()
        self._bindings.fit_seen(len(self._table.keys))

        cut = self._run_templates(load, n)
        cut = self._run_scanner(load, cut)
        odd, fresh = self._odd_records(cut)
        if len(odd) > self._most_odd:
            cut = odd[self._most_odd]
            del odd[self._most_odd :]
        n_json = 0
        if odd or fresh:
            cut, n_json = self._run_json(load, odd, fresh, cut, out)
        if self._templated.n_again or self._scanned.n_again:
            n_json += self._settle(load, cut, out)

        scanned = self._scanned
        if cut < n:
            self._templated.n = min(self._templated.n, cut)
            assert scanned.record is not None
            scanned.n = int(np.searchsorted(scanned.record[: scanned.n], cut))
            self._bindings.forget_windows()  # some were noted for records that were not taken
        out.tally.records += cut - n_json
        out.tally.size_bytes = int(sum_sizes(index.at.vlen + 8 * load.at, cut))
        self._make_blocks(load, out)
        if scanned.n:
            self._learn_templates(load)
        self._n_rows = min(MAX_ROWS, max(_FIRST_ROWS, 2 * cut))
        load.at += cut
        is_last = load.at == index.n
        out.to_offset = index.to_offset if is_last else int(index.offset[load.at - 1]) + 1
        return out

    def _forget(self) -> None:
        """The stream table was cleared: what is known by shape or stream is void."""
        self._generation = self._table.generation
        self._paths.clear()
        self._templates.clear()
        self._bindings.clear()
        self._labels.forget_streams()
        self._n_rows, self._most_odd = _FIRST_ROWS, _FEW_ODD
        self._rest = self._pause = 0

    def _most_rows(self) -> int:
        """Rows of the widest shape that fit the arrays."""
        table = self._table
        return min(
            MAX_NUMBERS // (table.numeric_width + 8), MAX_STRINGS // (table.string_width + 8)
        )

    # ------------------------------------------------------------ compiled tiers

    def _run_templates(self, load: Load, n: int) -> int:
        """Decode n records by template; lists the misfits for the scanner. Returns the cut."""
        index, templated, scanned = load.index, self._templated, self._scanned
        assert scanned.record is not None
        if not len(self._templates):
            templated.empty()
            scanned.record[:n] = self._all[:n]
            scanned.n = n
            return n
        scanned.n = int(
            decode_templates(
                self._templates.address,
                templated.arrays.address,
                index.address,
                index.at.vpos + 8 * load.at,
                index.at.vlen + 8 * load.at,
                n,
                scanned.record_address,
            )
        )
        cut = self._finish(templated, n, load)
        if cut < n:
            scanned.n = int(np.searchsorted(scanned.record[: scanned.n], cut))
        return cut

    def _run_scanner(self, load: Load, cut: int) -> int:
        """Decode the records listed by key. Returns the cut."""
        index, scanned = load.index, self._scanned
        assert scanned.record is not None
        n = scanned.n
        scanned.n_misfits = 0
        if not n:
            scanned.empty()
            return cut
        last = index.n - 1
        free = int(index.hpos[last] + index.hlen[last]) + _PADDING
        end = len(index.text) - _PADDING
        self._zone[0], self._zone[1] = index.address + min(free, end), index.address + end
        scanned.n_misfits = int(
            scan(
                index.address,
                index.at.vpos + 8 * load.at,
                index.at.vlen + 8 * load.at,
                scanned.record_address,
                n,
                self._paths.address,
                self._zone_address,
                scanned.arrays.address,
                scanned.misfits_address,
            )
        )
        done = self._finish(scanned, n, load)
        return cut if done == n else int(scanned.record[done])

    def _finish(self, tier: TierRows, n: int, load: Load) -> int:
        return tier.finish(
            n,
            load.index,
            load.at,
            self._bindings,
            is_label_topic=load.is_label_topic,
            width_ms=self._width_ms,
            budget=self._json.slice_values,
        )

    # ------------------------------------------------------------ the orjson tier

    def _odd_records(self, cut: int) -> tuple[list[int], dict[int, tuple[TierRows, int]]]:
        """Records before the cut for the orjson tier, in order; and which of them bring a stream, as which row."""
        scanned, templated = self._scanned, self._templated
        odd: list[int] = []
        fresh: dict[int, tuple[TierRows, int]] = {}
        if not (
            scanned.n_misfits
            or templated.n_left
            or scanned.n_left
            or templated.n_fresh
            or scanned.n_fresh
        ):
            return odd, fresh
        if scanned.n_misfits:
            odd += scanned.misfits[: scanned.n_misfits].tolist()
        for tier in (templated, scanned):
            if tier.n_left:
                odd += tier.records(tier.left[: tier.n_left]).tolist()
            if tier.n_fresh:
                rows = tier.fresh[: tier.n_fresh]
                for row, record in zip(rows.tolist(), tier.records(rows).tolist(), strict=True):
                    fresh[record] = tier, row
        odd += fresh
        return sorted(record for record in odd if record < cut), fresh

    def _run_json(
        self,
        load: Load,
        odd: list[int],
        fresh: dict[int, tuple[TierRows, int]],
        cut: int,
        out: Decoded,
    ) -> tuple[int, int]:
        """Decode these records by orjson, bind new streams, learn; the cut, and how many were decoded."""
        n = n_bytes = 0
        lessons = _LESSONS
        is_news = False
        rows = self._json.rows
        for record in odd:
            if load.is_untimed:
                self._note_last_time(record)
            before, n_events = rows.n_rows, out.tally.events
            n += 1
            value = self._take(load, record, out)
            n_bytes += len(value or b"")
            is_row = rows.n_rows == before + 1
            bringer = fresh.pop(record, None)
            if bringer is not None:
                self._bind(*bringer, is_row=is_row)
            if lessons and value is not None and out.tally.events == n_events + 1:
                if is_row:
                    lessons -= 1
                    stream = rows.last_stream()
                    is_news |= self._learn(value, stream.shape, stream.key.model)
                elif rows.n_rows == before:
                    lessons -= 1
                    model = self._json.label_model
                    is_news |= self._learn(value, self._table.label_shape(model), model or "")
            if rows.n_values >= self._json.slice_values or n_bytes >= SLICE_BYTES:
                cut = record + 1
                break
        for tier, row in fresh.values():  # behind the cut
            arrays = tier.arrays
            self._bindings.forget(arrays.key_hash[row], int(arrays.shape[row]))
        self._most_odd = _FEW_ODD if is_news else min(_MANY_ODD, 2 * self._most_odd)
        return cut, n

    def _take(self, load: Load, record: int, out: Decoded) -> bytes | None:
        """One record by orjson; its value."""
        whole = load.record_of(load.at + record)
        rows = self._json.rows
        before = rows.n_rows
        self._json.take(whole, load.is_label_topic, out)
        if rows.n_rows > before:
            self._last_row = record
        return whole.value

    def _bind(self, tier: TierRows, row: int, *, is_row: bool) -> None:
        """Remember the stream that the orjson tier has made of this row's record."""
        key_hash, shape = tier.arrays.key_hash[row], int(tier.arrays.shape[row])
        if not is_row:
            self._bindings.refuse(key_hash, shape)
            return
        stream = self._json.rows.last_stream()
        if stream.shape.number != shape:
            stream = self._table.paired(stream.key, self._table.shapes[shape])
        self._bindings.bind(key_hash, shape, stream.idx)

    def _learn(self, value: bytes, shape: Shape, model: str) -> bool:
        """Teach the compiled tiers a record of one row, or one label; whether there was anything new in it."""
        is_new_path = self._paths.learn(value, shape, model)
        return self._templates.observe(value, shape) or is_new_path

    def _learn_templates(self, load: Load) -> None:
        """Make templates of a few rows that the scanner had to decode; the more rarely, the less comes of it."""
        scanned, index = self._scanned, load.index
        assert scanned.record is not None
        self._rest -= scanned.n
        if self._rest > 0 or not self._templates.may_learn():
            return
        rows = np.flatnonzero((scanned.fate[: scanned.n] & ROW) != 0)  # rows, and those that wait
        step = max(1, len(rows) // _SPELLINGS)
        is_news = False
        for row in rows[::step][:_SPELLINGS].tolist():
            record = load.at + int(scanned.record[row])
            start, length = int(index.vpos[record]), int(index.vlen[record])
            shape = self._table.shapes[int(scanned.arrays.shape[row])]
            is_news |= self._templates.observe(index.text[start : start + length].tobytes(), shape)
        self._pause = self._pause >> 1 if is_news else min(_MAX_REST, 2 * self._pause + 256)
        self._rest = self._pause

    def _settle(self, load: Load, cut: int, out: Decoded) -> int:
        """Rows of streams that were new in this slice; how many of them were left to orjson."""
        n = 0
        for tier in (self._templated, self._scanned):
            if not tier.n_again:
                continue
            n_again = tier.n_again
            records = tier.records(tier.again[:n_again])
            n_again = int(np.searchsorted(records, cut))
            for row in tier.left[: tier.settle(n_again, self._bindings)].tolist():
                self._take(load, tier.record_of(row), out)
                n += 1
        return n

    def _note_last_time(self, record: int) -> None:
        """Tell the orjson tier the event time of the last row before `record`."""
        last, time_ms = self._last_row, self._json.untimed_ms
        for tier in (self._templated, self._scanned):
            n = tier.n
            if tier.record is not None:
                n = int(np.searchsorted(tier.record[:n], record))
            else:
                n = min(n, record)
            fate = tier.fate[:n]
            if n and fate[n - 1] == ROW:  # as most of them are
                row = n - 1
            else:
                rows = np.flatnonzero((fate == ROW) | (fate == WAITS))
                if not len(rows):
                    continue
                row = int(rows[-1])
            at = tier.record_of(row)
            if at > last:
                last, time_ms = at, int(tier.arrays.event_time[row])
        self._last_row, self._json.untimed_ms = last, time_ms

    # ------------------------------------------------------------ counts and blocks

    def _make_blocks(self, load: Load, out: Decoded) -> None:
        """Windows, blocks, counts and spans of all tiers."""
        json, index = self._json, load.index
        latest_ms = json.now_ms + _DAY_MS
        tiers = [tier for tier in (self._templated, self._scanned) if tier.n]
        median_ms = None
        untimed_latest_ms = latest_ms
        if load.is_untimed:
            median_ms = self._median_ms(tiers)
            untimed_latest_ms = median_ms + self._max_jump_ms
        json.end(out, load.partition, load.lineage, median_ms)
        self._labels.fit(self._table)
        for tier in tiers:
            newest = tier.close(
                index,
                load.at,
                json.sealed_until,
                self._max_skew_ms,
                latest_ms,
                untimed_latest_ms,
                self._labels.address,
            )
            out.max_event_time_ms = max(out.max_event_time_ms, newest)
            self._count(tier, index, out.tally)
            if not tier.n_rows:
                continue
            block = tier.block(index)
            out.blocks.append(self._with_vectors(tier, load, block))
            if self._keeper is not None:
                view = tier.view(block, index, load.at, self._table.numeric_lanes)
                spans, exemplars = self._keeper.keep(view, load.partition, load.lineage)
                out.spans += spans
                out.exemplars += exemplars
            at = tier.record_of(tier.last_row)
            if at > self._last_row:
                self._last_row = at
                json.untimed_ms = int(tier.arrays.event_time[tier.last_row])

    def _with_vectors(self, tier: TierRows, load: Load, block: Block) -> Block:
        """The block with the vectors of its sampled rows."""
        table, index = self._table, load.index
        sample = self._json.sample_of(load.partition) if table.has_vectors else None
        if sample is None:
            return block
        records = load.at + tier.records(self._all[: block.n])
        found: list[Vector] = []
        for row in np.flatnonzero(
            sample.taken(index.offset[records]) & (block.stream >= 0)
        ).tolist():
            known = table.streams[int(block.stream[row])].shape.vectors
            if not known:
                continue
            record = int(records[row])
            start = int(index.vpos[record])
            value = index.text[start : start + int(index.vlen[record])].tobytes()
            found += [(row, c, v) for c, v in self._json.vectors_of(value) if c in known]
        return with_vectors(block, found)

    def _count(self, tier: TierRows, index: Indexed, tally: Tally) -> None:
        """Add the rows and labels of a tier to the tally of the orjson tier."""
        tally.events += tier.n_rows + tier.n_alone
        tally.rows += tier.n_rows
        if tier.n_rows:
            tally.rows_by_tier[tier.tier] += tier.n_rows
        if tier.n_bad_trace:
            tally.irregular[Irregular.BAD_TRACE_CONTEXT] += tier.n_bad_trace
        if tier.n_labels:
            tally.labels += tier.n_labels
            self._labels.is_pending = True
        if tier.n_alone:
            alone = np.flatnonzero(tier.fate[: tier.n] == LABEL_ONLY)
            hashes = tier.arrays.model_hash[alone]
            _, first, times = np.unique(hashes, return_index=True, return_counts=True)
            for row, count in zip(alone[first].tolist(), times.tolist(), strict=True):
                self._json.count_labels(tier.model_name(row, index), count)

    def _median_ms(self, tiers: list[TierRows]) -> int:
        """Median event time of the slice's rows; 0 without any."""
        times: list[NDArray[np.int64]] = [np.array(self._json.rows.times, np.int64)]
        times += (tier.arrays.event_time[: tier.n][tier.stream[: tier.n] >= 0] for tier in tiers)
        together = np.concatenate(times)
        return int(np.median(together)) if len(together) else 0

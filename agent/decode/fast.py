"""Records to blocks by three tiers: templates, the scanner, and orjson for whatever those leave.

The face of `JsonDecoder`, and chunks equal to its. Loads of records become slices of blocks (`slices`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator

import numpy as np

from agent.config import Config
from agent.decode.arena import MAX_BATCH_BYTES, RecordArena
from agent.decode.events import Decoded, JsonDecoder
from agent.decode.indexed import Indexed, Unread
from agent.decode.kept import Sampler
from agent.decode.laid import lay_out
from agent.decode.lanes import StreamTable
from agent.decode.slices import Load, SliceDecoder
from agent.types import Drop, Fetch, RawFetch, Record, TableFetch, Tally

log = logging.getLogger(__name__)


class FastDecoder:
    """Decodes the fetches of one kernel thread. Never raises on input.

    Memory: the arena (2 MiB, more for larger batches), 3 MB for the rows of a block in two tiers, and the tables of
    what has been learned.
    """

    def __init__(
        self,
        config: Config,
        table: StreamTable,
        sampler: Sampler | None,
        *,
        learning_clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`learning_clock`: seconds, what limits the time that templates take to be learned. By a clock that
        stands still, what is learned, and with it the order of rows in a block, depends on the rows alone.
        """
        self._json = JsonDecoder(config, table, sampler)
        self._slices = SliceDecoder(config, table, sampler, self._json, learning_clock)
        self._arena: RecordArena | None = None
        # The largest record that is decoded must fit, and others beside it.
        self._max_batch_bytes = max(MAX_BATCH_BYTES, 2 * config.decode.max_record_bytes)

    # ------------------------------------------------------------ what the owner sets

    @property
    def sealed_until(self) -> int:
        """Windows below are sealed."""
        return self._json.sealed_until

    @sealed_until.setter
    def sealed_until(self, window: int) -> None:
        self._json.sealed_until = window

    @property
    def now_ms(self) -> int:
        """Wall clock: bounds what a record's timestamp may claim."""
        return self._json.now_ms

    @now_ms.setter
    def now_ms(self, now_ms: int) -> None:
        self._json.now_ms = now_ms

    @property
    def slice_values(self) -> int:
        """A slice ends when its values may need this many new cells."""
        return self._json.slice_values

    @slice_values.setter
    def slice_values(self, n: int) -> None:
        self._json.slice_values = n

    def on_cut(self) -> None:
        """The owner's delta is empty again: every (stream, window) will need cells."""
        self._slices.on_cut()

    def take_labels(self, tally: Tally) -> None:
        """Before a cut inside of a fetch: labels by model of its slices so far, which its last slice would count."""
        self._slices.take_labels(tally)

    # ------------------------------------------------------------ fetches

    def decode(self, fetch: Fetch | RawFetch, lineage: str) -> Iterator[Decoded]:
        """Blocks of the fetch, slice by slice, in offset order. Sketch a slice before asking for the next.

        Labels are in the tally of their slice, but by the name of their model only in that of the last.
        """
        if isinstance(fetch, RawFetch):
            return self._raw(fetch, lineage)
        records = fetch.records
        index = lay_out(records, fetch.to_offset)
        return self._decode(index, records.__getitem__, fetch, lineage, is_last=True)

    def decode_table(self, fetch: TableFetch, lineage: str) -> Iterator[Decoded]:
        """Rows of a table: the orjson tier's work."""
        return self._json.decode_table(fetch, lineage)

    def _raw(self, fetch: RawFetch, lineage: str) -> Iterator[Decoded]:
        if self._arena is None:
            self._arena = RecordArena(max_batch_bytes=self._max_batch_bytes)
        at = 0
        while at < len(fetch.batches):
            index = self._arena.load(fetch.batches, at)
            at = index.hi
            if at == len(fetch.batches):
                index.to_offset = fetch.to_offset
            self._report(index.unread, fetch)
            unread = sorted(index.unread, reverse=True)
            is_last = at == len(fetch.batches)
            for part in self._decode(index, index.record, fetch, lineage, is_last=is_last):
                _count_unread(unread, part)
                yield part
            if unread:  # there were no records
                part = self._json.begin(index.to_offset, fetch.partition)
                _count_unread(unread, part)
                yield part
        if self._slices.has_labels:  # the last batches had no records
            rest = self._json.begin(fetch.to_offset, fetch.partition)
            self._slices.take_labels(rest.tally)
            yield rest

    def _report(self, unread: list[Unread], fetch: RawFetch) -> None:
        for one in unread:
            log.warning(
                "%s/%d: offsets %d to %d cannot be read (%s): at most %d records dropped as %s",
                *fetch.partition,
                one.offset,
                one.to_offset - 1,
                one.why,
                one.to_offset - one.offset,
                Drop.CORRUPT_BATCH,
            )

    def _decode(
        self,
        index: Indexed,
        record_of: Callable[[int], Record],
        fetch: Fetch | RawFetch,
        lineage: str,
        *,
        is_last: bool,
    ) -> Iterator[Decoded]:
        is_untimed = index.n > 0 and int(np.minimum.reduce(index.timestamp_ms)) < 0
        load = Load(index, record_of, fetch.is_label_topic, fetch.partition, lineage, is_untimed)
        while load.at < index.n:
            part = self._slices.decode(load)
            if is_last and load.at == index.n:
                self._slices.take_labels(part.tally)
            yield part


def _count_unread(unread: list[Unread], part: Decoded) -> None:
    """Count what could not be read with the slice that covers it: a cut between slices repeats neither.

    `unread`: the first one last; those that are counted are taken out.
    """
    while unread and unread[-1].to_offset <= part.to_offset:
        one = unread.pop()
        n = one.to_offset - one.offset
        part.tally.records += n
        part.tally.dropped[Drop.CORRUPT_BATCH] += n

"""From record batches to sketches on this thread: what a kernel thread does, driven by hand.

`Feed` has the same events as whole record batches and as the stock consumer's records, in fetches of a
few megabytes. `Path` decodes and sketches them as `agent.kernel_thread` does.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from agent.config import Config
from agent.decode.events import JsonDecoder
from agent.decode.fast import FastDecoder
from agent.decode.lanes import StreamTable
from agent.decode.raw_batches import table_of
from agent.sketch.delta import Delta
from agent.types import Fetch, Partition, RawBatch, RawFetch, Record, Tally
from benchmarks.events import START_MS, TRACEPARENT, Batch, Shape, batches, values

#: Decompressed bytes of a fetch, about.
FETCH_BYTES = 4 << 20
#: Records of a batch: what a producer with a large `batch.size` sends.
PER_BATCH = 1000
_HEADERS = (("traceparent", TRACEPARENT), ("src", b"ms"))

#: Decoders by name, the way the agent runs first.
TIERS = {
    "agent": "as it runs: templates, then the scanner, then orjson",
    "no templates": "the scanner takes all rows, orjson what it leaves",
    "orjson": "orjson and Python alone, of records made beforehand",
}


def config_of(shape: Shape, **more: Any) -> Config:
    """The agent's configuration that reads a shape's events."""
    document: dict[str, Any] = {**more}
    if shape.fields:
        document["decode"] = {"fields": shape.fields}
    return msgspec.convert(document, Config)


@dataclass
class Feed:
    """Events, and fetches of them: raw ones, and the same as records. `size_bytes`: of the values."""

    values: list[bytes]
    raw: list[RawFetch]
    records: list[Fetch]
    size_bytes: int

    @property
    def n(self) -> int:
        return len(self.values)


def make_feed(
    shape: Shape, n: int, seed: int, *, models: int | None = None, **options: Any
) -> Feed:
    """`n` events of a shape; options of `feed_of`."""
    return feed_of(values(shape, n, seed, models), **options)


def feed_of(
    events: list[bytes],
    *,
    per_batch: int = PER_BATCH,
    codec: str = "none",
    headers: bool = True,
    partition: int = 0,
    fetch_bytes: int = FETCH_BYTES,
) -> Feed:
    """Fetches of whole batches of `events`."""
    size = sum(map(len, events))
    whole = batches(events, per_batch, codec, headers)
    per_fetch = max(1, fetch_bytes * len(whole) // max(1, size))
    where = Partition("events", partition)
    raw, records = [], []
    for low in range(0, len(whole), per_fetch):
        part = whole[low : low + per_fetch]
        begin, end = part[0].base_offset, part[-1].base_offset + part[-1].n_records
        raw.append(RawFetch(1, where, begin, end, table_of(map(_raw, part)), -1, 0))
        listed = [
            Record(at, START_MS + at, None, events[at], _HEADERS if headers else ())
            for at in range(begin, end)
        ]
        records.append(Fetch(1, where, begin, end, listed, -1, 0))
    return Feed(events, raw, records, size)


def _raw(batch: Batch) -> RawBatch:
    return RawBatch(
        data=memoryview(batch.data),
        base_offset=batch.base_offset,
        next_offset=batch.base_offset + batch.n_records,
        attributes=batch.attributes,
        first_timestamp=batch.first_timestamp_ms,
        max_timestamp=batch.max_timestamp_ms,
        n_records=batch.n_records,
        min_offset=0,
    )


class Path:
    """One kernel thread's stream table, decoder and delta.

    `tiers`: a name in TIERS. `sketch=False`: rows are decoded and that is all. With `cut_bytes` a delta
    that has grown to it is cut, as by the agent; `n_cuts` counts.
    """

    def __init__(
        self,
        config: Config,
        tiers: str = "agent",
        *,
        sketch: bool = True,
        cut_bytes: int | None = None,
    ) -> None:
        self.table = StreamTable()
        self.tiers = tiers
        self.decoder: Any = None
        if tiers == "orjson":
            self.decoder = JsonDecoder(config, self.table, None)
        else:
            self.decoder = FastDecoder(config, self.table, None)
            if tiers == "no templates":
                switch_templates_off(self.decoder)
        self.delta = Delta(self.table)
        self.tally = Tally()
        self.n_cuts = 0
        self._sketch = sketch
        self._cut_bytes = cut_bytes

    def run(self, feed: Feed) -> None:
        """Decode and sketch a feed; what was learned in earlier runs is known."""
        fetches: Sequence[Any] = feed.records if self.tiers == "orjson" else feed.raw
        delta, cut_bytes = self.delta, self._cut_bytes
        for fetch in fetches:
            for decoded in self.decoder.decode(fetch, "lineage"):
                self.tally.add(decoded.tally)
                if not self._sketch:
                    continue
                for block in decoded.blocks:
                    delta.add(block)
                if cut_bytes is not None and delta.size_bytes >= cut_bytes:
                    delta.freeze()
                    self.decoder.on_cut()
                    self.n_cuts += 1


def ns_with_cuts(
    path: Path, feeds: Sequence[Feed], rows: int, *, cuts: int = 6, most_passes: int = 80
) -> tuple[float, float]:
    """ns of processor time a row, and rows between two cuts, of as many passes as have so many cuts.

    The mean, not the median: most passes have no cut, and those that have one pay for the others. The first pass,
    which learns and ends with a cut, is not counted; the counted ones end with one, so that each has its whole price.
    """
    for feed in feeds:
        path.run(feed)
    path.delta.freeze()
    path.decoder.on_cut()
    began, before, n = time.thread_time(), path.n_cuts, 0
    spent, at_cut, counted = 0.0, path.n_cuts, 0
    while path.n_cuts - before < cuts and n < most_passes:
        for feed in feeds:
            path.run(feed)
        n += 1
        if path.n_cuts > at_cut:
            spent, at_cut, counted = time.thread_time() - began, path.n_cuts, n
    if not counted:
        return (time.thread_time() - began) / (n * rows) * 1e9, math.inf
    return spent / (counted * rows) * 1e9, counted * rows / (at_cut - before)


def switch_templates_off(decoder: FastDecoder) -> None:
    """Every record goes to the scanner, and nothing is learned as a template."""
    slices = decoder._slices

    def run_templates(load: Any, n: int) -> int:
        slices._templated.empty()
        assert slices._scanned.record is not None
        slices._scanned.record[:n] = np.arange(n)
        slices._scanned.n = n
        return n

    slices._run_templates = run_templates  # type: ignore[method-assign]

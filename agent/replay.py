"""Sketches files instead of a topic: the engine of `inferometer replay`.

The same decoder, delta, chunk and fold as `run`; what differs is where rows come from and that all
input ends. Files are read one after another in the order given, each a partition of its own; at its end
a file holds the watermark no more, and at the end of all every window is sealed.

Rows are late as they would be live: behind `windows.out_of_orderness_s`. They are in the totals.
"""

from __future__ import annotations

import dataclasses
import secrets
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import orjson

from agent.config import Config
from agent.decode.events import Decoded
from agent.decode.fast import FastDecoder
from agent.decode.lanes import StreamTable
from agent.errors import ConfigError
from agent.fold.base import Fold
from agent.fold.effects import Effects
from agent.ingest.files import EventFile, open_file
from agent.kernel_thread import MAX_KNOWN_LANES, MAX_KNOWN_STREAMS, Part
from agent.replay_links import Links
from agent.sketch.delta import Delta, concat
from agent.sketch.pair_scorer import Tables
from agent.state.chunk import merge_digest
from agent.types import Block, Exemplar, Fetch, PartitionRange, TableFetch, Tally

#: Rows of one delta; `delivery.cut_max_bytes` and `cut_max_windows` may cut sooner.
CUT_ROWS: Final = 1 << 16
_PROGRESS_EVERY_S: Final = 0.1
#: Pair sums of one delta: of more windows than a cut ever has.
_PAIRS_BYTES: Final = 1 << 28


@dataclass(slots=True)
class Progress:
    """How far a replay is. `size_bytes` is 0 when it is not known."""

    path: Path
    position_bytes: int
    size_bytes: int
    rows: int


def run(
    files: Sequence[Path],
    config: Config,
    *,
    json: bool = False,
    quiet: bool = False,
    model: str | None = None,
) -> int:
    """Sketch the files and print what they hold: one JSON document, or a table. Returns the exit status.

    Raises ConfigError for a file that cannot be opened, SourceError for one that cannot be read to its end.
    """
    if model is not None:
        decode = msgspec.structs.replace(config.decode, default_model=model)
        config = msgspec.structs.replace(config, decode=decode)
    began = time.monotonic()
    with progress_bar(quiet=quiet or not sys.stderr.isatty()) as show:
        fold = sketch_files(files, config, on_progress=show)
    took_s = time.monotonic() - began
    if json:
        sys.stdout.buffer.write(orjson.dumps(fold.report(), option=orjson.OPT_APPEND_NEWLINE))
        sys.stdout.buffer.flush()
    else:
        from agent import replay_text

        replay_text.show(fold.state(time.time_ns()), sys.stdout)
    if not quiet:
        rate = fold.tally.rows / took_s if took_s > 0 else 0.0
        print(f"{fold.tally.rows:,} rows in {took_s:.2f} s ({rate:,.0f} rows/s)", file=sys.stderr)
    return 0


def sketch_files(
    files: Sequence[Path],
    config: Config,
    *,
    on_progress: Callable[[Progress], None] | None = None,
    on_effects: Callable[[Effects], None] | None = None,
    rows_per_window: int | None = None,
    tables: Tables | None = None,
    on_links: Callable[[list[Exemplar]], None] | None = None,
    clock: Callable[[], int] = time.time_ns,
) -> Fold:
    """Everything in the files, folded and sealed. Raises as `run` does.

    on_effects       told what each cut brought about, sealed profiles with it, and the end at last
    rows_per_window  windows of so many rows, in the order of the files, whatever times they carry:
                     window w holds the rows w * n to (w + 1) * n
    tables           score tables of models whose columns are compared in pairs
    on_links         told which bins requests of known traces are in (`replay_links`), before their windows seal
    """
    if not files:
        raise ConfigError("no file given; name at least one, or - for standard input")
    if config.privacy.values is None:  # who can run this can read the files
        privacy = msgspec.structs.replace(config.privacy, values="names")
        config = msgspec.structs.replace(config, privacy=privacy)
    sources: list[EventFile] = []
    try:
        # All are opened before any is read: a wrong name must not cost the work done before it.
        for path in files:
            if any(source.path == path for source in sources):
                raise ConfigError(f"{path} is given twice; its rows would be counted twice")
            sources.append(open_file(path, config))
        sketching = _Sketching(config, clock, on_effects, rows_per_window, tables, on_links)
        for source in sources:
            for progress in sketching.read(source):
                if on_progress is not None:
                    on_progress(progress)
        return sketching.finish()
    finally:
        for source in sources:
            source.close()


class _Sketching:
    """One thread's road from batches to the fold."""

    def __init__(
        self,
        config: Config,
        clock: Callable[[], int],
        on_effects: Callable[[Effects], None] | None,
        rows_per_window: int | None,
        tables: Tables | None,
        on_links: Callable[[list[Exemplar]], None] | None,
    ) -> None:
        if rows_per_window is not None:  # numbered rows are never out of order
            windows = msgspec.structs.replace(config.windows, out_of_orderness_s=0.0)
            config = msgspec.structs.replace(config, windows=windows)
        self._clock = clock
        self._on_effects = on_effects
        self._rows_per_window = rows_per_window
        self._width_ms = int(config.windows.width_s * 1000)
        self._n_numbered = 0
        self._limits = config.delivery
        self._table = StreamTable()
        self._links = Links(config, on_links) if on_links is not None else None
        sampler = self._links.sampler if self._links is not None else None
        # The same files give the same report, to the last bit of a sum.
        self._decoder = FastDecoder(config, self._table, sampler, learning_clock=lambda: 0.0)
        self._delta = Delta(self._table)
        self._delta.score(tables or {}, _PAIRS_BYTES)
        self._fold = Fold(config, start_ns=clock())
        self._digest = merge_digest(config)
        self._run_id = secrets.token_hex(8)
        self._n_chunks = 0
        self._tally = Tally()
        self._rows = 0

    def read(self, source: EventFile) -> Iterator[Progress]:
        """Sketch one file; yields now and then."""
        lineage = f"{self._run_id}-{source.path}"
        at = PartitionRange(source.partition, 0, 0, lineage, "", -1, -1, False, 0)
        shown = 0.0
        for batch in source.batches():
            for part in self._decode(batch, source.path.as_posix()):
                for block in part.blocks:
                    if self._rows_per_window is not None:
                        self._number(block, self._rows_per_window)
                    self._delta.add(block)
                self._tally.add(part.tally)
                if self._links is not None:
                    self._links.take(part)
                self._rows += part.tally.rows
                at.to_offset = part.to_offset
                at.max_event_time_ms = max(at.max_event_time_ms, self._reached_ms(part))
                if part.tally.rows:
                    at.last_row_ns = self._clock()
                if self._is_full():
                    self._cut(at)
                now = time.monotonic()
                if now - shown >= _PROGRESS_EVERY_S:
                    shown = now
                    yield self._progress(source)
        self._cut(at)
        self._fold.finish([source.partition])
        yield self._progress(source)

    def _decode(self, batch: Fetch | TableFetch, lineage: str) -> Iterator[Decoded]:
        """`lineage`: which rows of a batch are drawn for links depends on it, so it is the same in each run."""
        if isinstance(batch, TableFetch):
            return self._decoder.decode_table(batch, lineage)
        return self._decoder.decode(batch, lineage)

    def _number(self, block: Block, rows_per_window: int) -> None:
        """Windows by the number of the row instead of its time, in place."""
        rows = block.stream >= 0  # others are counted elsewhere
        place = self._n_numbered + np.cumsum(rows)
        block.window[rows] = (place[rows] - 1) // rows_per_window
        self._n_numbered += int(rows.sum())

    def _reached_ms(self, part: Decoded) -> int:
        """How far the file's clock is; it seals the windows behind it."""
        if self._rows_per_window is None:
            return part.max_event_time_ms
        return self._n_numbered // self._rows_per_window * self._width_ms

    def _progress(self, source: EventFile) -> Progress:
        return Progress(source.path, source.position_bytes, source.size_bytes, self._rows)

    def _is_full(self) -> bool:
        delta, limits = self._delta, self._limits
        return (
            delta.rows >= CUT_ROWS
            or delta.size_bytes >= limits.cut_max_bytes
            or delta.n_windows >= limits.cut_max_windows
            or self._is_table_full()
        )

    def _is_table_full(self) -> bool:
        """The stream table is a cache: past these bounds it starts afresh at the next cut."""
        table = self._table
        return len(table.keys) > MAX_KNOWN_STREAMS or table.size > MAX_KNOWN_LANES

    def _cut(self, at: PartitionRange) -> None:
        """Freeze the delta and fold it; `at` moves to where the next one starts."""
        groups, numeric, strings = self._delta.freeze()
        self._decoder.on_cut()
        part = Part(
            groups, numeric, strings, [dataclasses.replace(at)], self._tally, [], [], Counter()
        )
        self._tally = Tally()
        self._n_chunks += 1
        chunk = concat(
            [part], run_id=self._run_id, number=self._n_chunks, epoch=1, digest=self._digest
        )
        if self._links is not None:
            self._links.cut()
        self._tell(self._fold.apply(chunk, self._clock()))
        at.from_offset = at.to_offset
        at.prev = f"{self._run_id}-{self._n_chunks}"
        if self._rows_per_window is None:
            self._decoder.sealed_until = self._fold.sealed_until
        if self._is_table_full():
            self._table.clear()

    def finish(self) -> Fold:
        self._tell(self._fold.seal_all(self._clock()))
        return self._fold

    def _tell(self, effects: Effects) -> None:
        if self._on_effects is not None:
            self._on_effects(effects)


@contextmanager
def progress_bar(*, quiet: bool) -> Iterator[Callable[[Progress], None] | None]:
    """A bar on stderr that follows the bytes read."""
    if quiet:
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        TaskID,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bar

    bar = Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TextColumn("{task.fields[rows]:,} rows"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    tasks: dict[Path, TaskID] = {}

    def show(progress: Progress) -> None:
        total = progress.size_bytes or None
        task = tasks.get(progress.path)
        if task is None:
            task = tasks[progress.path] = bar.add_task(progress.path.name, total=total, rows=0)
        bar.update(task, completed=progress.position_bytes, total=total, rows=progress.rows)

    with bar:
        yield show

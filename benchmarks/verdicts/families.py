"""The streams in which nothing happens that are judged: which sizes, which references, in which families."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import islice

from benchmarks.verdicts.quiet import (
    HOURS,
    Against,
    Parts,
    Quiet,
    Source,
    block_rows,
    joined,
    judge_quietly,
    of_blocks,
    of_hours,
)
from benchmarks.verdicts.segments import in_parts
from benchmarks.verdicts.trial import fresh
from benchmarks.verdicts.worlds import (
    World,
    days,
    digits,
    drawn_from,
    flights,
    independent,
    large,
    minutes,
    sessions,
    wander,
)


@dataclass(frozen=True)
class Cell:
    """One kind of stream at one size.

    windows   judged after each reference
    goes_on   they continue the reference in the state in which it ended; else a new stream of the kind begins
    block     rows of the blocks that calibrate; 0: as `profile build` cuts a file
    by_hour   a baseline for each hour of the day, from windows of an hour
    """

    family: str
    stream: str
    source: Callable[[], Source]
    rows: int
    reference_rows: int
    windows: int
    goes_on: bool = False
    block: int = 0
    by_hour: bool = False

    @property
    def name(self) -> str:
        sizes = f"{self.rows:,} rows, reference of {self.reference_rows:,}"
        return f"{self.family}: {self.stream}, {sizes}"

    def run(self, seed: int, run: int) -> Quiet:
        """One reference and its windows; what it draws depends on the numbers given alone."""
        rng = fresh(seed, run, self.rows, self.reference_rows)
        source = _opened(self.source)
        size = self.rows if self.by_hour else self.block or block_rows(self.reference_rows)
        stream = source(rng, size)
        blocks = list(islice(stream, self.reference_rows // size))
        against = self._against(blocks)
        later = source(rng, self.rows)
        if self.goes_on:
            later = joined(stream, self.rows // size) if size != self.rows else stream
        return judge_quietly(against, later, self.windows)

    def _against(self, blocks: list[Parts]) -> Against:
        return of_hours([parts[0] for parts in blocks]) if self.by_hour else of_blocks(blocks)


@lru_cache(maxsize=64)
def _opened(source: Callable[[], Source]) -> Source:
    return source()


def _of(make: Callable[[], World]) -> Callable[[], Source]:
    """A stream without segments."""

    def opened() -> Source:
        windows = make().windows
        return lambda rng, rows: ([whole] for whole in windows(rng, rows))

    return opened


def cells() -> list[Cell]:
    """All of them."""
    sizes = (
        (100, 20_000), (300, 20_000), (1_000, 2_000), (1_000, 20_000), (1_000, 100_000), (10_000, 20_000),
        (10_000, 200_000), (100_000, 200_000), (1_000_000, 500_000),
    )  # fmt: skip
    found = [
        Cell("independent rows, 100 to 1,000,000", "12 columns", _of(partial(large, 12)), *size, 60)
        for size in sizes
    ]
    for n, reference, windows in ((5, 20_000, 60), (50, 20_000, 30), (500, 8_000, 8)):
        for correlation in (0.0, 0.5, 0.9):
            make = _of(partial(independent, n, correlation))
            name = f"{n} columns, correlation {correlation:g}"
            found.append(Cell("5 to 500 columns", name, make, 1_000, reference, windows))
    by_row, blocks, pixels, ten = (
        partial(drawn_from, "flights", flights),
        partial(drawn_from, "flights", flights, 25),
        partial(drawn_from, "digits", digits),
        partial(sessions, 8),
    )
    clusters, lasting = "rows that come together", {"goes_on": True}
    found += [
        Cell("real tables, by row", "flights", _of(by_row), 1_000, 20_000, 60),
        Cell("real tables, by row", "flights", _of(by_row), 10_000, 100_000, 20),
        Cell("real tables, by row", "digits", _of(pixels), 1_000, 20_000, 60),
        Cell(clusters, "flights, blocks of 25", _of(blocks), 1_000, 20_000, 60),
        Cell(clusters, "flights, blocks of 25", _of(blocks), 10_000, 100_000, 20),
        Cell(clusters, "sessions of 10", _of(ten), 1_000, 20_000, 60),
        Cell("segments", "8 columns, 4 segments", partial(in_parts, 8), 1_000, 20_000, 100),
        Cell("first windows of a model", "12 columns", _of(partial(large, 12)), 1_000, 12_000, 100,
             block=1_000, **lasting),
        Cell("autoregressive minutes", "at .9", _of(partial(minutes, 8)), 1_000, 100_000, 100, **lasting),
        Cell("autoregressive minutes", "at .9", _of(partial(minutes, 8)), 1_000, 500_000, 100, **lasting),
        Cell("levels that wander", "minutes at .3", _of(partial(wander, 8)), 1_000, 500_000, 100, **lasting),
        Cell("days", "blocks of rows", _of(partial(days, 8)), 1_000, 500_000, 96, **lasting),
        Cell("days, baseline of the same hour", "windows of an hour", _of(partial(days, 8)), 1_000,
             14 * HOURS * 1_000, 96, by_hour=True, **lasting),
    ]  # fmt: skip
    return found

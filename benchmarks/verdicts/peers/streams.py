"""The same streams for every tool: real flights, a reference each run, quiet windows, and the breaks of `breaks`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.verdicts.breaks import Break, breaks
from benchmarks.verdicts.caught import NUMBER, PAIR, SOURCES, TEXT
from benchmarks.verdicts.peers.given import Broken, Rows, Run, Table, write_run, write_table
from benchmarks.verdicts.trial import fresh
from benchmarks.verdicts.worlds import flights

REFERENCE_ROWS = 20_000
#: Windows of a break.
BROKEN = 5
#: The eight that must be caught without the stalled topic, missing values, and a tenth of the rows.
_COMPARED = 9
Generator = np.random.Generator


@dataclass(frozen=True)
class Setting:
    """Rows of flights at random, in blocks of so many neighbours, so many a window."""

    block: int
    rows: int

    @property
    def name(self) -> str:
        order = f"blocks of {self.block}" if self.block > 1 else "by row"
        return f"flights, {order}, {self.rows:,} rows a window"

    def draw(self, rng: Generator, of: int, windows: int, rows: int) -> Rows:
        """int32[windows, rows], numbers of rows of a table that has `of`."""
        n_blocks = -(-rows // self.block)
        starts = rng.integers(0, of - self.block + 1, (windows, n_blocks, 1), dtype=np.int32)
        places = starts + np.arange(self.block, dtype=np.int32)
        return places.reshape(windows, -1)[:, :rows]


SETTINGS = (Setting(1, 10_000), Setting(25, 10_000), Setting(1, 1_000), Setting(25, 1_000))


def compared() -> tuple[Break, ...]:
    """The breaks that are done to each run."""
    return breaks(PAIR[1], SOURCES["operations"])[:_COMPARED]


def feature_of(change: Break) -> str:
    """What a break is done to."""
    if change.kind == "text":
        return TEXT
    return PAIR[0] if change.others else NUMBER


def right_features() -> dict[str, tuple[str, ...]]:
    """Of each break the features that an alarm may name first."""
    return {change.name: (feature_of(change), *change.others) for change in compared()}


def write_streams(folder: Path, setting: Setting, *, runs: int, quiet: int, seed: int) -> None:
    """All runs of a setting, with `quiet` windows in which nothing happens."""
    table = flights()
    n = len(next(iter(table.values())))
    write_table(folder, table)
    for run in range(runs):
        seeds = (seed, setting.block, setting.rows, run)
        broken = {
            change.name: _broken(
                table,
                setting.draw(fresh(*seeds, 2, at), n, BROKEN, setting.rows),
                change,
                fresh(*seeds, 3, at),
            )
            for at, change in enumerate(compared())
        }
        reference = setting.draw(fresh(*seeds, 0), n, 1, REFERENCE_ROWS)[0]
        quiet_rows = setting.draw(fresh(*seeds, 1), n, quiet, setting.rows)
        write_run(folder, run, Run(reference, quiet_rows, broken))


def _broken(table: Table, windows: Rows, change: Break, rng: Generator) -> Broken:
    changed: list[Table] = []
    gone: tuple[str, ...] = ()
    for rows in windows:
        before = {name: values[rows] for name, values in table.items()}
        after = change.apply(before, rng, feature_of(change))
        changed.append({k: v for k, v in after.items() if v is not before[k]})
        gone = tuple(name for name in before if name not in after)
    return Broken(windows, changed, gone)

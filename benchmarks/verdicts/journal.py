"""A long run that can be broken off: what each batch of references gave is a line of a file.

Cells take turns, a batch of references each, so that whatever is there when the run ends says something of all.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from benchmarks.frame import progress
from benchmarks.machine import describe
from benchmarks.verdicts.families import Cell
from benchmarks.verdicts.quiet import Quiet

#: References of a cell in its turn.
BATCH = 10


class Line(msgspec.Struct):
    """One batch: references `first` to `first` + found.references of a cell, and the code that judged them."""

    cell: str
    seed: int
    first: int
    commit: str
    found: Quiet


@dataclass
class Journal:
    """Lines by cell, kept in a file where one is given. Raises msgspec.DecodeError for a file of something else."""

    path: Path | None = None
    lines: dict[str, list[Line]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.path is None or not self.path.exists():
            return
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]  # the last line may have been cut off
        if whole != data:
            self.path.write_bytes(whole)
        for text in whole.splitlines():
            line = msgspec.json.decode(text, type=Line)
            self.lines.setdefault(line.cell, []).append(line)

    def add(self, line: Line) -> None:
        self.lines.setdefault(line.cell, []).append(line)
        if self.path is not None:
            with self.path.open("ab") as file:
                file.write(msgspec.json.encode(line) + b"\n")

    def done(self, cell: str, seed: int) -> int:
        """References judged; a cell's follow each other."""
        return sum(x.found.references for x in self.lines.get(cell, []) if x.seed == seed)

    def total(self, cell: str) -> Quiet:
        out = Quiet()
        for line in self.lines.get(cell, []):
            out.add(line.found)
        return out

    def commits(self, cell: str) -> list[str]:
        return sorted({line.commit for line in self.lines.get(cell, [])})


def judge_all(cells: Sequence[Cell], journal: Journal, runs: int, seed: int) -> None:
    """Judge what the journal lacks of `runs` references a cell."""
    commit = str(describe()["commit"])
    left: list[tuple[int, int, Cell]] = []
    done = {cell.name: journal.done(cell.name, seed) for cell in cells}
    for turn in range(0, runs, BATCH):
        for cell in cells:
            first, end = done[cell.name], min(turn + BATCH, runs)
            if first < end:
                left.append((first, end, cell))
                done[cell.name] = end
    spent: dict[str, float] = {}  # wall seconds of a reference
    began = time.monotonic()
    for at, (first, end, cell) in enumerate(left):
        found, start = Quiet(), time.monotonic()
        for run in range(first, end):
            cpu = time.process_time()
            one = cell.run(seed, run)
            one.cpu_s = time.process_time() - cpu
            found.add(one)
        journal.add(Line(cell.name, seed, first, commit, found))
        spent[cell.name] = (time.monotonic() - start) / found.references
        known = sum(spent.values()) / len(spent)
        rest = sum(spent.get(c.name, known) * (to - of) for of, to, c in left[at + 1 :])
        progress(
            f"{time.monotonic() - began:,.0f} s, {at + 1} of {len(left)}, {rest / 60:,.0f} min left: {cell.name}: "
            f"{found.alarms(200.0)} alarms in {found.windows}"
        )

"""The streams as files: written once by the driver, read by every tool's process. Needs numpy alone.

A folder holds the whole table, and of each run the rows of its reference and windows by number; of a window
in a break also the columns that differ. `""` and NaN are missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Table = dict[str, Array]
Rows = NDArray[np.int32]


@dataclass(frozen=True)
class Broken:
    """One break: row numbers of its windows, columns that differ (by window), and names that are gone."""

    rows: Rows
    changed: list[Table]
    gone: tuple[str, ...]


@dataclass(frozen=True)
class Run:
    """A reference, windows in which nothing happens, and breaks; each break follows the first `before` windows."""

    reference: Rows
    quiet: Rows
    broken: dict[str, Broken]


def write_table(folder: Path, table: Table) -> None:
    np.savez(folder / "table.npz", **table)  # type: ignore[arg-type]


def write_run(folder: Path, number: int, run: Run) -> None:
    parts: dict[str, Array] = {"reference": run.reference, "quiet": run.quiet}
    parts["breaks"] = np.array(list(run.broken))
    for at, broken in enumerate(run.broken.values()):
        parts[f"rows/{at}"] = broken.rows
        parts[f"gone/{at}"] = np.array(broken.gone, dtype="U")
        for window, changed in enumerate(broken.changed):
            for name, values in changed.items():
                parts[f"changed/{at}/{window}/{name}"] = values
    np.savez(folder / f"run-{number:03}.npz", **parts)  # type: ignore[arg-type]


class Given:
    """What a folder holds."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with np.load(folder / "table.npz") as held:
            self.table: Table = {name: held[name] for name in held.files}

    def runs(self) -> Iterator[Run]:
        for path in sorted(self._folder.glob("run-*.npz")):
            with np.load(path) as held:
                names = held["breaks"].tolist()
                yield Run(
                    held["reference"],
                    held["quiet"],
                    {name: _broken(held, at) for at, name in enumerate(names)},
                )

    def at(self, rows: Rows) -> Table:
        return {name: values[rows] for name, values in self.table.items()}

    def windows(self, broken: Broken) -> list[Table]:
        """The windows of a break."""
        return [
            {k: v for k, v in {**self.at(rows), **changed}.items() if k not in broken.gone}
            for rows, changed in zip(broken.rows, broken.changed, strict=True)
        ]


def _broken(held: Any, at: int) -> Broken:
    rows = held[f"rows/{at}"]
    changed: list[Table] = [{} for _ in rows]
    for key in held.files:
        kind, _, rest = key.partition("/")
        if kind == "changed" and rest.startswith(f"{at}/"):
            _, window, name = rest.split("/", 2)
            changed[int(window)][name] = held[key]
    return Broken(rows, changed, tuple(held[f"gone/{at}"].tolist()))

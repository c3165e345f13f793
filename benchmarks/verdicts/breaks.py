"""What breaks in a feed, done to a table: each names the features that an alarm may blame first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchmarks.verdicts.worlds import Table

Generator = np.random.Generator


@dataclass(frozen=True)
class Break:
    """`apply(table, rng, feature)` is a changed copy; `others` may be blamed as well as the feature."""

    name: str
    apply: Callable[[Table, Generator, str], Table]
    kind: str = "number"  # of what it is done to: number, text, any, source
    others: tuple[str, ...] = ()


def with_(table: Table, **columns: np.ndarray) -> Table:
    return {**table, **columns}


def null(table: Table, rng: Generator, name: str) -> Table:
    """A feed that turns null."""
    values = table[name]
    return {**table, name: np.full(len(values), "" if values.dtype.kind == "U" else np.nan)}


def units(table: Table, rng: Generator, name: str) -> Table:
    """Kilometres to miles."""
    return {**table, name: table[name] * 0.621371}


def new_category(table: Table, rng: Generator, name: str) -> Table:
    """One row in 50 has a category that never was."""
    values = table[name].astype("U12")
    values[rng.random(len(values)) < 0.02] = "unheard-of"
    return {**table, name: values}


def mean_shift(table: Table, rng: Generator, name: str) -> Table:
    """The mean moves by 5 %, or by .08 standard deviations where that is more."""
    values = table[name]
    by = max(0.05 * abs(np.nanmean(values)), 0.08 * float(np.nanstd(values)))
    return {**table, name: values + by}


def variance(table: Table, rng: Generator, name: str) -> Table:
    """The standard deviation times 1.2 about the mean."""
    values = table[name]
    mean = np.nanmean(values)
    return {**table, name: mean + 1.2 * (values - mean)}


def vanished(table: Table, rng: Generator, name: str) -> Table:
    """The feature is in no row any more."""
    return {key: values for key, values in table.items() if key != name}


def some_missing(table: Table, rng: Generator, name: str) -> Table:
    """Two rows in 100 more lack the value."""
    values = table[name].copy()
    gone = rng.random(len(values)) < 0.02
    values[gone] = "" if values.dtype.kind == "U" else np.nan
    return {**table, name: values}


def swapped(other: str) -> Callable[[Table, Generator, str], Table]:
    def apply(table: Table, rng: Generator, name: str) -> Table:
        return {**table, name: table[other], other: table[name]}

    return apply


def segment(share: float = 0.1) -> Callable[[Table, Generator, str], Table]:
    """A tenth of the rows moves by half a standard deviation."""

    def apply(table: Table, rng: Generator, name: str) -> Table:
        values = table[name]
        hit = rng.random(len(values)) < share
        return {**table, name: np.where(hit, values + 0.5 * np.nanstd(values), values)}

    return apply


def stale(columns: tuple[str, ...]) -> Callable[[Table, Generator, str], Table]:
    """One row in ten gets nothing from a source."""

    def apply(table: Table, rng: Generator, name: str) -> Table:
        gone = rng.random(len(table[columns[0]])) < 0.1
        return {**table, **{c: np.where(gone, np.nan, table[c]) for c in columns}}

    return apply


def ramp(windows: int = 6, by: float = 0.3) -> Callable[[Table, Generator, str], Table]:
    """The mean moves by some standard deviations, a step a window."""
    step = 0

    def apply(table: Table, rng: Generator, name: str) -> Table:
        nonlocal step
        step += 1
        values = table[name]
        return {**table, name: values + by * min(1.0, step / windows) * np.nanstd(values)}

    return apply


def breaks(other: str, source: tuple[str, ...]) -> tuple[Break, ...]:
    """The breaks of the benchmark but the stalled topic, of which no window tells; the first seven are its eight
    without that one. `other`: to swap with; `source`: columns of numbers that come from one. Each call gives
    breaks that have not begun."""
    return (
        Break("turns null", null, "any"),
        Break("unit: km to miles", units),
        Break("swapped pair", swapped(other), others=(other,)),
        Break("new category, 2 %", new_category, "text"),
        Break("mean +5 % (>= .08 sd)", mean_shift),
        Break("sd x 1.2", variance),
        Break("vanished", vanished, "any"),
        Break("2 % missing", some_missing, "any"),
        Break("a tenth of rows, half an sd", segment()),
        Break("ramp to .3 sd in 6 windows", ramp()),
        Break("a source lacks a tenth of rows", stale(source), "source"),
    )

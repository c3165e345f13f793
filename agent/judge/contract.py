"""Checks a window against its contract: deterministic, immediate, and silent on few rows.

Gate: a window of fewer than MIN_ROWS rows breaks nothing, and where the rule is a rate, its exact lower
bound (Clopper and Pearson 1934) at ALPHA must be above the rate allowed. So one odd row never pages, and
hundreds of columns checked every minute for years do not either.

Rows outside of a range are counted by buckets that lie outside of it as a whole: never more than there are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.config.contract import ColumnRule, ModelContract, RowRule
from agent.fold.kinds import TYPE_OF
from agent.fold.profile import Profile, ProfileColumn
from agent.judge.counted import Counted, CountedColumn
from agent.judge.drift import binomial_bounds
from agent.judge.sketch_counts import Counts, Numbers, Texts, bucket_of
from agent.sketch.hash import merge_hash
from agent.sketch.kernels.layout import HASHED_BUCKETS
from agent.types import Column, Role

MIN_ROWS: Final = 20
ALPHA: Final = 1e-6
#: A bucket counts as outside a bound only when it is outside by more than rounding of its edges.
_EDGE: Final = 1e-9


class Breach(msgspec.Struct, frozen=True, array_like=True):
    """One broken rule. `column` None: the stream's. `value` and `threshold` are what the rule compares."""

    column: Column | None
    statistic: str  # vanished, missing, type, range, category, distinct, dimension, zeros, new, errors, volume
    value: float
    threshold: float
    detail: str
    is_schema: bool = False  # a new feature: to be told, not to wake somebody


def rate_is_above(hits: float, rows: float, allowed: float) -> bool:
    """Whether hits of rows are certainly (1 - ALPHA) a larger share than `allowed`."""
    if rows < MIN_ROWS or hits <= allowed * rows:
        return False
    return binomial_bounds(round(hits), round(rows), 2 * ALPHA)[0] > allowed


def breaches(
    contract: ModelContract, window: Profile, counted: Counted, known: Iterable[Column] | None
) -> list[Breach]:
    """The rules that a window of the whole model breaks, gravest first within a column.

    known  columns of the baseline, against which a column is new; None: those of the contract
    """
    found = list(_rows(contract.rows, window))
    if window.rows < MIN_ROWS:
        return found
    for column, rule in columns_of(contract):
        found += _column(column, rule, window, counted)
    if not contract.new_features:
        expected = {column for column, _ in columns_of(contract)} | set(known or ())
        for column, held in window.columns.items():
            present = sum(held.present)
            if column.role is Role.FEATURE and column not in expected and present:
                detail = f"{present:,} of {window.rows:,} rows have it, the contract does not"
                found.append(
                    Breach(column, "new", present / window.rows, 0.0, detail, is_schema=True)
                )
    return found


def columns_of(contract: ModelContract) -> Iterator[tuple[Column, ColumnRule]]:
    """Every column with a rule."""
    for name, rule in contract.features.items():
        yield Column(Role.FEATURE, name), rule
    for name, rule in contract.predictions.items():
        yield Column(Role.PREDICTION, name), rule


def _rows(rule: RowRule, window: Profile) -> Iterator[Breach]:
    if rule.errors is not None and rate_is_above(window.errors, window.rows, rule.errors):
        share = window.errors / window.rows
        detail = f"{share:.1%} of rows are errors; at most {rule.errors:.1%} may be"
        yield Breach(None, "errors", share, rule.errors, detail)
    if window.is_partial:
        return
    if rule.min is not None and _is_fewer(window.rows, rule.min):
        detail = f"{window.rows:,} rows; a window has at least {rule.min:,}"
        yield Breach(None, "volume", window.rows, rule.min, detail)
    if rule.max is not None and _is_fewer(rule.max, window.rows):
        detail = f"{window.rows:,} rows; a window has at most {rule.max:,}"
        yield Breach(None, "volume", window.rows, rule.max, detail)


def _is_fewer(rows: float, than: float) -> bool:
    """By more than counting noise (5 standard deviations of a Poisson count)."""
    return rows < than - 5.0 * math.sqrt(than)


def _column(
    column: Column, rule: ColumnRule, window: Profile, counted: Counted
) -> Iterator[Breach]:
    held = window.columns.get(column)
    present = sum(held.present) if held is not None else 0
    read = counted.columns.get(column)
    usable = _usable(present, read)
    if not usable:
        if rule.required:
            what = "is in no row" if not present else "has no usable value in any row"
            detail = f"{what} of {window.rows:,}"
            yield Breach(column, "vanished", 1.0, rule.missing or 0.0, detail)
        return
    assert held is not None
    wrong = _violations(rule, held)
    allowed = rule.violations or 0.0
    if rule.kind is not None and rate_is_above(wrong, present, allowed):
        share = wrong / present
        detail = f"{share:.1%} of values are not {rule.kind}; at most {allowed:.2%} may be"
        yield Breach(column, "type", share, allowed, detail)
        if wrong == present:
            return
    missing = window.rows - usable
    if rule.missing is not None and rate_is_above(missing, window.rows, rule.missing):
        share = missing / window.rows
        detail = f"{share:.1%} of rows have no value; at most {rule.missing:.2%} may be without"
        yield Breach(column, "missing", share, rule.missing, detail)
    if read is not None:
        yield from _values(column, rule, read)
        yield from _vectors(column, rule, read)
    if rule.distinct is not None:
        yield from _distinct(column, rule.distinct, held, usable)


def _usable(present: int, read: CountedColumn | None) -> int:
    """Values that are neither NaN nor infinite."""
    if read is None or read.numbers is None:
        return present
    return present - read.numbers.non_finite


def _violations(rule: ColumnRule, held: ProfileColumn) -> int:
    """Values of another type than the rule's, whatever the fold took the column for."""
    if rule.kind is None:
        return 0
    return sum(held.present) - held.present[TYPE_OF[rule.kind]]


def _values(column: Column, rule: ColumnRule, read: CountedColumn) -> Iterator[Breach]:
    if read.numbers is not None and read.numbers.count:
        numbers = read.numbers
        out = outside_range(numbers, rule.min, rule.max)
        if rate_is_above(out, numbers.count, rule.outside):
            low = "" if rule.min is None else f"{rule.min:g}"
            high = "" if rule.max is None else f"{rule.max:g}"
            share = out / numbers.count
            detail = (
                f"{share:.1%} of values lie outside of {low}..{high} "
                f"(from {numbers.low:g} to {numbers.high:g})"
            )
            yield Breach(column, "range", share, rule.outside, detail)
    if read.texts is not None and rule.categories is not None and read.texts.count:
        texts = read.texts
        out, names = outside_categories(texts, rule.categories)
        if rate_is_above(out, texts.count, rule.outside):
            share = out / texts.count
            named = f": {', '.join(names)}" if names else ""
            detail = f"{share:.1%} of values are categories that are not allowed{named}"
            yield Breach(column, "category", share, rule.outside, detail)


def _vectors(column: Column, rule: ColumnRule, read: CountedColumn) -> Iterator[Breach]:
    """Elements of vectors, by those that were sampled; and vectors without any, by all."""
    if rule.dimension is not None and read.vectors:
        total = sum(cloud.rows for cloud in read.vectors.values())
        right = read.vectors.get(rule.dimension)
        wrong = total - (right.rows if right is not None else 0.0)
        allowed = rule.violations or 0.0
        if rate_is_above(wrong, total, allowed):
            found = ", ".join(str(d) if d >= 0 else "others" for d in sorted(read.vectors))
            detail = (
                f"{wrong / total:.1%} of vectors do not have {rule.dimension} elements: {found}"
            )
            yield Breach(column, "dimension", wrong / total, allowed, detail)
    if rule.zeros is not None and read.numbers is not None and read.numbers.count:
        zeros, count = float(read.numbers.zeros), read.numbers.count
        if rate_is_above(zeros, count, rule.zeros):
            detail = f"{zeros / count:.1%} of vectors are all zero; at most {rule.zeros:.2%} may be"
            yield Breach(column, "zeros", zeros / count, rule.zeros, detail)


def _distinct(column: Column, allowed: float, held: ProfileColumn, usable: int) -> Iterator[Breach]:
    """Estimated with a standard error of 1.7 %: a tenth below the rule is six of them."""
    distinct = held.facts.distinct
    if distinct is None or usable < MIN_ROWS:
        return
    share = min(1.0, distinct / usable)
    if share < 0.9 * allowed:
        detail = f"{share:.0%} of values are distinct; at least {allowed:.0%} must be"
        yield Breach(column, "distinct", share, allowed, detail)


def outside_range(numbers: Numbers, low: float | None, high: float | None) -> int:
    """Values that are certainly below `low` or above `high`; 0 when the extremes are inside."""
    if (low is None or numbers.low >= low) and (high is None or numbers.high <= high):
        return 0
    step = 2.0**-numbers.scale

    def edges(first: int, n: int) -> tuple[Counts, Counts]:
        with np.errstate(over="ignore"):
            bounds = np.exp2((first + np.arange(n + 1)) * step)
        return bounds[:-1], bounds[1:]

    inner, outer = edges(numbers.first_positive, len(numbers.positive))
    below_inner, below_outer = edges(numbers.first_negative, len(numbers.negative))
    out = 0.0
    if low is not None:
        out += numbers.positive[outer < low * (1 - _EDGE)].sum()
        out += numbers.negative[below_inner > -low * (1 + _EDGE)].sum()
        out += numbers.zeros if low > 2.0**-64 else 0
    if high is not None:
        out += numbers.positive[inner > high * (1 + _EDGE)].sum()
        out += numbers.negative[below_outer < -high * (1 - _EDGE)].sum()
        out += numbers.zeros if high < -(2.0**-64) else 0
    # The extremes themselves are known, even where their bucket is only partly outside.
    if not out:
        out = float(low is not None and numbers.low < low)
        out += float(high is not None and numbers.high > high)
    return int(out)


def outside_categories(texts: Texts, allowed: list[str]) -> tuple[int, list[str]]:
    """Rows whose text is certainly none of `allowed`, and the most frequent of those texts.

    Rows of texts that are named, and of hashed buckets that no allowed text falls into.
    """
    keys, buckets, strange = _allowed(tuple(allowed))
    rows = int(texts.hashed[strange].sum())
    names: list[tuple[int, str]] = []
    for key, n in texts.named.items():
        if key in keys:
            continue
        if bucket_of(key) in buckets:
            rows += int(n)
        if key in texts.names:
            names.append((-int(n), texts.names[key]))
    return rows, [name for _, name in sorted(names)[:5]]


@lru_cache(maxsize=4096)
def _allowed(texts: tuple[str, ...]) -> tuple[frozenset[int], frozenset[int], NDArray[np.bool_]]:
    """Hashes of the texts, the hashed buckets they fall into, and bool[256] which buckets none falls into."""
    keys = frozenset(merge_hash(text.encode()) for text in texts)
    buckets = frozenset(bucket_of(key) for key in keys)
    return keys, buckets, np.array([b not in buckets for b in range(HASHED_BUCKETS)])

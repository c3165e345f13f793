"""One sentence of what moved in a cell: for whoever is paged, from the two distributions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from agent.judge.cells import CellKey, Prepared, Statistic
from agent.judge.counted import Counted, CountedColumn
from agent.judge.numeric_cells import Sides
from agent.judge.sketch_counts import Numbers
from agent.judge.special import normal_quantile
from agent.judge.text_cells import TextBaseline
from agent.judge.vector_cells import described
from agent.sketch.histogram import representatives
from agent.types import Kind

#: Quantiles that must agree on one factor before a change of unit is suspected.
_PROBES: Final = (0.1, 0.25, 0.5, 0.75, 0.9)
_SAME_FACTOR: Final = 1.05
#: Factors nearer to 1 are a drift, not a unit.
_LEAST_FACTOR: Final = 1.1
_MOST_NAMED: Final = 8
#: Said of what is listed for earlier windows.
NORMAL_AGAIN: Final = "normal again in this window"


def how_many(n: int, what: str) -> str:
    """`1 window`, `1,200 windows`."""
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"


def listed(names: Sequence[str]) -> str:
    """`a, b, c`, the first of many; `none`."""
    more = f" and {len(names) - _MOST_NAMED:,} more" if len(names) > _MOST_NAMED else ""
    return (", ".join(names[:_MOST_NAMED]) + more) or "none"


def shift(effect: float) -> str:
    """A location's effect, AUC - 1/2, in words: with what a normal value or a rate would have to move."""
    if effect >= 0.5:
        return "no shift of any size"
    deviations = math.sqrt(2.0) * normal_quantile(math.log(0.5 - effect))
    return (
        f"a shift of {effect:.3f} (P(new > old) - 1/2; "
        f"{deviations:.2g} sd of a normal value, {200.0 * effect:.2g} points of a rate)"
    )


def explain(key: CellKey, baseline: Prepared, window: Counted) -> str:
    """What moved, in words; "" where there is nothing to say."""
    if key.column is None or key.column not in baseline.columns:
        return ""
    before = baseline.columns[key.column]
    now = window.columns.get(key.column)
    if now is None:
        return "not in any row"
    if key.statistic is Statistic.MISSING:
        return _rates("missing", before.missing / baseline.rows, now.missing / window.rows)
    if key.statistic in (Statistic.CENTROID, Statistic.RFF):
        if before.vectors is None or now.vectors is None:
            return ""
        return described(before.vectors, now.vectors)
    if before.numbers is not None and now.numbers is not None and now.numbers.count:
        if before.kind is Kind.BOOLEAN:
            return _rates("true", _true_share(before.numbers), _true_share(now.numbers))
        return _numbers(before.numbers, now.numbers)
    if before.texts is not None and now.texts is not None:
        return _texts(key.statistic, before.texts, now)
    return ""


def _rates(what: str, before: float, now: float) -> str:
    return f"{what} in {before:.3g} of rows before, {now:.3g} now"


def _true_share(numbers: Numbers) -> float:
    return 1.0 - numbers.zeros / numbers.count


def _numbers(before: Numbers, now: Numbers) -> str:
    old, new = quantiles(before, _PROBES), quantiles(now, _PROBES)
    factor = _common_factor(old, new)
    if factor is not None:
        return f"values times {factor:.3g} at every quantile: another unit?"
    return (
        f"median {old[2]:.4g} before, {new[2]:.4g} now; "
        f"10 % to 90 %: {old[0]:.4g} to {old[4]:.4g} before, {new[0]:.4g} to {new[4]:.4g} now"
    )


def _common_factor(old: list[float], new: list[float]) -> float | None:
    """The factor between two sets of quantiles, where all of them agree on one that is not near 1."""
    ratios = [b / a for a, b in zip(old, new, strict=True) if a != 0.0]
    if len(set(old)) < 3 or len(ratios) < 3 or min(ratios) <= 0.0:
        return None
    middle = math.sqrt(min(ratios) * max(ratios))
    is_one_factor = max(ratios) / min(ratios) < _SAME_FACTOR
    return middle if is_one_factor and max(middle, 1.0 / middle) > _LEAST_FACTOR else None


def quantiles(numbers: Numbers, at: tuple[float, ...]) -> list[float]:
    """Quantiles of a histogram, by the values that stand for its buckets."""
    sides = Sides.of(numbers, numbers.scale)
    negative = representatives(sides.scale, sides.first_negative, sides.n_negative)
    positive = representatives(sides.scale, sides.first_positive, sides.n_positive)
    values = np.concatenate((-negative[::-1], (0.0,), positive))
    upto = np.cumsum(sides.masses)
    places = np.searchsorted(upto, np.array(at) * upto[-1])
    found: list[float] = values[np.minimum(places, len(values) - 1)].tolist()
    return [min(max(v, numbers.low), numbers.high) for v in found]


def _texts(statistic: Statistic, before: TextBaseline, now: CountedColumn) -> str:
    assert now.texts is not None
    n, m = now.texts.count, before.texts.count
    if statistic is Statistic.UNSEEN:
        rows, found = before.unseen(now.texts)
        names = ", ".join(f"{text!r} {count / n:.3g}" for text, count in found)
        word = "new" if before.texts.is_exact else "new or rare"
        return f"{word} in {rows / n:.3g} of rows" + (f": {names}" if names else "")
    moves = []
    names_of = before.texts.names | now.texts.names
    for hash_of, text in names_of.items():
        p, q = before.texts.named.get(hash_of, 0) / m, now.texts.named.get(hash_of, 0) / n
        moves.append((-abs(q - p), text, p, q))
    moves.sort()
    return "; ".join(f"{text!r} {p:.3g} before, {q:.3g} now" for _, text, p, q in moves[:3])

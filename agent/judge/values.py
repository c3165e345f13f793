"""Values that monitors compare with bounds: of a column, or of the stream, in one window."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

from agent.config.monitors import DISTANCES, STREAM, VALUES
from agent.fold.kinds import is_string_kind
from agent.fold.profile import Profile, ProfileColumn
from agent.types import Column, Kind, Role
from agent.verdict import Drift

_QUANTILES: Final = {
    "p01": 0.01,
    "p05": 0.05,
    "p25": 0.25,
    "p50": 0.5,
    "p75": 0.75,
    "p95": 0.95,
    "p99": 0.99,
}
#: Metrics that only values of one kind have, by its name; all else is of any kind.
_OF_NUMBERS: Final = frozenset((*_QUANTILES, "mean", "stddev", "min", "max")) | {
    "ks",
    "wasserstein",
    "auc",
}
_OF_TEXTS: Final = frozenset(("chi2", "unseen"))
_LATENCY: Final = Column(Role.LATENCY, "latency")


def owners_of(metric: str) -> str:
    """Of what kind of values a metric is, in words."""
    if metric == "true_rate":
        return "booleans"
    return "numbers" if metric in _OF_NUMBERS else "texts" if metric in _OF_TEXTS else "any kind"


def has(metric: str, kind: Kind | None) -> bool:
    """Whether values of this kind have the metric; of a kind that is not known yet they may."""
    if kind is None:
        return True
    if metric == "true_rate":
        return kind is Kind.BOOLEAN
    if metric in _OF_NUMBERS:
        return not is_string_kind(kind)
    return metric not in _OF_TEXTS or is_string_kind(kind)


def of_stream(metric: str, profile: Profile) -> float:
    """A value of the stream as a whole; nan where there is none."""
    assert metric in STREAM
    if metric == "volume":
        return float(profile.rows)
    if metric == "error_rate":
        return profile.errors / profile.rows if profile.rows else math.nan
    if metric == "freshness":
        return 0.0
    held = profile.columns.get(_LATENCY)
    view = held.numbers if held is not None else None
    if view is None or not view.count:
        return math.nan
    return view.quantile(_QUANTILES[metric.removeprefix("latency_")])


def of_columns(
    metric: str, profile: Profile, columns: Iterable[Column], drift: Iterable[Drift]
) -> dict[Column, float]:
    """A value for each of the columns that has it."""
    wanted = set(columns)
    if metric in DISTANCES:
        return {
            d.column: d.value
            for d in drift
            if d.metric == metric and d.column in wanted and math.isfinite(d.value)
        }
    assert metric in VALUES
    found = {}
    for column, held in profile.columns.items():
        if column in wanted:
            value = _of_column(metric, profile, held)
            if math.isfinite(value):
                found[column] = value
    return found


def _of_column(metric: str, profile: Profile, held: ProfileColumn) -> float:
    present = sum(held.present)
    if metric == "missing_rate":
        return profile.missing(held) / profile.rows if profile.rows else math.nan
    if metric == "violation_rate":
        return held.violations() / present if present else math.nan
    if metric == "distinct":
        return math.nan if held.facts.distinct is None else float(held.facts.distinct)
    if held.kind is None or is_string_kind(held.kind):
        return math.nan
    view = held.numbers
    if view is None or not view.count:
        return math.nan
    if metric == "true_rate":
        return 1.0 - view.zeros / view.count if held.kind is Kind.BOOLEAN else math.nan
    match metric:
        case "mean":
            return view.mean
        case "stddev":
            return view.stddev()
        case "min":
            return view.min
        case "max":
            return view.max
    return view.quantile(_QUANTILES[metric])

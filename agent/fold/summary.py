"""Base -> JSON documents: a stream's columns as numbers that people and pages read.

A COLUMN is {"kind", "count", "missing", "violations", "non_finite", "over_range", "min", "max", "mean",
"stddev", "quantiles", "relative_error", "distinct", "top"}; what does not apply to a kind is null. On the
state page a numeric or vector column also has "histogram".

    count + missing + violations + non_finite = rows. over_range (|x| > 2^64) is part of count.
    relative_error bounds that of quantiles; null when values lie beyond 2^-64..2^64 (`NumericView`).
    top lists a value only when its count is at most 5 % too large: empty when none stands out, and
    where `privacy` shows no texts of the column.

All counts are raw. A stream or window of which load shedding left rows out has "sampling": {"ratio", "rows"}:
what to divide counts by, and the rows there would be by estimate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Final

from agent.fold.kinds import is_string_kind
from agent.fold.profile import Profile, violations
from agent.fold.shown import Shown
from agent.fold.store import Store, read_facts
from agent.fold.streams import Stream
from agent.sketch.views import NumericView, StringView, numeric_view, string_view
from agent.types import Column, Json, Kind, Role, StreamKey, Tally

QUANTILES: Final = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
N_TOP: Final = 10
#: Which of a model's outputs is the main one, where it has several.
_MAIN_OUTPUTS: Final = ("score", "value", "label")

_NUMBERS: Final = (Kind.NUMERIC, Kind.VECTOR)

#: Cells copied at once: a megabyte, and some 4 ms of numpy that hold the GIL.
_AT_ONCE: Final = 64

#: Estimated distinct values by id() of a column's totals.
Distinct = dict[int, int | None]
_Described = Iterable[tuple[Column, Json]]


def _number(x: float) -> float | None:
    return x if math.isfinite(x) else None


def _empty(kind: Kind | None, rows: int, present: list[int]) -> Json:
    return {
        "kind": kind.value if kind is not None else None,
        "count": 0,
        "missing": rows - sum(present),
        "violations": violations(kind, present),
        "non_finite": 0 if kind in _NUMBERS else None,
        "over_range": 0 if kind in _NUMBERS else None,
        "min": None,
        "max": None,
        "mean": None,
        "stddev": None,
        "quantiles": None,
        "relative_error": None,
        "distinct": None,
        "top": [],
    }


def _histogram(view: NumericView) -> Json:
    return {
        "scale": view.scale,
        "zero": view.zeros,
        "positive": {"offset": view.positive_offset, "counts": view.positive.tolist()},
        "negative": {"offset": view.negative_offset, "counts": view.negative.tolist()},
    }


def column(
    kind: Kind | None,
    rows: int,
    present: list[int],
    numbers: NumericView | None,
    texts: StringView | None,
    *,
    top: list[tuple[str, int]],
    distinct: int | None,
    histogram: bool,
) -> Json:
    """One COLUMN of `rows` rows with these values by JSON type. Views may be None: no values.

    `top` is what may be shown of the texts. `distinct` is estimated for many columns at once.
    """
    out = _empty(kind, rows, present)
    if texts is not None:
        out["count"] = texts.count
        out["distinct"] = distinct or 0
        out["top"] = [[text, count] for text, count in top]
        if kind is Kind.TEXT and texts.count:
            out["length"] = {
                "min": texts.length_min,
                "max": texts.length_max,
                "mean": texts.length_sum / texts.count,
            }
    elif numbers is not None:
        out["count"] = numbers.count
        out["distinct"] = distinct or 0
        if kind is Kind.BOOLEAN:
            true = numbers.count - numbers.zeros
            out["mean"] = true / numbers.count if numbers.count else None
            sides = [[True, true], [False, numbers.zeros]]
            out["top"] = sorted((s for s in sides if s[1]), key=lambda s: -s[1])
        else:
            out["non_finite"], out["over_range"] = numbers.non_finite, numbers.over_range
            out["min"], out["max"] = _number(numbers.min), _number(numbers.max)
            out["mean"], out["stddev"] = _number(numbers.mean), _number(numbers.stddev())
            answers = numbers.quantiles(QUANTILES)
            if numbers.count:
                out["quantiles"] = {str(q): x for q, x in zip(QUANTILES, answers, strict=True)}
            out["relative_error"] = numbers.relative_error
    if histogram and kind in _NUMBERS and numbers is not None:
        out["histogram"] = _histogram(numbers)
    return out


def _total_columns(
    stream: Stream, store: Store, distinct: Distinct, shown: Shown, *, histogram: bool
) -> _Described:
    for total in stream.columns.values():
        numbers: NumericView | None = None
        texts: StringView | None = None
        if total.cell >= 0 and total.kind is not None:
            if is_string_kind(total.kind):
                texts = string_view(store.strings.record(total.cell))
            else:
                numbers = numeric_view(store.totals.record(total.cell))
        yield (
            total.column,
            column(
                total.kind,
                stream.rows,
                total.present,
                numbers,
                texts,
                top=_top(shown, total.column, texts),
                distinct=distinct.get(id(total)),
                histogram=histogram,
            ),
        )


def _profile_columns(profile: Profile, shown: Shown) -> _Described:
    for name, c in profile.columns.items():
        texts = c.texts
        yield (
            name,
            column(
                c.kind,
                profile.rows,
                c.present,
                c.numbers,
                texts,
                top=_top(shown, name, texts),
                distinct=c.facts.distinct,
                histogram=True,
            ),
        )


def _top(shown: Shown, column: Column, texts: StringView | None) -> list[tuple[str, int]]:
    return [] if texts is None else shown.frequent(column, texts, N_TOP)


def distinct_totals(streams: Iterable[Stream], store: Store) -> Distinct:
    """Estimated distinct values of every column of totals, by id() of the column."""
    out: Distinct = {}
    for strings in (False, True):
        totals = [
            total
            for stream in streams
            for total in stream.columns.values()
            if total.cell >= 0 and total.kind is not None and is_string_kind(total.kind) is strings
        ]
        pages = store.total_pages(strings)
        for i in range(0, len(totals), _AT_ONCE):
            part = totals[i : i + _AT_ONCE]
            records = pages.copy_out([total.cell for total in part])
            facts = read_facts(records, strings=strings)
            out.update({id(t): f.distinct for t, f in zip(part, facts, strict=True)})
    return out


def _by_role(described: _Described) -> Json:
    """{"features", "predictions", "latency", "usage"}, names sorted."""
    out: Json = {"features": {}, "predictions": {}, "latency": None, "usage": {}}
    into: dict[Role, Callable[[str, Json], None]] = {
        Role.FEATURE: lambda name, c: out["features"].update({name: c}),
        Role.PREDICTION: lambda name, c: out["predictions"].update({name: c}),
        Role.LATENCY: lambda _, c: out.update(latency=c),
        Role.USAGE: lambda name, c: out["usage"].update({name: c}),
    }
    for (role, name), c in sorted(described, key=lambda pair: pair[0]):
        into[role](name, c)
    return out


def main_output(predictions: Json) -> Json | None:
    """The output that stands for the prediction: score, else value, else label, else the first."""
    for name in _MAIN_OUTPUTS:
        if name in predictions:
            found: Json = predictions[name]
            return found
    return next(iter(predictions.values()), None)


def _identity(key: StreamKey) -> Json:
    return {"model": key.model, "version": key.version, "segment": dict(key.segment)}


def _unsketched(stream: Stream) -> Json:
    """Columns past a limit (the first 1000 are told apart) and their values, which no sketch holds."""
    return {"columns": len(stream.unsketched), "values": stream.unsketched_values}


def _sampling(rows: int, unseen: int) -> Json:
    """Only where load was shed: what to divide counts by, and the rows there would be by estimate."""
    if not unseen:
        return {}
    return {"sampling": {"ratio": rows / (rows + unseen), "rows": rows + unseen}}


def stream_state(stream: Stream, store: Store, distinct: Distinct, shown: Shown) -> Json:
    """One entry of `streams` on the state page."""
    return {
        **_identity(stream.key),
        "rows": stream.rows,
        "errors": stream.errors,
        **_sampling(stream.rows, stream.unseen),
        "late": stream.late,
        "future": stream.future,
        "first_seen_ms": stream.first_event_ms if stream.first_event_ms >= 0 else None,
        "last_seen_ms": stream.last_event_ms if stream.last_event_ms >= 0 else None,
        "unsketched": _unsketched(stream),
        "totals": _by_role(_total_columns(stream, store, distinct, shown, histogram=True)),
        "windows": [
            {
                "start_ms": profile.start_ms,
                "end_ms": profile.end_ms,
                "rows": profile.rows,
                "errors": profile.errors,
                **_sampling(profile.rows, profile.unseen),
                "partial": profile.is_partial,
                "coverage": profile.coverage,
                **_by_role(_profile_columns(profile, shown)),
            }
            for profile in stream.sealed
        ],
    }


def stream_report(stream: Stream, store: Store, distinct: Distinct, shown: Shown) -> Json:
    """One entry of `streams` in the replay document."""
    columns = _by_role(_total_columns(stream, store, distinct, shown, histogram=False))
    return {
        **_identity(stream.key),
        "rows": stream.rows,
        "errors": stream.errors,
        "unsketched": _unsketched(stream),
        "features": columns["features"],
        "prediction": main_output(columns["predictions"]),
        "predictions": columns["predictions"],
        "latency": columns["latency"],
        "usage": columns["usage"],
    }


def tally(counts: Tally) -> Json:
    """The tally, without reasons that never occurred."""
    return {
        "records": counts.records,
        "events": counts.events,
        "rows": counts.rows,
        "labels": counts.labels,
        "size_bytes": counts.size_bytes,
        "rows_by_tier": _seen(counts.rows_by_tier),
        "dropped": _seen(counts.dropped),
        "irregular": _seen(counts.irregular),
        "labels_by_model": _seen(counts.labels_by_model),
    }


def _seen(counter: dict[str, int]) -> Json:
    return {str(name): n for name, n in sorted(counter.items()) if n}

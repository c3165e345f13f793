"""References as tables for people: columns with small histograms, and two of them side by side."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple

from agent.fold.kinds import is_string_kind
from agent.fold.profile import Profile, ProfileColumn
from agent.fold.shown import Shown
from agent.fold.summary import column as column_json
from agent.judge.drift_shown import drifts
from agent.judge.explanation import listed
from agent.judge.reference import ModelKey, Reference, ReferenceStream
from agent.judge.vector_cells import read_vectors, vectors_json
from agent.replay_text import bars, bin_counts, number
from agent.types import Column, Json, Kind, Role, StreamKey
from agent.verdict import Drift, shown_name, stream_json

_BINS: Final = 16
_NAME_CHARS: Final = 40
_TOP: Final = 10
_ORDER: Final = list(Role)
#: The distances that a row of the drift table shows, where the column has them.
_METRICS: Final = ("psi", "js", "ks", "wasserstein", "auc", "true_rate", "unseen", "missing")
#: Of a column that cannot be compared, and how it is said.
_CHANGES: Final = {"new": "new", "vanished": "vanished", "retyped": "of another kind"}

Rows = list[list[str]]


def reference_json(reference: Reference, shown: Shown) -> Json:
    """The document of `profile show --json`."""
    return {
        "id": reference.id,
        "created_ms": reference.created_ms,
        "window_s": reference.width_ms / 1000,
        "streams": [_stream_json(stream, shown) for stream in reference.streams()],
    }


def _stream_json(stream: ReferenceStream, shown: Shown) -> Json:
    profile = stream.profile
    return {
        "stream": stream_json(profile.stream),
        "rows": profile.rows,
        "errors": profile.errors,
        "windows": stream.windows,
        "start_ms": stream.start_ms if stream.windows else None,
        "end_ms": stream.end_ms if stream.windows else None,
        "rows_per_window": {
            "low": stream.rows_low,
            "median": stream.rows_median,
            "high": stream.rows_high,
        }
        if stream.windows
        else None,
        "hours": sorted(stream.hours),
        "calibrated": bool(stream.calibration),
        "columns": {
            shown_name(column): _described(column, held, profile, shown)
            for column, held in _ordered(profile)
        },
    }


def _ordered(profile: Profile) -> list[tuple[Column, ProfileColumn]]:
    return sorted(profile.columns.items(), key=lambda item: _place_of(item[0]))


def _place_of(column: Column) -> tuple[int, Column]:
    return _ORDER.index(column.role), column


def _described(column: Column, held: ProfileColumn, profile: Profile, shown: Shown) -> Json:
    texts = held.texts
    top = shown.frequent(column, texts, _TOP) if texts is not None else []
    body = column_json(
        held.kind,
        profile.rows,
        held.present,
        held.numbers,
        texts,
        top=top,
        distinct=held.facts.distinct,
        histogram=True,
    )
    if held.kind is Kind.VECTOR and (vectors := read_vectors(profile.vectors).get(column)):
        body["vectors"] = vectors_json(vectors)
    return body


def reference_lines(reference: Reference, shown: Shown) -> Iterator[str]:
    """What `profile show` prints."""
    made = datetime.fromtimestamp(reference.created_ms / 1000, UTC)
    yield f"reference {reference.id}, made {made:%Y-%m-%d %H:%M} UTC"
    for stream in reference.streams():
        yield ""
        yield _title(stream, reference.width_ms)
        yield from table(_column_rows(stream.profile, shown), left=(0, 1, 8))


def _title(stream: ReferenceStream, width_ms: int) -> str:
    profile = stream.profile
    text = f"{name_of(profile.stream)}: {profile.rows:,} rows"
    if profile.errors:
        text += f", {profile.errors:,} errors"
    if stream.windows:
        text += (
            f", {stream.windows:,} windows of {width_ms / 1000:g} s with "
            f"{stream.rows_low:,} to {stream.rows_high:,} rows"
        )
    if stream.hours:
        text += ", by hour of the day"
    return text


def name_of(stream: StreamKey) -> str:
    """A stream in words."""
    version = f" version {stream.version}" if stream.version else ""
    segment = "".join(f" {name}={value}" for name, value in stream.segment)
    return f"{stream.model}{version}{segment}"


def _column_rows(profile: Profile, shown: Shown) -> Rows:
    rows: Rows = [
        ["column", "kind", "missing", "min", "p1", "median", "p99", "max", "distribution"]
    ]
    for column, held in _ordered(profile):
        body = _described(column, held, profile, shown)
        quantiles = body["quantiles"] or {}
        rows.append(
            [
                shown_name(column)[:_NAME_CHARS],
                str(held.kind or "?"),
                percent(body["missing"] / profile.rows if profile.rows else 0.0),
                number(body["min"]),
                number(quantiles.get("0.01")),
                number(quantiles.get("0.5")),
                number(quantiles.get("0.99")),
                number(body["max"]),
                _distribution(held, body),
            ]
        )
    return rows


def _distribution(held: ProfileColumn, body: Json) -> str:
    quantiles = body["quantiles"]
    if quantiles and "histogram" in body:
        low, high = quantiles["0.01"], quantiles["0.99"]
        if low == high:
            low, high = body["min"], body["max"]
        shape = bars(bin_counts(body["histogram"], low, high, _BINS, body["min"], body["max"]))
        return f"{shape}  {_elements(body['vectors'])}" if "vectors" in body else shape
    shares = [
        f"{str(value).lower() if isinstance(value, bool) else str(value)[:16]} "
        f"{100 * count / body['count']:.0f}%"
        for value, count in body["top"][:4]
    ]
    if held.kind is not None and is_string_kind(held.kind) and (body["distinct"] or 0) > 4:
        shares.append(f"of {body['distinct']:,}")
    return "  ".join(shares)


def _elements(vectors: Json) -> str:
    """Of vectors, whose numbers are norms: how many elements they have, and how much they point one way."""
    others = f" (and {len(vectors['others'])} more)" if vectors["others"] else ""
    agreement = vectors["agreement"]
    shown = "" if agreement is None else f", agreement {agreement:.2f}"
    return f"{vectors['dimension']} elements{others}{shown}"


def percent(share: float) -> str:
    """A share, "-" for none."""
    if not share:
        return "-"
    return f"{share:.1%}" if share >= 0.001 else "<0.1%"


def table(rows: Rows, left: tuple[int, ...] = (0,)) -> Iterator[str]:
    """Rows (the first is the head) as lines; columns in `left` are aligned there, others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = [
            text.ljust(width) if i in left else text.rjust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield f"  {'  '.join(cells)}".rstrip()


# ---------------------------------------------------------------- two references


class Change(NamedTuple):
    """A column that only one of two references has (`new`, `vanished`), or each as another kind (`retyped`)."""

    change: str
    column: Column
    before: Kind | None
    now: Kind | None


class Difference(NamedTuple):
    """A stream of two references: rows of the second, distances of its columns, which share of the first's
    booleans is true, and columns that cannot be compared."""

    stream: StreamKey
    rows: int
    drift: list[Drift]
    true_rates: dict[Column, float]
    changes: list[Change]


def differences(before: Reference, after: Reference) -> list[Difference]:
    """Of each stream of `after` that `before` knows."""
    found = []
    for stream in after.streams():
        key = stream.stream
        is_whole = any(stream is whole for whole in after.models.values())
        known = before.whole(_model(key)) if is_whole else before.segment(key)
        if known is not None:
            found.append(
                Difference(
                    key,
                    stream.profile.rows,
                    drifts(known.profile, stream.profile),
                    _true_rates(known.profile),
                    _changes(known.profile, stream.profile),
                )
            )
    return found


def models_of_one(before: Reference, after: Reference) -> list[tuple[str, str]]:
    """Models of which only one of two references has a version: (`new` or `vanished`, name), in order."""
    old, new = ({key.model for key in of.models} for of in (before, after))
    alone = [("vanished", name) for name in sorted(old - new)]
    return alone + [("new", name) for name in sorted(new - old)]


def _changes(before: Profile, after: Profile) -> list[Change]:
    """In the order of _CHANGES, features first, by name."""
    found = []
    for column in sorted(before.columns.keys() | after.columns.keys(), key=_place_of):
        old, new = before.columns.get(column), after.columns.get(column)
        was, now = old.kind if old else None, new.kind if new else None
        if old is None:
            found.append(Change("new", column, None, now))
        elif new is None:
            found.append(Change("vanished", column, was, None))
        elif was is not None and now is not None and was is not now:
            found.append(Change("retyped", column, was, now))
    return sorted(found, key=lambda change: list(_CHANGES).index(change.change))


def _true_rates(profile: Profile) -> dict[Column, float]:
    found = {}
    for column, held in profile.columns.items():
        view = held.numbers if held.kind is Kind.BOOLEAN else None
        if view is not None and view.count:
            found[column] = 1.0 - view.zeros / view.count
    return found


def _model(key: StreamKey) -> ModelKey:
    return ModelKey(key.model, key.version)


def difference_json(before: Reference, after: Reference) -> Json:
    """The document of `profile diff --json`."""
    compared = differences(before, after)
    return {
        "baseline": before.id,
        "compared": after.id,
        "models": [
            {"model": name, "change": change} for change, name in models_of_one(before, after)
        ],
        "drift": [
            {
                "stream": stream_json(drift.stream),
                "feature": shown_name(drift.column),
                "metric": drift.metric,
                "value": _finite(drift.value),
                "bound": [_finite(drift.low), _finite(drift.high)],
                "unit": drift.unit,
            }
            for difference in compared
            for drift in difference.drift
        ],
        "columns": [
            {
                "stream": stream_json(difference.stream),
                "feature": shown_name(change.column),
                "change": change.change,
                "before": change.before,
                "now": change.now,
            }
            for difference in compared
            for change in difference.changes
        ],
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def difference_lines(before: Reference, after: Reference) -> Iterator[str]:
    """What `profile diff` prints: columns of one side only, and a row a column, those that differ most first."""
    yield f"{after.id} compared with {before.id}; with each distance the bounds of the true one"
    compared = differences(before, after)
    if not compared:
        yield "no model of the one is in the other"
    alone = models_of_one(before, after)
    for change, of in (("vanished", before), ("new", after)):
        if names := [name for is_what, name in alone if is_what == change]:
            yield f"only in {of.id}: {listed(names)}"
    for stream, rows, found, rates, changes in compared:
        yield ""
        yield f"{name_of(stream)}: {rows:,} rows"
        yield from _change_lines(changes)
        columns: dict[Column, dict[str, Drift]] = {}
        for drift in found:
            columns.setdefault(drift.column, {})[drift.metric] = drift
        shown = [m for m in _METRICS if any(m in metrics for metrics in columns.values())]
        lines: Rows = [["column", *shown]]
        for column, metrics in sorted(
            columns.items(), key=lambda item: -_rank(item[0], item[1], rates)
        ):
            cells = [_cell(metrics.get(m)) for m in shown]
            if column in rates and "true_rate" in metrics:
                at = shown.index("true_rate")
                cells[at] = f"{percent(rates[column])} -> {cells[at]}"
            lines.append([shown_name(column)[:_NAME_CHARS], *cells])
        yield from table(lines)


def _change_lines(changes: Sequence[Change]) -> Iterator[str]:
    """A line for each kind of change."""
    for change, says in _CHANGES.items():
        names = [
            f"{shown_name(c.column)} ({' -> '.join(k for k in (c.before, c.now) if k) or 'no values'})"
            for c in changes
            if c.change == change
        ]
        if names:
            yield f"  {says}: {', '.join(names)}"


def _rank(column: Column, metrics: dict[str, Drift], true_rates: dict[Column, float]) -> float:
    """PSI, and what rates have moved by."""
    psi = metrics["psi"].value if "psi" in metrics else 0.0
    missing = metrics["missing"].value if "missing" in metrics else 0.0
    if column in true_rates and "true_rate" in metrics:
        psi = abs(metrics["true_rate"].value - true_rates[column])
    return (psi if math.isfinite(psi) else 0.0) + (missing if math.isfinite(missing) else 0.0)


def _cell(drift: Drift | None) -> str:
    if drift is None or not math.isfinite(drift.value):
        return "-"
    if drift.metric in ("missing", "unseen", "true_rate"):
        return percent(drift.value)
    value = f"{drift.value:.4f}" if abs(drift.value) < 100 else number(drift.value)
    if drift.low == drift.high:
        return value
    high = "" if math.isinf(drift.high) else f"{drift.high:.4g}"
    return f"{value} [{drift.low:.4g}, {high}]" if high else f"{value} [{drift.low:.4g}, ...)"

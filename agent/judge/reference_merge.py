"""Several references as one: all their rows, the worst of their windows, the longest history."""

from __future__ import annotations

from collections.abc import Sequence

from agent.errors import ConfigError
from agent.judge.pairs_noise import PairBaseline
from agent.judge.reference import ColumnFacts, Reference, ReferenceStream
from agent.judge.union import united
from agent.types import Column


def merged(references: Sequence[Reference], *, created_ms: int) -> Reference:
    """Raises ConfigError for references of other windows. The inputs are left alone.

    The calibration is that of the reference with most rows: two cannot be added, since each is of
    distances from its own baseline.
    """
    widths = sorted({reference.width_ms for reference in references})
    if len(widths) > 1:
        shown = ", ".join(f"{width / 1000:g}" for width in widths)
        raise ConfigError(
            f"references have windows of {shown} s, which do not merge; "
            "build them again with one --window"
        )
    return Reference(
        width_ms=widths[0],
        created_ms=created_ms,
        models={
            key: _stream([r.models[key] for r in references if key in r.models])
            for key in sorted({key for r in references for key in r.models})
        },
        segments={
            key: _stream([r.segments[key] for r in references if key in r.segments])
            for key in sorted({key for r in references for key in r.segments})
        },
    )


def _stream(parts: list[ReferenceStream]) -> ReferenceStream:
    timed = [part for part in parts if part.windows]
    longest = max(parts, key=lambda part: (bool(part.calibration), part.profile.rows))
    n_windows = sum(part.windows for part in parts)
    found = ReferenceStream(
        profile=united([part.profile for part in parts], parts[0].stream),
        windows=n_windows,
        columns=_columns(parts),
        calibration=longest.calibration,
        pairs=_pairs(parts),
    )
    if timed:
        found.start_ms = min(part.start_ms for part in timed)
        found.end_ms = max(part.end_ms for part in timed)
        found.rows_low = min(part.rows_low for part in timed)
        found.rows_high = max(part.rows_high for part in timed)
        found.rows_median = sum(part.rows_median * part.windows for part in timed) / n_windows
        found.gap_s = max(part.gap_s for part in timed)
    hours = sorted({hour for part in parts for hour in part.hours})
    if hours and all(part.hours for part in parts):
        for hour in hours:
            having = [part for part in parts if hour in part.hours]
            found.hours[hour] = united([part.hours[hour] for part in having], parts[0].stream)
            rows = [part.hour_rows[hour] for part in having if hour in part.hour_rows]
            if rows:
                found.hour_rows[hour] = sum(rows) / len(rows)
    return found


def _pairs(parts: list[ReferenceStream]) -> PairBaseline | None:
    """Those of the most rows: scores of two builds are not the same, so their sums do not add."""
    held = [part.pairs for part in parts if part.pairs is not None]
    return max(held, key=lambda pairs: pairs.rows, default=None)


def _columns(parts: list[ReferenceStream]) -> dict[Column, ColumnFacts]:
    found: dict[Column, ColumnFacts] = {}
    for part in parts:
        for column, facts in part.columns.items():
            known = found.get(column, ColumnFacts(0, 0.0, 0.0))
            found[column] = ColumnFacts(
                known.windows + facts.windows,
                max(known.missing_high, facts.missing_high),
                max(known.violations_high, facts.violations_high),
            )
    return found

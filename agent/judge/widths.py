"""A reference of one width of windows, for windows of another: what it says of their rows, where that is sound.

A window of k whole ones has between k times the fewest and k times the most rows of one, k times the median, and a
silence lasts at most one window longer. What single windows differ by, k windows differ by no more. None of it holds
for narrower windows, or widths that are no multiple: how rows are spread within a window is not known.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec

from agent.judge.calibration import Calibration
from agent.judge.cells import Statistic
from agent.judge.reference import Reference, ReferenceStream


def widened(stream: ReferenceStream, from_ms: int, to_ms: int) -> ReferenceStream | None:
    """What windows of `to_ms` would have shown of rows; None where nobody knows."""
    times, rest = divmod(to_ms, from_ms)
    if rest or times < 2 or not stream.windows:
        return None
    is_whole = stream.gap_s <= from_ms / 1000  # no window without rows
    span_ms = max(to_ms, stream.end_ms - stream.start_ms)
    median = times * stream.rows_median if is_whole else stream.profile.rows * to_ms / span_ms
    return ReferenceStream(
        profile=stream.profile,
        windows=max(1, stream.windows // times),
        start_ms=stream.start_ms,
        end_ms=stream.end_ms,
        rows_low=stream.rows_low * times if is_whole else stream.rows_low,
        rows_high=stream.rows_high * times,
        rows_median=median,
        gap_s=math.ceil(stream.gap_s * 1000 / to_ms) * to_ms / 1000,
        columns=stream.columns,
        hours=stream.hours,
        hour_rows={hour: rows * times for hour, rows in stream.hour_rows.items()},
        calibration=_shifted(stream.calibration, math.log(times)) if is_whole else _without(stream),
        pairs=stream.pairs,
    )


def _shifted(calibration: bytes, by: float) -> bytes:
    """With a volume whose logarithm is larger."""
    if not calibration:
        return calibration
    known = Calibration.from_bytes(calibration)
    cells = [
        msgspec.structs.replace(cell, rate=cell.rate + by)
        if cell.key.statistic is Statistic.VOLUME
        else cell
        for cell in known.cells
    ]
    return msgspec.structs.replace(known, cells=cells).to_bytes()


def _without(stream: ReferenceStream) -> bytes:
    """Without a volume: windows that are empty now and then do not add up."""
    if not stream.calibration:
        return stream.calibration
    known = Calibration.from_bytes(stream.calibration)
    cells = [cell for cell in known.cells if cell.key.statistic is not Statistic.VOLUME]
    return msgspec.structs.replace(known, cells=cells).to_bytes()


def notes(references: Iterable[Reference], width_ms: int) -> list[str]:
    """A sentence for each reference whose windows are of another width: what is not judged, and what would do."""
    found = []
    for reference in references:
        own_ms = reference.width_ms
        has_windows = any(stream.windows for stream in reference.models.values())
        if own_ms == width_ms or not has_windows:
            continue
        what = f"reference {reference.id} is of windows of {own_ms / 1000:g} s, judged are {width_ms / 1000:g} s: "
        if width_ms % own_ms == 0:
            what += "its numbers of rows are taken as those of so many windows together"
        else:
            what += (
                "numbers of rows and silence are not judged; build it again with "
                f"--window {width_ms / 1000:g}, or use windows.width_s: {own_ms / 1000:g}"
            )
        found.append(what)
    return found

"""Calibrates the change detector of a model from its history: blocks of its rows, in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from agent.fold.profile import Profile
from agent.judge.calibration import Calibration, calibrate, calibrate_by_hour
from agent.judge.cells import Prepared
from agent.judge.counted import Counted, counted
from agent.judge.guard import guarded
from agent.judge.panes import hour_of


def calibrated(
    baseline: Profile | Counted,
    blocks: Sequence[Profile | Counted],
    window_rows: Sequence[int] = (),
) -> Calibration:
    """What the blocks say of noise and, where they are given, the rows of windows say of volume.

    blocks       the baseline's own rows in order, of about equal size
    window_rows  rows of each window of time; none where windows are blocks of rows
    """
    read = [_counted(block) for block in blocks]
    found = guarded(calibrate(Prepared(baseline), read), read)
    # Blocks need not be windows, so volume is learned apart: from rows without columns.
    empty = Prepared(Counted(sum(window_rows)))
    volume = calibrate(empty, [Counted(rows) for rows in window_rows], is_windows=True)
    return msgspec.structs.replace(found, cells=[*found.cells, *volume.cells])


def calibrated_by_hour(
    found: Calibration, hours: Mapping[int, Profile], windows: Sequence[Profile]
) -> Calibration:
    """The same, with the noise of windows, in order, around the baseline of their own hour of the day: what the hour
    explains is no noise."""
    history = [(hour_of(window.start_ms), counted(window)) for window in windows]
    return noise_by_hour(found, {hour: counted(known) for hour, known in hours.items()}, history)


def noise_by_hour(
    found: Calibration, hours: Mapping[int, Counted], history: Sequence[tuple[int, Counted]]
) -> Calibration:
    """`calibrated_by_hour` of counts, each window with its hour. Cells that it does not have stay."""
    by_hour = calibrate_by_hour(hours, history)
    if not by_hour.cells:
        return found
    own = {cell.key for cell in by_hour.cells}
    cells = [*by_hour.cells, *(cell for cell in found.cells if cell.key not in own)]
    return msgspec.structs.replace(
        found, cells=cells, stretch=by_hour.stretch, together=by_hour.together
    )


def _counted(block: Profile | Counted) -> Counted:
    return block if isinstance(block, Counted) else counted(block)

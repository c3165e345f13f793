"""Calibrates the change detector of a model from its history: blocks of its rows, in order."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from agent.fold.profile import Profile
from agent.judge.calibration import Calibration, calibrate
from agent.judge.cells import Prepared
from agent.judge.counted import Counted, counted
from agent.judge.guard import guarded


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


def _counted(block: Profile | Counted) -> Counted:
    return block if isinstance(block, Counted) else counted(block)

"""Calibrates the change detector of a model from its history: blocks of its rows, in order."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from agent.fold.profile import Profile
from agent.judge.calibration import Calibration, calibrate
from agent.judge.cells import Prepared, Statistic
from agent.judge.counted import counted


def calibrated(
    baseline: Profile, blocks: Sequence[Profile], windows: Sequence[Profile] = ()
) -> Calibration:
    """What the blocks say of noise and, where they are given, the windows of time say of volume.

    blocks   the baseline's own rows in order, of about equal size
    windows  may be the blocks
    """
    known = Prepared(baseline)
    inner = [counted(window) for window in windows[1:-1]]  # the outer ones are cut
    if windows is blocks:
        return calibrate(known, inner, is_windows=True)
    found = calibrate(known, [counted(block) for block in blocks])
    of_time = calibrate(known, inner, is_windows=True).cells if inner else []
    volume = [cell for cell in of_time if cell.key.statistic is Statistic.VOLUME]
    return msgspec.structs.replace(found, cells=[*found.cells, *volume])

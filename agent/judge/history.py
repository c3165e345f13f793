"""Calibrates the change detector of a model from its history: blocks of its rows, in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from agent.fold.profile import Profile
from agent.judge.calibration import MIN_BLOCKS, Calibration, CellNoise, calibrate
from agent.judge.cells import CellKey, Prepared
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
    """The same, with the noise of windows around the baseline of their own hour of the day: what the hour explains
    is no noise. Averaged over hours, since one has few windows; tails stay those of all."""
    by_hour: dict[int, list[Counted]] = {}
    for window in windows:
        by_hour.setdefault(hour_of(window.start_ms), []).append(counted(window))
    return noise_by_hour(found, hours, by_hour)


def noise_by_hour(
    found: Calibration,
    hours: Mapping[int, Profile | Counted],
    by_hour: Mapping[int, Sequence[Counted]],
) -> Calibration:
    """`calibrated_by_hour` of windows by their hour, in order."""
    parts = [
        calibrate(Prepared(hours[hour]), blocks)
        for hour, blocks in sorted(by_hour.items())
        if hour in hours and len(blocks) >= MIN_BLOCKS
    ]
    noise: dict[CellKey, list[CellNoise]] = {}
    for part in parts:
        for cell in part.cells:
            noise.setdefault(cell.key, []).append(cell)
    cells = [_mean(noise[cell.key]) if cell.key in noise else cell for cell in found.cells]
    return msgspec.structs.replace(found, cells=cells)


def _mean(parts: Sequence[CellNoise]) -> CellNoise:
    """One cell's noise of several, at the sizes of the one that reaches furthest; rates the largest."""
    sizes = max((part.sizes for part in parts), key=lambda sizes: (len(sizes), sizes[-1]))
    phi: list[float] = []
    for size in sizes:
        mean = sum(part.phi_at(size) for part in parts) / len(parts)
        phi.append(max([mean, *phi[-1:]]))  # never falling
    spread = [sum(part.spread_at(size) for part in parts) / len(parts) for size in sizes]
    return CellNoise(parts[0].key, sizes, phi, spread, max(part.rate for part in parts))


def _counted(block: Profile | Counted) -> Counted:
    return block if isinstance(block, Counted) else counted(block)

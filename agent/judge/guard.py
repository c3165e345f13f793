"""The replay guard: history is judged as if it had come later, before anything is promised about what does.

The first half of the history calibrates, the second goes by as windows. Evidence has a mean of at most the
number of windows while nothing changes; history in which it went higher is a stream that the model of noise does
not describe, and the budget is made smaller by as much.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Final

import msgspec

from agent.judge.calibration import MIN_BLOCKS, Calibration, calibrate
from agent.judge.cells import Prepared, measure
from agent.judge.counted import Counted, merged
from agent.judge.detector import ChangeDetector

#: Blocks that are replayed as one window: small blocks show little by themselves.
_JOINED: Final = 4
#: A change inside the history must not silence the detector for good.
MOST_GUARD: Final = 100.0
_NEVER: Final = 1e15


def guarded(calibration: Calibration, history: Sequence[Counted]) -> Calibration:
    """The calibration with the guard that replaying its own history asks for; unchanged where that is too
    short: four times MIN_BLOCKS."""
    half = len(history) // 2
    if half < 2 * MIN_BLOCKS:
        return calibration
    early, late = history[:half], history[half:]
    prepared = Prepared(reduce(merged, early))
    detector = ChangeDetector(calibrate(prepared, early), _NEVER)
    joined = _JOINED if half >= _JOINED * 2 * MIN_BLOCKS else 1
    highest, windows = 0.0, 0
    for at in range(0, len(late) - joined + 1, joined):
        window = reduce(merged, late[at : at + joined])
        highest = max(highest, detector.step(windows, measure(prepared, window)).m)
        windows += 1
    guard = min(MOST_GUARD, max(1.0, highest / max(1, windows)))
    return msgspec.structs.replace(calibration, guard=guard)

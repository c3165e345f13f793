"""Models whose windows hold too few rows to be judged, and how long windows would have to be."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

from agent.judge.panes import MIN_ROWS

_MOST_NAMED: Final = 5
#: Widths that are proposed are whole minutes.
_STEP_S: Final = 60


def too_few(models: Iterable[tuple[str, int, float, float]], width_s: float) -> list[str]:
    """A sentence for each model of too few rows, the first of them.

    models  name, rows, seconds in which there were so many, and rows of a window of `width_s`
    """
    found = []
    for name, rows, seen_s, in_window in models:
        wide_s = math.ceil(MIN_ROWS * seen_s / max(1, rows) / _STEP_S) * _STEP_S
        if in_window < MIN_ROWS and wide_s > width_s:
            found.append(
                f"{name} has {in_window:.3g} rows in a window of {width_s:g} s: with fewer than {MIN_ROWS} "
                f"nothing can be judged; use windows.width_s >= {wide_s}"
            )
    if len(found) > _MOST_NAMED:
        found[_MOST_NAMED:] = [f"... and {len(found) - _MOST_NAMED:,} more models of few rows"]
    return found

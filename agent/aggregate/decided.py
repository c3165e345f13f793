"""Which chunks have been decided on, exactly, in a few numbers a run.

A run numbers its chunks upwards. They are decided in nearly that order, with gaps where a write was
given up or an answer came late: intervals say it exactly where a largest number would not.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from typing import Final

#: Runs that are remembered; beyond it the one decided on least lately is forgotten.
MAX_RUNS: Final = 4096
#: Intervals of one run; beyond it the oldest gap counts as decided, too.
MAX_INTERVALS: Final = 256

Intervals = list[list[int]]


def id_parts(chunk_id: str) -> tuple[str, int]:
    """Run id and number of a chunk id. Raises ValueError when it is none."""
    run_id, _, number = chunk_id.rpartition(";")
    return run_id, int(number)


class Decided:
    """A set of chunk ids. Memory: some hundred bytes a run, 50 kB at most; `MAX_RUNS` runs.

    Ids in gaps `MAX_INTERVALS` intervals ago are in it although nobody added them: whoever still waits
    for such a chunk must know that himself.
    """

    def __init__(self, runs: Iterable[tuple[str, Intervals]] = ()) -> None:
        self._runs: dict[str, Intervals] = {
            run_id: [list(pair) for pair in pairs] for run_id, pairs in runs
        }

    def __contains__(self, chunk_id: str) -> bool:
        run_id, number = id_parts(chunk_id)
        intervals = self._runs.get(run_id)
        if intervals is None:
            return False
        at = bisect_right(intervals, number, key=_first) - 1
        return at >= 0 and number <= intervals[at][1]

    def add(self, chunk_id: str) -> None:
        """In place; adding twice changes nothing."""
        if chunk_id in self:
            return
        run_id, number = id_parts(chunk_id)
        intervals = self._runs.pop(run_id, [])
        self._runs[run_id] = intervals  # the latest is last
        at = bisect_right(intervals, number, key=_first)
        intervals.insert(at, [number, number])
        if at + 1 < len(intervals) and intervals[at + 1][0] == number + 1:
            intervals[at][1] = intervals.pop(at + 1)[1]
        if at > 0 and intervals[at - 1][1] == number - 1:
            intervals[at - 1][1] = intervals.pop(at)[1]
        if len(intervals) > MAX_INTERVALS:
            intervals[0][1] = intervals.pop(1)[1]
        while len(self._runs) > MAX_RUNS:
            del self._runs[next(iter(self._runs))]

    def runs(self) -> list[tuple[str, Intervals]]:
        """What the constructor takes: the runs, the one decided on least lately first."""
        return [(run_id, [list(pair) for pair in pairs]) for run_id, pairs in self._runs.items()]


def _first(interval: list[int]) -> int:
    return interval[0]

"""river: ADWIN and Page-Hinkley on every row, a detector for each column, at their defaults.

They take numbers, on a scale near 1 (Page-Hinkley's threshold is in the data's unit): columns are standardised by
the reference, texts are the rank of their frequency in it, and a second detector for each column sees 1 where the
value is missing and 0 elsewhere. The reference is fed first. A detector has no score, so some run side by side:
ADWIN at several deltas, Page-Hinkley without a threshold.

KSWIN tests two samples at every row, which takes .4 ms: hours for what this benchmark feeds, so it is not here.
"""

from __future__ import annotations

import argparse
import copy
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from benchmarks.verdicts.peers.offline import refuse_connections

refuse_connections()

import numpy as np  # noqa: E402
from river.drift import ADWIN, PageHinkley  # noqa: E402

from benchmarks.verdicts.peers.given import Array, Table  # noqa: E402
from benchmarks.verdicts.peers.runner import Found, judge_all  # noqa: E402

ANY = "any column"
#: The default, and less and less sensitive ones.
DELTAS = (0.002, 1e-5, 1e-8, 1e-12)
_THRESHOLD = PageHinkley().threshold


class Watch(Protocol):
    def feed(self, values: list[float]) -> tuple[float, int | None]:
        """The highest score of these rows, and the row at which the default alarmed."""
        ...


class Adwin:
    def __init__(self) -> None:
        self._detectors = [ADWIN(delta=delta) for delta in DELTAS]
        self._zeros = 0

    def feed(self, values: list[float]) -> tuple[float, int | None]:
        if not any(values):
            # A stream of zeros never alarms: it is fed when something else comes.
            self._zeros += len(values)
            return 0.0, None
        highest, row = 0.0, None
        for delta, detector in zip(DELTAS, self._detectors, strict=True):
            for _ in range(self._zeros):
                detector.update(0.0)
            for at, value in enumerate(values):
                detector.update(value)
                if detector.drift_detected:
                    highest = max(highest, math.log(delta) / math.log(DELTAS[0]))
                    if delta == DELTAS[0] and row is None:
                        row = at
        self._zeros = 0
        return highest, row


class Hinkley:
    def __init__(self) -> None:
        self._default = PageHinkley()
        self._endless = PageHinkley(threshold=math.inf)

    def feed(self, values: list[float]) -> tuple[float, int | None]:
        highest, row = 0.0, None
        default, endless = self._default, self._endless
        for at, value in enumerate(values):
            default.update(value)
            if default.drift_detected and row is None:
                row = at
            endless.update(value)
            highest = max(
                highest,
                endless._sum_increase - endless._min_increase,
                endless._max_decrease - endless._sum_decrease,
            )
        return highest / _THRESHOLD, row


class Columns:
    """A watch for the values of each column, and one for what is missing."""

    def __init__(self, new: Callable[[], Watch], reference: Table, rows: int) -> None:
        self._ranks: dict[str, dict[str, float]] = {}
        self._scales: dict[str, tuple[float, float]] = {}
        self._watches: dict[tuple[str, str], Watch] = {}
        for name, values in reference.items():
            if values.dtype.kind == "U":
                texts, counts = np.unique(values, return_counts=True)
                ordered = texts[np.argsort(-counts, kind="stable")]
                self._ranks[name] = {text: float(rank) for rank, text in enumerate(ordered)}
            numbers = self._numbers(name, values)
            self._scales[name] = (float(np.nanmean(numbers)), float(np.nanstd(numbers)) or 1.0)
            self._watches[name, "value"], self._watches[name, "missing"] = new(), new()
        self._window(reference)

    def copy(self) -> Columns:
        return copy.deepcopy(self)

    def judge(self, tables: Sequence[Table]) -> list[Found]:
        return [self._window(table) for table in tables]

    def _window(self, table: Table) -> Found:
        found = Found({ANY: False})
        rows = len(next(iter(table.values())))
        for name, (mean, sd) in self._scales.items():
            values = table.get(name)
            numbers = np.full(rows, np.nan) if values is None else self._numbers(name, values)
            gone = np.isnan(numbers)
            there = (numbers[~gone] - mean) / sd
            for test, fed in (("value", there), ("missing", gone.astype(float))):
                score, row = self._watches[name, test].feed(fed.tolist())
                found.scores.setdefault(name, {})[test] = score
                if row is None:
                    continue
                if test == "value":  # counted in all rows
                    row = int(np.flatnonzero(~gone)[row])
                found.alarms[ANY] = True
                found.row = row if found.row is None else min(row, found.row)
                if name not in found.named:
                    found.named.append(name)
        return found

    def _numbers(self, name: str, values: Array) -> Array:
        if values.dtype.kind != "U":
            return values.astype(np.float64)
        ranks = self._ranks[name]
        texts, at = np.unique(values, return_inverse=True)
        # Texts that the reference has not come behind all that it has.
        own = [math.nan if text == "" else ranks.get(text, float(len(ranks))) for text in texts]
        return np.array(own)[at]


def main() -> None:
    kinds: dict[str, Callable[[], Watch]] = {"adwin": Adwin, "page-hinkley": Hinkley}
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--detector", choices=kinds, required=True)
    options, sys.argv[1:] = parser.parse_known_args()

    def fit(reference: Table, rows: int) -> Any:
        return Columns(kinds[options.detector], reference, rows)

    judge_all(fit, ("river", "numpy"), (ANY,))


if __name__ == "__main__":
    main()

"""Days that swing, judged against the last windows: what pages by chance, and what a break takes to be seen.

    python -m benchmarks.verdicts.swings

A day is a sine of its own phase in every column, up to so many standard deviations, and in the number of rows; a
wander is an autoregressive state of half an hour beside it. Nothing is learned beforehand: the first window is the
stream's first. `docs/decisions/0014` has a run's output.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from agent.judge.abrupt import Abrupt
from agent.verdict import State
from benchmarks.verdicts import scores
from benchmarks.verdicts.windows import counted_of
from benchmarks.verdicts.worlds import Table

DAY_S = 86_400
BUDGET_DAYS = 30
N_COLUMNS = 12
BREAK_AT, AFTER = 40, 5
_WANDER_S = 1_800


@dataclass(frozen=True)
class Day:
    """swing, wander  standard deviations; rows: by how many times there are more at noon than at night"""

    name: str
    swing: float = 0.0
    rows: float = 1.0
    wander: float = 0.0

    def tables(self, rng: np.random.Generator, rows: int, width_s: int) -> Iterator[Table]:
        phase, height = rng.random(N_COLUMNS) * 2 * np.pi, self.swing * rng.random(N_COLUMNS)
        state = rng.standard_normal(N_COLUMNS)
        keep = math.exp(-width_s / _WANDER_S)
        window = 0
        while True:
            at = 2 * np.pi * window * width_s / DAY_S
            usual = rows * self.rows ** (math.sin(at + phase[0]) / 2)
            n = int(rng.poisson(usual))
            state = keep * state + math.sqrt(1 - keep**2) * rng.standard_normal(N_COLUMNS)
            level = height * np.sin(at + phase) + self.wander * state
            yield scores.features(rng.standard_normal((n, N_COLUMNS)) + level, rng)
            window += 1


DAYS = (
    Day("no swing"),
    Day("swings by 1, rows by 4", swing=1.0, rows=4.0),
    Day("swings by 2, rows by 20", swing=2.0, rows=20.0),
    Day("swings by .3, wanders by .2", swing=0.3, wander=0.2),
    Day("swings by .5, wanders by .5", swing=0.5, wander=0.5),
)


def _half(table: Table) -> Table:
    return {name: values[: len(values) // 2] for name, values in table.items()}


def _new_category(table: Table) -> Table:
    values = table["zipf5"].astype("U8")
    values[::33] = "new"
    return table | {"zipf5": values}


def _missing(table: Table) -> Table:
    values = table["normal0"].copy()
    values[::50] = np.nan
    return table | {"normal0": values}


BREAKS: dict[str, Callable[[Table], Table]] = {
    "mean + .3 sd": lambda t: t | {"normal0": t["normal0"] + 3.0},
    "sd x 1.2": lambda t: t | {"normal8": (t["normal8"] - 50.0) * 1.2 + 50.0},
    "miles for km": lambda t: t | {"lognormal1": t["lognormal1"] * 0.621},
    "swapped columns": lambda t: t | {"heavy2": t["heavy10"], "heavy10": t["heavy2"]},
    "3 % a new category": _new_category,
    "2 % missing": _missing,
    "half of the rows": _half,
}


def judged(
    tables: Iterator[Table], width_s: int, windows: int, change: Callable[[Table], Table] | None
) -> tuple[int, int | None]:
    """Pages while nothing is wrong, and windows from the break to its page; None: none in AFTER."""
    target = BUDGET_DAYS * DAY_S / width_s
    abrupt = Abrupt(target, 0.05, width_s * 1000, lambda column: True)
    pages, was_firing = 0, False
    for window in range(windows):
        table = next(tables)
        is_broken = change is not None and window >= BREAK_AT
        read = counted_of(change(table) if change is not None and is_broken else table)
        jump = abrupt.step(window, read, with_volume=True)
        is_firing = jump is not None and jump.step.state is State.FIRING
        if is_firing and is_broken:
            return pages, window - BREAK_AT + 1
        pages += is_firing and not was_firing
        was_firing = is_firing
        if jump is None or not jump.step.is_frozen:
            abrupt.learn(read, with_volume=True)
    return pages, None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=2, help="of each kind")
    parser.add_argument("--most", type=int, default=864, help="quiet windows of a stream")
    options = parser.parse_args()
    began = time.process_time()
    print("| day | width | rows | windows | pages | allowed |\n|---|---|---|---|---|---|")
    for width_s in (60, 300, 1_800):
        for day in DAYS:
            n = min(options.most, 7 * DAY_S // width_s)
            pages = 0
            for stream in range(options.streams):
                tables = day.tables(np.random.default_rng([width_s, stream]), 500, width_s)
                pages += judged(tables, width_s, n, None)[0]
            n *= options.streams
            allowed = n * width_s / DAY_S / BUDGET_DAYS
            print(
                f"| {day.name} | {width_s} s | 500 | {n:,} | {pages} | {allowed:.2f} |", flush=True
            )
    print(
        "\n| break in a day that swings by 1 | width | rows | seen after windows |\n|---|---|---|---|"
    )
    for width_s in (60, 300, 1_800):
        for name, change in BREAKS.items():
            seen = []
            for stream in range(2 * options.streams):
                rng = np.random.default_rng([width_s, stream, 1])
                tables = DAYS[1].tables(rng, 5_000, width_s)
                seen.append(judged(tables, width_s, BREAK_AT + AFTER, change)[1])
            shown = ", ".join("never" if delay is None else str(delay) for delay in seen)
            print(f"| {name} | {width_s} s | 5,000 | {shown} |", flush=True)
    print(f"\n{time.process_time() - began:.0f} s of processor time")


if __name__ == "__main__":
    main()

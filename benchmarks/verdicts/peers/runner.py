"""What every tool's process does alike: no connections, all runs of a folder, one JSON line for each window.

A tool is a function that fits a reference and gives back a `Tool`. A score is a share of the tool's own default
threshold, so that 1 is where the default begins to alarm, whatever the statistic. Runs on numpy alone.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from benchmarks.verdicts.peers.given import Given, Table
from benchmarks.verdicts.peers.offline import refused

#: Windows of nothing that go before a break.
BEFORE = 6
MOST_SCORE = 1e9


@dataclass
class Found:
    """What a tool says of one window.

    alarms  by rule of the tool, at its defaults
    named   features that its default marks
    firsts  feature that it names first, by rule; default: the one of `named` with the highest score
    scores  feature -> test -> share of the default threshold
    error   what it raised instead of judging
    row     row of the window at which it alarmed, for tools that judge rows
    """

    alarms: dict[str, bool] = field(default_factory=dict)
    named: list[str] = field(default_factory=list)
    firsts: dict[str, str] = field(default_factory=dict)
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    error: str = ""
    row: int | None = None


class Tool(Protocol):
    def judge(self, tables: Sequence[Table]) -> list[Found]:
        """The next windows, in order."""
        ...

    def copy(self) -> Tool:
        """One that goes on from here by itself; a tool without memory is its own copy."""
        ...


@dataclass
class Clock:
    """Processor seconds, and over how many windows; fitting apart."""

    fit_s: float = 0.0
    fits: int = 0
    judge_s: float = 0.0
    windows: int = 0


def judge_all(
    fit: Callable[[Table, int], Tool],
    packages: Sequence[str],
    rules: Sequence[str],
    spent: Clock | None = None,
) -> None:
    """Judge a folder named on the command line; stdout gets the lines and a last one with what it took.

    spent  what the tool itself says that its windows take, where they are not judged in the way a user would
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runs", type=int, required=True)
    options = parser.parse_args()
    given, clock = Given(options.folder), Clock()
    for number, run in enumerate(given.runs()):
        if number == options.runs:
            break
        began = time.process_time()
        tool = fit(given.at(run.reference), run.quiet.shape[1])
        clock.fit_s += time.process_time() - began
        clock.fits += 1
        tables = [given.at(rows) for rows in run.quiet]
        first = _judged(tool, tables[:BEFORE], clock, rules)
        fork = tool.copy()
        _tell(number, "quiet", first + _judged(tool, tables[BEFORE:], clock, rules))
        for name, broken in run.broken.items():
            _tell(number, name, _judged(fork.copy(), given.windows(broken), clock, rules))
        print(f"    run {number + 1}", file=sys.stderr, flush=True)
    if spent is not None:
        clock.judge_s, clock.windows = spent.judge_s, spent.windows
    _end(clock, packages)


def _judged(tool: Tool, tables: Sequence[Table], clock: Clock, rules: Sequence[str]) -> list[Found]:
    began = time.process_time()
    try:
        found = tool.judge(tables)
    except Exception:
        found = [_one(tool, table, rules) for table in tables]
    clock.judge_s += time.process_time() - began
    clock.windows += len(tables)
    return found


def _one(tool: Tool, table: Table, rules: Sequence[str]) -> Found:
    """A window by itself: what a tool raises is what its user gets."""
    try:
        return tool.judge([table])[0]
    except Exception as error:  # any of them: the tool is what is measured
        return Found(dict.fromkeys(rules, True), error=f"{type(error).__name__}: {error}"[:300])


def _tell(run: int, what: str, found: Sequence[Found]) -> None:
    for window, one in enumerate(found):
        write({"run": run, "what": what, "window": window, **vars(one)})


def _end(clock: Clock, packages: Sequence[str]) -> None:
    write(
        {
            **vars(clock),
            "refused": refused(),
            "versions": {name: version(name) for name in packages},
        }
    )


def write(line: dict[str, Any]) -> None:
    sys.__stdout__.write(json.dumps(line) + "\n")  # type: ignore[union-attr]

"""What do other tools' detectors make of the same streams, at their defaults and when all are equally quiet?

Real flights, a reference of 20,000 rows, quiet windows and the breaks of `benchmarks.verdicts`, written once and
given to every tool, each in an environment and a process of its own that may not connect to anything. Ours goes
the way of `inferometer backtest`. Optimises: nothing; it says where a tool is better.
Needs the environments (`python -m benchmarks.verdicts.peers.setup`).

    python -m benchmarks.verdicts.peers [--json] [--runs N] [--slow-runs N] [--quiet N] [--only NAME,...]
                                        [--settings N,...] [--keep FOLDER]
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from pathlib import Path
from statistics import fmean

from benchmarks.frame import CannotRun, Result, progress, run
from benchmarks.verdicts.peers.matched import Tried
from benchmarks.verdicts.peers.streams import SETTINGS, Setting, right_features, write_streams
from benchmarks.verdicts.peers.tools import MATCHED, TOOLS, Said, Tool, interpreter, lines_of, read
from benchmarks.verdicts.worlds import flights


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=int, default=20, help="references of each setting")
    parser.add_argument(
        "--slow-runs", type=int, default=10, help="of tools that take rows one by one"
    )
    parser.add_argument("--quiet", type=int, default=50, help="quiet windows of each run")
    parser.add_argument(
        "--only", default="", help=f"of {', '.join(t.name for t in TOOLS)}, with commas"
    )
    parser.add_argument("--settings", default="", help="numbers of settings from 0, with commas")

    parser.add_argument(
        "--keep", type=Path, help="folder of what tools said; what it has is not run again"
    )


def measure(options: argparse.Namespace, result: Result) -> None:
    wanted = {name.strip() for name in options.only.split(",") if name.strip()}
    if unknown := wanted - {tool.name for tool in TOOLS}:
        raise CannotRun(f"no such tool: {', '.join(sorted(unknown))}")
    tools = [tool for tool in TOOLS if not wanted or tool.name in wanted]
    for tool in tools:
        interpreter(tool)
    if options.tiny:
        options.runs, options.slow_runs, options.quiet, options.settings = 1, 1, 8, "2"
    numbers = [int(n) for n in options.settings.split(",") if n] or range(len(SETTINGS))
    found: dict[Setting, list[Said]] = {}
    for setting in (SETTINGS[n] for n in numbers):
        with tempfile.TemporaryDirectory() as name:
            streams = _Streams(Path(name), setting, options)
            found[setting] = [_said(tool, streams) for tool in tools]
    for setting, tools_said in found.items():
        _tables(result, setting, tools_said)
    _alone(result, [s for tools_said in found.values() for s in tools_said])


class _Streams:
    """A setting's files, written when the first tool wants them."""

    def __init__(self, folder: Path, setting: Setting, options: argparse.Namespace) -> None:
        self._folder, self.setting, self.options = folder, setting, options

    def folder(self) -> Path:
        if not any(self._folder.iterdir()):
            progress(f"{self.setting.name}: streams")
            o = self.options
            write_streams(self._folder, self.setting, runs=o.runs, quiet=o.quiet, seed=o.seed)
        return self._folder


def _said(tool: Tool, streams: _Streams) -> Said:
    setting, options = streams.setting, streams.options
    runs = min(options.runs, options.slow_runs) if tool.is_slow else options.runs
    features = list(flights())
    sizes = (setting.block, setting.rows, runs, options.quiet, options.seed)
    name = "-".join((tool.name.replace(" ", "_"), *map(str, sizes)))
    kept = options.keep / f"{name}.jsonl" if options.keep is not None else None
    if kept is not None and kept.exists():
        return read(tool, kept.read_text().splitlines(), features)
    folder = streams.folder()
    progress(f"{setting.name}: {tool.name}")
    lines = lines_of(tool, folder, runs)
    if kept is not None:
        kept.write_text("\n".join(lines))
    return read(tool, lines, features)


# ---------------------------------------------------------------- tables


def _tables(result: Result, setting: Setting, tools_said: list[Said]) -> None:
    right = right_features()
    columns = (
        "tool", "runs", "quiet windows", "in alarm, %", "alarms that began, %", "caught in 2 windows",
        "windows to the alarm", "rows to the alarm", "right feature first", "processor ms a window",
    )  # fmt: skip
    for title, is_matched in (("at their defaults", False), ("equally quiet", True)):
        note = (
            f"Means over {len(right)} breaks; the way to the alarm is the mean of medians, of the breaks that half of "
            "the runs caught; river tells the row at its defaults. Ours reads JSON events, sketches and judges them; "
            "the others have a window's columns in memory."
        )
        whole = result.table(f"Peers {title}: {setting.name}", *columns, note=note)
        each = result.table(
            f"Peers {title}, each break: {setting.name}",
            "break", *(_name(s, rule) for s in tools_said for rule in _rules(s, is_matched)),
            note="Caught in 2 windows / windows to the alarm in the median / right feature first of those caught; "
            "! the tool raised an error, which is counted as an alarm.",
        )  # fmt: skip
        cells: dict[str, list[str]] = {name: [] for name in right}
        for s in tools_said:
            for rule in _rules(s, is_matched):
                tried = s.tried(rule, right, setting.rows)
                whole.add(
                    _name(s, rule), s.runs, len(s.quiet), *s.false_alarms(rule),
                    *_means(list(tried.values())), s.window_s * 1000.0,
                )  # fmt: skip
                for name in right:
                    cells[name].append(_cell(tried[name]))
        for name, row in cells.items():
            each.add(name, *row)


def _rules(s: Said, is_matched: bool) -> tuple[str, ...]:
    return (MATCHED,) if is_matched else s.tool.rules


def _name(s: Said, rule: str) -> str:
    return f"{s.tool.name}, {rule}" if rule != MATCHED and len(s.tool.rules) > 1 else s.tool.name


def _means(tried: list[Tried]) -> tuple[float | None, ...]:
    """Over breaks: caught in 2 windows, windows and rows to the alarm, right feature first."""
    caught = [t for t in tried if math.isfinite(t.delay)]
    shares = [t.right_share for t in tried if t.right_share is not None]
    return (
        fmean(t.within(2) for t in tried),
        fmean(t.delay for t in caught) if caught else None,
        fmean(t.row_delay for t in caught) if caught else None,
        fmean(shares) if shares else None,
    )


def _cell(tried: Tried) -> str:
    delay = f"{tried.delay:g}" if math.isfinite(tried.delay) else "-"
    right = "-" if tried.right_share is None else f"{tried.right_share:.2g}"
    return f"{tried.within(2):.2g} / {delay} / {right}{' !' if tried.raised else ''}"


def _alone(result: Result, all_said: list[Said]) -> None:
    versions: dict[str, str] = {}
    refused: list[str] = []
    for s in all_said:
        versions.update({f"{s.tool.name}: {k}": v for k, v in s.end["versions"].items()})
        refused += [f"{s.tool.name}: {wanted}" for wanted in s.end["refused"]]
    result.figures["versions"] = versions
    result.figures["connections refused"] = refused
    result.notes.append(
        f"Connections that a tool wanted and was refused: {json.dumps(refused) if refused else 'none'}."
    )


if __name__ == "__main__":
    run(__doc__, measure, _options)

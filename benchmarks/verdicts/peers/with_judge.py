"""The agent, as `inferometer backtest` runs it: events are decoded, sketched and sealed, and the `Judge` told.

Everything is at its defaults; beside the default budget (one false page in 30 days of one-minute windows) a second
judge has the budget at which tools are compared. Both are told the same sealed windows.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import orjson

from agent.commands.profile import adapted, named
from agent.config import Config
from agent.fold.effects import Effects
from agent.fold.profile import Profile
from agent.judge.engine import Judge
from agent.judge.reference import Reference
from agent.judge.reference_build import build
from agent.judge.score_tables import tables_of
from agent.replay import sketch_files
from agent.verdict import Severity, State
from benchmarks.verdicts.peers.given import Array, Given, Run, Table
from benchmarks.verdicts.peers.offline import refuse_connections, refused
from benchmarks.verdicts.peers.runner import BEFORE, Clock, Found, write

DEFAULT, MATCHED = "default budget", "matched budget"
_DAY_S = 86_400.0
#: Of every event, as an agent's have one; windows are numbers of rows here.
_TIME_MS = 1_700_000_000_000


class Events:
    """A table's rows as JSON lines. Rows of a window that nothing changed are written once and copied."""

    def __init__(self, table: Table) -> None:
        self._lines = np.array(list(_lines(table)), dtype=object)

    def unchanged(self, rows: Array) -> bytes:
        return b"".join(self._lines[rows].tolist())

    def changed(self, table: Table) -> bytes:
        return b"".join(_lines(table))


def _lines(table: Table) -> Iterator[bytes]:
    columns = []
    for values in table.values():
        if values.dtype.kind == "U":
            columns.append([text or None for text in values.tolist()])
        else:  # NaN becomes null
            columns.append(values.tolist())
    for row in zip(*columns, strict=True):
        features = dict(zip(table, row, strict=True))
        event = {"model": "flights", "ts": _TIME_MS, "features": features}
        yield orjson.dumps(event, option=orjson.OPT_APPEND_NEWLINE)


class Stream:
    """One run's events, sketched and sealed in one go: the reference, then quiet windows, then all breaks."""

    def __init__(
        self, given: Given, events: Events, run: Run, config: Config, *, warms_up: bool
    ) -> None:
        self.rows = run.quiet.shape[1]
        with tempfile.TemporaryDirectory() as folder:
            reference, quiet = Path(folder) / "reference.jsonl", Path(folder) / "quiet.jsonl"
            reference.write_bytes(events.unchanged(run.reference))
            with quiet.open("wb") as file:
                for rows in run.quiet:
                    file.write(events.unchanged(rows))
            # A file for each break: rows of one batch are not kept in order where their shapes differ.
            files = [quiet]
            for broken in run.broken.values():
                files.append(Path(folder) / f"break-{len(files)}.jsonl")
                with files[-1].open("wb") as file:
                    for table in given.windows(broken):
                        file.write(events.changed(table))
            began = time.process_time()
            self.reference = build([reference], config, created_ms=0).reference
            self.fit_s = time.process_time() - began
            if warms_up:  # kernels are loaded once in the life of an agent
                self._sealed([reference], config)
            began = time.process_time()
            sealed = self._sealed(files, config)
            self.sketch_s = time.process_time() - began
        n_quiet = len(run.quiet)
        self.quiet = sealed[:n_quiet]
        self.broken: dict[str, list[Profile]] = {}
        at = n_quiet
        for name, broken in run.broken.items():
            self.broken[name] = sealed[at : at + len(broken.rows)]
            at += len(broken.rows)
        self.windows = len(sealed)

    def _sealed(self, files: list[Path], config: Config) -> list[Profile]:
        sealed: list[Profile] = []

        def take(effects: Effects) -> None:
            sealed.extend(p for p in effects.sealed if p.rows)

        sketch_files(
            files,
            config,
            on_effects=take,
            rows_per_window=self.rows,
            tables=tables_of(config, [self.reference]),
        )
        sealed.sort(key=lambda p: p.window)
        assert all(p.rows == self.rows for p in sealed)
        return sealed


class Judges:
    """The judge at each budget."""

    def __init__(self, configs: dict[str, Config], reference: Reference) -> None:
        self._configs, self._reference = configs, reference
        self._judges = {
            rule: Judge(config, [reference], by_rows=True) for rule, config in configs.items()
        }

    def copy(self) -> Judges:
        other = Judges(self._configs, self._reference)
        for rule, judge in self._judges.items():
            other._judges[rule].load(judge.dump())
        return other

    def step(self, profile: Profile, window: int, clock: Clock) -> Found:
        found = Found()
        moved = replace(profile, window=window)
        for rule, judge in self._judges.items():
            began = time.process_time()
            judged = judge.sealed([moved], window + 1, moved.end_ms * 1_000_000)
            clock.judge_s += time.process_time() - began
            firing = [
                v
                for v in judged.verdicts
                if v.state is State.FIRING and v.severity is Severity.PAGE
            ]
            found.alarms[rule] = bool(firing)
            if firing:
                causes = firing[0].attribution
                found.firsts[rule] = (causes[0].feature if causes else firing[0].feature) or ""
        return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runs", type=int, required=True)
    parser.add_argument("--budget", type=float, required=True, help="windows between false pages")
    options = parser.parse_args()
    refuse_connections()
    config = named(adapted(Config(), None, "flights"))
    days = options.budget * config.windows.width_s / _DAY_S
    matched = msgspec.structs.replace(
        config, judge=msgspec.structs.replace(config.judge, days_per_false_page=days)
    )
    configs = {DEFAULT: config, MATCHED: matched}
    given, clock, sketch_s = Given(options.folder), Clock(), 0.0
    events = Events(given.table)
    for number, run in enumerate(given.runs()):
        if number == options.runs:
            break
        stream = Stream(given, events, run, config, warms_up=number == 0)
        clock.fit_s += stream.fit_s
        clock.fits += 1
        sketch_s += stream.sketch_s
        clock.windows += stream.windows
        judges = Judges(configs, stream.reference)
        _tell(number, "quiet", judges, stream.quiet[:BEFORE], 0, clock)
        fork = judges.copy()
        _tell(number, "quiet", judges, stream.quiet[BEFORE:], BEFORE, clock)
        for name, profiles in stream.broken.items():
            _tell(number, name, fork.copy(), profiles, BEFORE, clock)
        print(f"    run {number + 1}", file=sys.stderr, flush=True)
    # Two judges are told each window.
    spent = {**vars(clock), "judge_s": clock.judge_s / len(configs), "sketch_s": sketch_s}
    write({**spent, "refused": refused(), "versions": {}})


def _tell(
    run: int, what: str, judges: Judges, profiles: Sequence[Profile], first: int, clock: Clock
) -> None:
    for at, profile in enumerate(profiles):
        found = judges.step(profile, first + at, clock)
        window = first + at if what == "quiet" else at
        write({"run": run, "what": what, "window": window, **vars(found)})


if __name__ == "__main__":
    main()

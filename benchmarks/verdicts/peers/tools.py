"""The tools, and one process for each: what it says of every window, and what it took."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.frame import CannotRun
from benchmarks.verdicts.peers.matched import Line, Matched, Tried, by_default
from benchmarks.verdicts.peers.runner import BEFORE
from benchmarks.verdicts.peers.setup import python_of

Json = dict[str, Any]
ROOT = Path(__file__).resolve().parents[3]
#: Set for every tool; connections are refused besides (`offline`).
SILENT = {
    "NML_DISABLE_USAGE_LOGGING": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "ANONYMIZED_TELEMETRY": "False",
}
#: A thread each, so that processor time is that of the work.
_ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"
)
_TIMEOUT_S = 4 * 3600.0


@dataclass(frozen=True)
class Tool:
    """`environment` "": the project's own. `rules`: its own at defaults, by their names in its lines.

    spread    scores are distances, to be made comparable between columns (`matched`)
    matched   a rule of its own that holds the budget, in place of a threshold on scores; its alarms last
    """

    name: str
    module: str
    environment: str
    rules: tuple[str, ...]
    arguments: tuple[str, ...] = ()
    spread: bool = False
    matched: str = ""
    is_slow: bool = False


Reader = Callable[[Line], tuple[bool, str]]
MATCHED = "matched"
#: Windows between false alarms at which tools are compared.
BUDGET = 200.0
TOOLS = (
    Tool("inferometer", "with_judge", "", ("default budget",), matched="matched budget"),
    Tool(
        "Evidently",
        "with_evidently",
        "evidently",
        ("any column", "half of the columns"),
        spread=True,
    ),
    Tool(
        "NannyML", "with_nannyml", "nannyml", ("drift", "drift and data quality"), spread=True
    ),
    Tool("Alibi Detect", "with_alibi", "alibi", ("any column, Bonferroni",)),
    Tool(
        "river ADWIN",
        "with_river",
        "river",
        ("any column",),
        ("--detector", "adwin"),
        is_slow=True,
    ),
    Tool(
        "river Page-Hinkley",
        "with_river",
        "river",
        ("any column",),
        ("--detector", "page-hinkley"),
        is_slow=True,
    ),
)  # fmt: skip


@dataclass
class Said:
    """All lines of a tool on one setting, and its last one."""

    tool: Tool
    quiet: list[Line] = field(default_factory=list)
    broken: dict[str, list[list[Line]]] = field(default_factory=dict)
    end: Json = field(default_factory=dict)

    @property
    def runs(self) -> int:
        return int(self.end["fits"])

    @property
    def window_s(self) -> float:
        """Processor seconds of a window."""
        spent = self.end["judge_s"] + self.end.get("sketch_s", 0.0)
        return float(spent / self.end["windows"])

    @cached_property
    def judges(self) -> dict[str, Reader]:
        """Ways to read a line as (alarm, feature named first), by name: each of its rules, and MATCHED."""
        found: dict[str, Reader] = {}
        for rule in self.tool.rules:
            found[rule] = lambda line, rule=rule: by_default(line, rule)  # type: ignore[misc]
        if self.tool.matched:
            rule = self.tool.matched
            found[MATCHED] = lambda line: by_default(line, rule)
        else:
            found[MATCHED] = Matched.of(self.quiet, BUDGET, spread=self.tool.spread).judged
        return found

    def false_alarms(self, rule: str) -> tuple[float, float]:
        """Of 100 quiet windows those in alarm, and those in which one began."""
        judge = self.judges[rule]
        alarms = [judge(line)[0] for line in self.quiet]
        begun = sum(
            alarm and (not line["window"] or not alarms[at - 1])
            for at, (line, alarm) in enumerate(zip(self.quiet, alarms, strict=True))
        )
        return 100.0 * sum(alarms) / len(alarms), 100.0 * begun / len(alarms)

    def _is_on(self, rule: str, run: int) -> bool:
        """Whether an alarm that lasts was on when a run's breaks began."""
        last = [one for one in self.quiet if one["run"] == run and one["window"] == BEFORE - 1]
        return bool(self.tool.matched) and any(self.judges[rule](one)[0] for one in last)

    def tried(self, rule: str, right: dict[str, tuple[str, ...]], rows: int) -> dict[str, Tried]:
        """Each break of windows of so many rows, over runs, by one of `judges`."""
        judge = self.judges[rule]
        found: dict[str, Tried] = {}
        for name, runs in self.broken.items():
            one = found[name] = Tried()
            for lines in runs:
                raised = any(line["error"] for line in lines)
                ends = [_end(line, rows, is_default=rule != MATCHED) for line in lines]
                # What was on before does not tell of the break.
                is_on = self._is_on(rule, lines[0]["run"])
                judged = [(False, "") if is_on else judge(line) for line in lines]
                one.add(judged, right[name], raised=raised, ends=ends)
        return found


def _end(line: Line, rows: int, *, is_default: bool) -> int:
    """Rows of the break until its verdict: the window's last, or the one at which the default alarmed."""
    row = line["row"] if is_default else None
    return int(line["window"] * rows + (rows if row is None else row + 1))


def interpreter(tool: Tool) -> Path:
    """Raises CannotRun without its environment."""
    if not tool.environment:
        return Path(sys.executable)
    python = python_of(tool.environment)
    if python is None:
        raise CannotRun(
            f"{tool.name} has no environment; make it with: "
            f"python -m benchmarks.verdicts.peers.setup {tool.environment}"
        )
    return python


def lines_of(tool: Tool, folder: Path, runs: int) -> list[str]:
    """Run a tool over a folder of streams. Raises RuntimeError when its process fails."""
    command = [interpreter(tool), "-m", f"benchmarks.verdicts.peers.{tool.module}"]
    arguments = [*tool.arguments, "--runs", str(runs)]
    if tool.matched:
        arguments += ["--budget", f"{BUDGET:g}"]
    done = subprocess.run(
        [*command, folder, *arguments],
        cwd=ROOT,
        env={**os.environ, **SILENT, **_ONE_THREAD},
        stdout=subprocess.PIPE,
        timeout=_TIMEOUT_S,
        check=False,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{tool.name} ended with {done.returncode}; its stderr says why")
    return done.stdout.splitlines()


def read(tool: Tool, lines: list[str], features: list[str]) -> Said:
    """The lines of a process, in the order in which it wrote them; `features` are the table's."""
    found = Said(tool)
    *told, end = (json.loads(line) for line in lines)
    found.end = end
    for line in told:
        line["features"] = features
        if line["what"] == "quiet":
            found.quiet.append(line)
            continue
        runs = found.broken.setdefault(line["what"], [])
        while len(runs) <= line["run"]:
            runs.append([])
        runs[line["run"]].append(line)
    return found

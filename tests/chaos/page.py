"""docs/chaos.md and docs/chaos.json from the documents of long runs.

    python -m tests.chaos.page RUN.json ...

Each RUN is what `python -m tests.chaos --json` printed; a `note` may be added by hand. The page holds nothing
that is not in them. A round that ended before its totals were held against the account counts for no fault.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tests.chaos.faults import TABLE
from tests.chaos.rounds import KEPT, MODES

Json = dict[str, Any]
DOCS = Path(__file__).resolve().parents[2] / "docs"

_HEAD = """# Random faults: the long run

Written by `python -m tests.chaos.page` from [chaos.json](chaos.json). A round: rows are produced all the time, one
fault happens, then all must be counted and committed within 45 s, and the totals are held against the account of the
producer: rows, errors, values, missing values and sums by stream, and rows by blocks of 40, so that a lost row does
not hide behind a repeated one. Every exported point is held against the rules of its series. What each mode
promises, and what some faults lose or repeat by their nature, is in [guarantees.md](guarantees.md).

Memory mode may count a row again when it lay between the offset that was committed just before a crash and the end of
the log by then, once for each crash; where a member or the coordinator is away, or others hand over without a
collector, rows from the offset committed before the fault on, once for each such hand-over; without any of these none.
Runs of commit 65e146b were held against a wider bound: all rows since the round began, as often as six times."""

_TOTALS = [
    ("rounds", "rounds"),
    ("judged", "judged"),
    ("rows produced", "produced"),
    ("lost", "lost"),
    ("double", "double"),
    ("repeated, within the bound of memory mode", "repeated"),
    ("gone with a deleted topic, unread", "gone"),
    ("points held against the rules", "points"),
]


def main(paths: Sequence[str]) -> int:
    runs = [json.loads(Path(path).read_text()) for path in paths]
    for of in (of for run in runs for of in run["failed"]):
        of["troubles"] = [line for line in of["troubles"] if not line.startswith(KEPT)]
    for run in runs:
        run["judged"] = run["rounds"] - len(_unjudged(run))
    (DOCS / "chaos.json").write_text(json.dumps(runs, indent=1) + "\n")
    (DOCS / "chaos.md").write_text(page(runs))
    return 0


def page(runs: Sequence[Json]) -> str:
    machines = {_machine(run["machine"]) for run in runs}
    lines = [_HEAD, "", f"Measured on {'; '.join(sorted(machines))}.", "", "## Runs", ""]
    lines += _runs(runs)
    lines += ["", "## Rounds by fault", "", _rounds_note(runs), "", *_faults(runs)]
    lines += ["", "## Counting again after a kill -9", "", *_recovery(runs)]
    lines += ["", "## Rounds that failed", "", *_failed(runs)]
    return "\n".join(lines) + "\n"


def _machine(of: Json) -> str:
    return f"{of['cores']} cores of {of['cpu']}, {of['memory_gib']} GiB, Python {of['python']}"


def _unjudged(run: Json) -> list[Json]:
    return [of for of in run["failed"] if not of["judged"]]


def _runs(runs: Iterable[Json]) -> list[str]:
    runs = list(runs)
    lines = _header("commit", "brokers", "modes", "seed", *(title for title, _ in _TOTALS))
    for run in runs:
        who = (run["machine"]["commit"], run["brokers"], ", ".join(run["modes"]), str(run["seed"]))
        lines.append(_row(*who, *(run[k] for _, k in _TOTALS)))
    sums = (sum(run[k] for run in runs) for _, k in _TOTALS)
    return [*lines, _row("", "", "**all**", "", *sums)]


def _rounds_note(runs: Iterable[Json]) -> str:
    sizes = sorted({run["brokers"] for run in runs})
    on = " + on ".join(f"{n} broker{'s' if n > 1 else ''}" for n in sizes)
    return f"Rounds that were judged, on {on}."


def _faults(runs: Sequence[Json]) -> list[str]:
    sizes = sorted({run["brokers"] for run in runs})

    def judged(run: Json, key: str) -> int:
        unjudged = [of for of in _unjudged(run) if f"{of['mode']}: {of['fault']}" == key]
        return int(run["faults"].get(key, 0)) - len(unjudged)

    def rounds(mode: str, fault: str) -> str:
        key = f"{mode}: {fault}"
        of = [sum(judged(r, key) for r in runs if r["brokers"] == n) for n in sizes]
        return " + ".join(map(str, of)) if any(of) else ""

    lines = _header("fault", *MODES)
    for fault in TABLE:
        cells = [rounds(mode, fault.name) for mode in MODES]
        if any(cells):
            lines.append(_row(fault.name, *cells))
    return lines


def _recovery(runs: Iterable[Json]) -> list[str]:
    """From the start of the process; see `rounds.recovery`."""
    lines = [
        "Seconds of wall time from the start of the process until it has folded a chunk (an agent of a fleet: until a",
        "chunk counts), while all else runs on the same cores. Of a dynamic member Kafka's session time-out (3 s) is",
        "taken away, during which its process begins; of a static one nothing. The load average, over 15 minutes at",
        "the end of a run, counts what waited for the cores, other work than this included.",
        "",
        *_header("brokers", "who", "times", "median", "worst", "load average of the machine"),
    ]
    for run in runs:
        for kind, of in run["recovery"].items():
            lines.append(
                _row(run["brokers"], kind, of["n"], of["median"], of["worst"], run["load"])
            )
    return lines


def _failed(runs: Sequence[Json]) -> list[str]:
    lines = [
        f"- {run['brokers']} brokers, seed {run['seed']}, round {of['number']}, {of['mode']}: "
        f"{of['fault']} {of['detail']}: {of['lost']} lost, {of['double']} double; "
        + "; ".join(of["troubles"])[:400]
        for run in runs
        for of in run["failed"]
    ]
    lines += [f"- {run['note']}" for run in runs if "note" in run]
    return lines or ["None."]


def _header(*titles: str) -> list[str]:
    return [_row(*titles), "|" + "---|" * len(titles)]


def _shown(cell: object) -> str:
    return f"{cell:,}" if isinstance(cell, int) else str(cell)


def _row(*cells: object) -> str:
    return "| " + " | ".join(_shown(c) for c in cells) + " |"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

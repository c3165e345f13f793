"""What all benchmarks share: options, seeds, medians over interleaved passes, one JSON document.

A benchmark is a module with a `measure(options, result)` and, at its end, `run(__doc__, measure)`:

    python -m benchmarks.NAME            a table for people
    python -m benchmarks.NAME --json     one JSON document on stdout and nothing else there
    python -m benchmarks.NAME --tiny     smallest sizes: shows that it works, its figures mean nothing

The document has `benchmark`, `question`, `machine`, `options`, `figures`, `tables`, `curves`, `notes`
and, last, `bars`: {NAME: {"value", "bar", "is", "unit", "met"}}. One that cannot run here has
`cannot_run` with the reason, and no bars.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson

from benchmarks.machine import cores_busy, describe

Json = dict[str, Any]
SEED = 20260901


class CannotRun(Exception):
    """What is missing here, and what to install."""


# ---------------------------------------------------------------- what a benchmark hands back


@dataclass
class Table:
    title: str
    columns: list[str]
    rows: list[list[Any]] = field(default_factory=list)
    note: str = ""

    def add(self, *cells: Any) -> None:
        assert len(cells) == len(self.columns), (cells, self.columns)
        self.rows.append(list(cells))


@dataclass
class Curve:
    """One plot: lines of (x, y) points. `fit` names a line that is drawn dashed."""

    title: str
    x: str
    y: str
    lines: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    log_x: bool = False
    fit: str = ""


@dataclass
class Result:
    """Filled by `measure`."""

    figures: Json = field(default_factory=dict)
    tables: list[Table] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    bars: dict[str, Json] = field(default_factory=dict)

    def table(self, title: str, *columns: str, note: str = "") -> Table:
        self.tables.append(Table(title, list(columns), note=note))
        return self.tables[-1]

    def at_least(self, name: str, value: float, bar: float, unit: str) -> None:
        """A bar that is met by `value >= bar`, unrounded."""
        self._bar(name, value, bar, unit, "at least", value >= bar)

    def at_most(self, name: str, value: float, bar: float, unit: str) -> None:
        self._bar(name, value, bar, unit, "at most", value <= bar)

    def _bar(self, name: str, value: float, bar: float, unit: str, how: str, met: bool) -> None:
        self.bars[name] = {
            "value": significant(value),
            "bar": bar,
            "is": how,
            "unit": unit,
            "met": bool(met),
        }


def significant(value: float, digits: int = 4) -> float:
    """Rounded to so many digits; integers stay whole."""
    if isinstance(value, int):
        return value
    return float(f"{float(value):.{digits}g}")


# ---------------------------------------------------------------- running one


def run(
    doc: str | None,
    measure: Callable[[argparse.Namespace, Result], None],
    add_options: Callable[[argparse.ArgumentParser], None] | None = None,
    arguments: Sequence[str] | None = None,
) -> None:
    """Parse the command line, measure, print. Exit status 3 when it cannot run here."""
    name = _name_of(measure)
    question = (doc or name).strip().splitlines()[0]
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=question)
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.add_argument("--tiny", action="store_true", help="smallest sizes; figures mean nothing")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument(
        "--passes", type=int, default=0, help="timed passes; 0: the benchmark's own"
    )
    if add_options is not None:
        add_options(parser)
    options = parser.parse_args(arguments)
    result = Result()
    document: Json = {
        "benchmark": name,
        "question": question,
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": describe(),
        "options": {k: v for k, v in vars(options).items() if k != "json"},
    }
    status = 0
    with _stdout_kept() as out:
        began = time.monotonic()
        others = cores_busy()
        try:
            measure(options, result)
        except CannotRun as reason:
            document["cannot_run"] = str(reason)
            status = 3
        document["seconds"] = round(time.monotonic() - began, 1)
        document["other_cores"] = others()
        document |= asdict(result)
        if options.json:
            data = orjson.dumps(
                document,
                default=str,  # of options: a folder
                option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS,
            )
            out.write(data.decode() + "\n")
        else:
            out.write(as_text(document))
        out.flush()
    if status:
        sys.exit(status)


def _name_of(measure: Callable[..., Any]) -> str:
    module = measure.__module__
    if module == "__main__":
        path = Path(sys.modules["__main__"].__file__ or "benchmark")
        # `python -m benchmarks.peers` runs benchmarks/peers/__main__.py.
        return path.parent.name if path.stem == "__main__" else path.stem
    return module.removesuffix(".__main__").rpartition(".")[2]


@contextlib.contextmanager
def _stdout_kept() -> Iterator[Any]:
    """The real stdout; whatever else is printed meanwhile, by C libraries and children too, goes to stderr."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with os.fdopen(kept, "w", closefd=False) as out:
            yield out
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def progress(text: str) -> None:
    """Where a benchmark is, on stderr."""
    print(f"  {text}", file=sys.stderr, flush=True)


# ---------------------------------------------------------------- timing


@dataclass(frozen=True)
class Timing:
    """Seconds of one case by the wall clock: median, least and most of its passes.

    `cpu_s` and `least_cpu_s`: processor time of the calling thread, median and least. For work of one
    thread that never waits both are the same on a quiet machine; on a busy one only the processor
    time says what the work costs.
    """

    median_s: float
    least_s: float
    most_s: float
    cpu_s: float
    least_cpu_s: float
    passes: int


def timed(cases: Mapping[str, Callable[[], object]], passes: int) -> dict[str, Timing]:
    """Time every case `passes` times, in turn, so that what disturbs one disturbs all.

    One pass of each goes first and is not counted. Ratios of cases of one call are what to trust. Inside
    of `frozen`, what earlier cases left behind is frozen too before each.
    """
    walls: dict[str, list[float]] = {name: [] for name in cases}
    cpus: dict[str, list[float]] = {name: [] for name in cases}
    for at in range(passes + 1):
        for name, case in cases.items():
            if gc.get_freeze_count():
                gc.freeze()
            cpu = time.thread_time()
            wall = time.perf_counter()
            case()
            wall_s, cpu_s = time.perf_counter() - wall, time.thread_time() - cpu
            if at:
                walls[name].append(wall_s)
                cpus[name].append(cpu_s)
    return {
        name: Timing(
            statistics.median(walls[name]),
            min(walls[name]),
            max(walls[name]),
            statistics.median(cpus[name]),
            min(cpus[name]),
            passes,
        )
        for name in cases
    }


@contextlib.contextmanager
def frozen() -> Iterator[None]:
    """The cyclic collector does not look at what is alive now: a large heap would slow Python code down,
    and flatter every ratio against a baseline in Python."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def in_child(work: Callable[..., Json], *arguments: Any, timeout_s: float = 120.0) -> Json:
    """`work(*arguments)` in a forked process: its memory is its own. Raises RuntimeError when it fails."""
    import multiprocessing

    here, there = multiprocessing.Pipe(duplex=False)

    def child() -> None:
        options = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
        there.send_bytes(orjson.dumps(work(*arguments), option=options))

    process = multiprocessing.get_context("fork").Process(target=child, daemon=True)
    process.start()
    there.close()
    try:
        if not here.poll(timeout_s):
            raise RuntimeError(f"{work.__name__}{arguments} took longer than {timeout_s} s")
        found: Json = orjson.loads(here.recv_bytes())
        return found
    except EOFError:
        process.join(5.0)
        raise RuntimeError(f"{work.__name__}{arguments} ended with {process.exitcode}") from None
    finally:
        process.join(1.0)
        if process.is_alive():
            process.kill()
            process.join()


def rss_bytes(pid: int | str = "self") -> int:
    """Resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


# ---------------------------------------------------------------- for people


def as_text(document: Json) -> str:
    """A document as plain text: tables, notes, bars."""
    lines = [f"{document['benchmark']}: {document['question']}", ""]
    if "cannot_run" in document:
        return "\n".join([*lines, f"cannot run here: {document['cannot_run']}", ""])
    for table in document["tables"]:
        lines += [table["title"]] if table["title"] else []
        cells = [table["columns"], *([shown(c) for c in row] for row in table["rows"])]
        widths = [max(len(row[i]) for row in cells) for i in range(len(table["columns"]))]
        for row in cells:
            first, *rest = (
                cell.ljust(w) if i == 0 else cell.rjust(w)
                for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            )
            lines.append("  " + "  ".join([first, *rest]).rstrip())
        lines += [f"  {table['note']}"] if table["note"] else []
        lines.append("")
    if not document["tables"]:
        lines += [f"  {name:40} {shown(value)}" for name, value in document["figures"].items()]
    lines += [f"  {note}" for note in document["notes"]]
    for name, bar in document["bars"].items():
        met = "met" if bar["met"] else "MISSED"
        sign = ">=" if bar["is"] == "at least" else "<="
        lines.append(
            f"  {met:7} {name}: {shown(bar['value'])} {bar['unit']} (bar {sign} {bar['bar']})"
        )
    lines.append(f"  {document['seconds']} s; other processes used {document['other_cores']} cores")
    return "\n".join(lines) + "\n"


def shown(value: Any) -> str:
    """A cell: numbers with three digits, thousands grouped."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        if abs(value) >= 1000:
            return f"{value:,.0f}"
        return f"{float(f'{value:.3g}'):g}"
    return str(value)

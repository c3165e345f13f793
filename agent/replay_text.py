"""A replay's result as a table for people: one per stream, with small histograms."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, TextIO

import numpy as np
from numpy.typing import NDArray

from agent.types import Json

if TYPE_CHECKING:
    from rich.console import Console

_BLOCKS: Final = " ▁▂▃▄▅▆▇█"
_ASCII_BLOCKS: Final = " .:-=+*#%"
_BINS: Final = 16
_WIDTH_WITHOUT_TERMINAL: Final = 120
#: Streams shown; the JSON document has all.
MAX_STREAMS: Final = 50


def show(state: Json, out: TextIO) -> None:
    """Write the totals of a `/v1/state` document."""
    from rich.console import Console

    is_tty = out.isatty()
    console = Console(file=out, width=None if is_tty else _WIDTH_WITHOUT_TERMINAL, highlight=False)
    blocks = _BLOCKS if (out.encoding or "").lower().replace("-", "") == "utf8" else _ASCII_BLOCKS
    tally = state["tally"]
    console.print(_sentence(tally), markup=False)
    for name in ("dropped", "irregular"):
        if tally[name]:
            reasons = ", ".join(f"{reason} {n:,}" for reason, n in sorted(tally[name].items()))
            console.print(f"{name}: {reasons}", markup=False)
    streams = state["streams"]
    for stream in streams[:MAX_STREAMS]:
        console.print()
        console.print(_title(stream), style="bold", markup=False)
        _table(stream, blocks, console)
    if len(streams) > MAX_STREAMS:
        console.print(f"\n... and {len(streams) - MAX_STREAMS:,} more streams; --json has all")


def _table(stream: Json, blocks: str, console: Console) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim")
    table.add_column("column", overflow="ellipsis", no_wrap=True, max_width=36)
    table.add_column("kind", no_wrap=True)
    for name in ("count", "missing", "violations", "min", "median", "mean", "max"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("values", overflow="ellipsis", no_wrap=True, min_width=_BINS)
    totals = stream["totals"]
    groups = [
        *((name, column) for name, column in totals["features"].items()),
        *((f"prediction {name}", column) for name, column in totals["predictions"].items()),
        *([("latency (s)", totals["latency"])] if totals["latency"] else []),
        *((f"usage {name}", column) for name, column in totals["usage"].items()),
    ]
    for name, column in groups:
        quantiles = column["quantiles"] or {}
        table.add_row(
            Text(name),
            column["kind"] or "",
            f"{column['count']:,}",
            _count(column["missing"]),
            _count(column["violations"]),
            number(column["min"]),
            number(quantiles.get("0.5")),
            number(column["mean"]),
            number(column["max"]),
            Text(_values(column, blocks)),
        )
    console.print(table)


def _sentence(tally: Json) -> str:
    parts = [f"{tally['rows']:,} rows of {tally['events']:,} events"]
    if tally["labels"]:
        parts.append(f"{tally['labels']:,} labels")
    return ", ".join(parts)


def _title(stream: Json) -> str:
    version = f" version {stream['version']}" if stream["version"] else ""
    segment = "".join(f" {name}={value}" for name, value in stream["segment"].items())
    errors = f", {stream['errors']:,} errors" if stream["errors"] else ""
    return f"{stream['model']}{version}{segment}: {stream['rows']:,} rows{errors}"


def _count(n: int) -> str:
    return f"{n:,}" if n else "-"


def number(value: float | None) -> str:
    """A few significant digits, "" for None."""
    if value is None:
        return ""
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    return f"{value:.2e}"


def _values(column: Json, blocks: str) -> str:
    """A histogram for numbers, the most frequent values for the rest."""
    histogram = column.get("histogram")
    if histogram is not None and column["quantiles"]:
        low, high = column["quantiles"]["0.01"], column["quantiles"]["0.99"]
        if low == high:
            low, high = column["min"], column["max"]
        return bars(bin_counts(histogram, low, high, _BINS, column["min"], column["max"]), blocks)
    n = column["count"]
    shares = []
    for value, count in column["top"][:4]:
        text = str(value).lower() if isinstance(value, bool) else str(value)
        text = "".join(char if char.isprintable() else "?" for char in text)
        shares.append(f"{text[:16]} {100 * count / n:.0f}%")
    return "  ".join(shares)


def bars(counts: NDArray[np.float64], blocks: str = _BLOCKS) -> str:
    """One character for each count; the largest is a full block, and nothing above zero is empty."""
    top = float(counts.max(initial=0.0))
    if top <= 0:
        return blocks[0] * len(counts)
    steps = len(blocks) - 1
    return "".join(blocks[math.ceil(steps * count / top - 1e-9)] for count in counts.tolist())


def bin_counts(
    histogram: Json, low: float, high: float, n_bins: int, least: float, most: float
) -> NDArray[np.float64]:
    """Values of an exponential histogram in `n_bins` equal bins of [low, high]; values outside are left out.

    histogram     {"scale", "zero", "positive": {"offset", "counts"}, "negative": {...}}
    least, most   smallest and largest value, to trim the outermost buckets

    Within a bucket values are taken as evenly spread. Returns float64[n_bins].
    """
    if not high > low:
        whole = np.zeros(n_bins)
        whole[n_bins // 2] = 1.0
        return whole
    edges: list[float] = []
    sums: list[float] = []
    total = 0.0

    def add(lower: float, upper: float, count: float) -> None:
        nonlocal total
        if count:
            edges.extend((max(lower, least), min(upper, most)))
            sums.extend((total, total + count))
            total += count

    step = 2.0 ** -histogram["scale"]

    def bound(index: int) -> float:
        exponent = index * step
        return 2.0**exponent if exponent < 1024 else math.inf

    negative = histogram["negative"]
    for i in reversed(range(len(negative["counts"]))):
        index = negative["offset"] + i
        add(-bound(index + 1), -bound(index), negative["counts"][i])
    add(0.0, 0.0, histogram["zero"])
    positive = histogram["positive"]
    for i, count in enumerate(positive["counts"]):
        index = positive["offset"] + i
        add(bound(index), bound(index + 1), count)
    return _between(np.array(edges), np.array(sums), np.linspace(low, high, n_bins + 1))


def _between(
    edges: NDArray[np.float64], sums: NDArray[np.float64], bins: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Differences of the cumulative count at the bins' edges; a bucket of no width is a step."""
    # The lowest edge belongs to its bin; every other step at an edge belongs to the bin on its left.
    at = np.interp(np.nextafter(bins, np.inf), edges, sums, left=0.0, right=sums[-1])
    at[0] = np.interp(np.nextafter(bins[0], -np.inf), edges, sums, left=0.0, right=sums[-1])
    return np.diff(at)

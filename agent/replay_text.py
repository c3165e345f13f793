"""A replay's result as a table for people: one per stream, with small histograms."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from typing import Final, TextIO

import numpy as np
from numpy.typing import NDArray

from agent.types import Json

_BLOCKS: Final = " ▁▂▃▄▅▆▇█"
_ASCII_BLOCKS: Final = " .:-=+*#%"
_BINS: Final = 16
_NAME_CHARS: Final = 40
_VALUE_CHARS: Final = 16
#: Streams shown; the JSON document has all.
MAX_STREAMS: Final = 50


def show(state: Json, out: TextIO) -> None:
    """Write the totals of a `/v1/state` document. On a terminal, lines are cut to its width."""
    width = shutil.get_terminal_size().columns if out.isatty() else None
    is_utf8 = (out.encoding or "").lower().replace("-", "") == "utf8"
    for line in lines(state, _BLOCKS if is_utf8 else _ASCII_BLOCKS):
        shown = line if is_utf8 else line.encode("ascii", "replace").decode()
        print(shown[:width], file=out)


def lines(state: Json, blocks: str = _BLOCKS) -> Iterator[str]:
    """The whole report."""
    tally = state["tally"]
    yield _sentence(tally)
    for name in ("dropped", "irregular"):
        if tally[name]:
            yield f"{name}: " + ", ".join(f"{why} {n:,}" for why, n in sorted(tally[name].items()))
    streams = state["streams"]
    for stream in streams[:MAX_STREAMS]:
        yield ""
        yield _title(stream)
        yield from _table(stream, blocks)
        if (unsketched := stream["unsketched"])["values"]:
            yield (
                f"  {unsketched['columns']:,} more columns with {unsketched['values']:,} values are past "
                "the budget: counted, not sketched"
            )
    if len(streams) > MAX_STREAMS:
        yield f"\n... and {len(streams) - MAX_STREAMS:,} more streams; --json has all"


_HEAD: Final = ("column", "kind", "count", "missing", "violations", "min", "median", "mean", "max")
_LEFT: Final = 2  # columns that are aligned to the left
_BEHIND: Final = 5  # where "non-finite" goes


def _table(stream: Json, blocks: str) -> Iterator[str]:
    totals = stream["totals"]
    columns = [
        *totals["features"].items(),
        *((f"prediction {name}", column) for name, column in totals["predictions"].items()),
        *([("latency (s)", totals["latency"])] if totals["latency"] else []),
        *((f"usage {name}", column) for name, column in totals["usage"].items()),
    ]
    # Rare, so a column of its own only where there are any.
    has_non_finite = any(column["non_finite"] for _, column in columns)
    head = (*_HEAD[:_BEHIND], "non-finite", *_HEAD[_BEHIND:]) if has_non_finite else _HEAD
    rows: list[tuple[tuple[str, ...], str]] = [(head, "values")]
    for name, column in columns:
        quantiles = column["quantiles"] or {}
        cells = (
            _short(name, _NAME_CHARS),
            column["kind"] or "?",
            f"{column['count']:,}",
            _count(column["missing"]),
            _count(column["violations"]),
            *([_count(column["non_finite"] or 0)] if has_non_finite else []),
            number(column["min"]),
            number(quantiles.get("0.5")),
            number(column["mean"]),
            number(column["max"]),
        )
        rows.append((cells, _values(column, blocks)))
    widths = [max(len(cells[i]) for cells, _ in rows) for i in range(len(head))]
    for cells, values in rows:
        aligned = [
            text.ljust(width) if i < _LEFT else text.rjust(width)
            for i, (text, width) in enumerate(zip(cells, widths, strict=True))
        ]
        yield f"  {'  '.join(aligned)}  {values}".rstrip()


def _short(text: str, n: int) -> str:
    text = "".join(char if char.isprintable() else "?" for char in text)
    return text if len(text) <= n else text[: n - 1] + "…"


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
        shares.append(f"{_short(text, _VALUE_CHARS)} {100 * count / n:.0f}%")
    return "  ".join(shares)


def bars(counts: NDArray[np.float64], blocks: str = _BLOCKS) -> str:
    """One character for each count; the largest is a full block, and nothing above zero is empty."""
    top = float(counts.max(initial=0.0))
    if top <= 0:
        return blocks[0] * len(counts)
    steps = len(blocks) - 1
    noise = 1e-12 * top  # of interpolation
    return "".join(
        blocks[max(1, math.ceil(steps * count / top - 1e-9)) if count > noise else 0]
        for count in counts.tolist()
    )


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

"""What does one value cost in a sketch, and what does it cost with the libraries people know?

Optimises: ns per value of `Delta.add`, once a block has been decoded. Blocks of 2048 rows, each row of
a stream and of one of three windows of its own drawing. The comparisons do the same work per column:
datasketches' KLL (vectorised, and one value at a time) and HLL, ddsketch, and numpy over the raw values of
the window (histogram and quantiles), which keeps every value. All in one run, in turn.

    python -m benchmarks.sketch [--json] [--blocks N]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from agent.sketch.delta import Delta
from agent.types import Block
from benchmarks.blocks import Table, lane, make_blocks, string_lane
from benchmarks.frame import Result, frozen, progress, run, timed

N_NUMBERS = 13
CARDINALITIES = (5, 1000, 1_000_000)
N_STRINGS = 4  # lanes of one cardinality, where strings are measured alone
STREAMS = (1, 16, 50, 500)
#: Values that one-at-a-time libraries are given: they need 0.1 to 1 us each.
SCALAR_VALUES = 20_000


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--blocks", type=int, default=40, help="blocks of 2048 rows in a pass")


def measure(options: argparse.Namespace, result: Result) -> None:
    n_blocks = 2 if options.tiny else options.blocks
    passes = options.passes or (1 if options.tiny else 7)
    streams = STREAMS[:2] if options.tiny else STREAMS
    _per_sketch(result, n_blocks, passes, streams, options.seed)
    _compared(result, n_blocks, passes, options.seed)


class _Added:
    """A delta that a list of blocks is added to. What it learned in the first pass stays: its cells exist."""

    def __init__(self, blocks: Sequence[Block], n_streams: int, numbers: int, strings: int) -> None:
        self._blocks = blocks
        self.delta = Delta(Table(n_streams, numbers, strings))

    def __call__(self) -> None:
        add = self.delta.add
        for block in self._blocks:
            add(block)


def _per_sketch(
    result: Result, n_blocks: int, passes: int, streams: Sequence[int], seed: int
) -> None:
    table = result.table(
        "ns per value",
        "streams",
        f"numbers, {N_NUMBERS} lanes",
        *(f"strings of {c:,}" for c in CARDINALITIES),
        "routing, per row",
        f"row of {N_NUMBERS} numbers and {len(CARDINALITIES)} strings, whole",
        "delta, MiB",
        note="Processor time. Three windows; cells exist already. Numbers and strings without the routing of their rows.",
    )
    for n_streams in streams:
        progress(f"{n_streams} streams")
        cases: dict[str, _Added] = {}
        wanted: list[tuple[str, int, tuple[int, ...]]] = [("routing", 0, ())]
        wanted += [("numbers", N_NUMBERS, ())]
        wanted += [(f"strings_{c}", 0, (c,) * N_STRINGS) for c in CARDINALITIES]
        wanted += [("row", N_NUMBERS, CARDINALITIES)]
        for name, n_numbers, cardinalities in wanted:
            blocks = make_blocks(
                n_blocks,
                seed=seed + n_streams,
                n_streams=n_streams,
                n_numbers=n_numbers,
                cardinalities=cardinalities,
            )
            cases[name] = _Added(blocks, n_streams, n_numbers, len(cardinalities))
        with frozen():
            timings = timed(cases, passes)
        rows = sum(block.n for block in blocks)
        ns = {name: timing.cpu_s / rows * 1e9 for name, timing in timings.items()}
        numbers = (ns["numbers"] - ns["routing"]) / N_NUMBERS
        table.add(
            n_streams,
            numbers,
            *((ns[f"strings_{c}"] - ns["routing"]) / N_STRINGS for c in CARDINALITIES),
            ns["routing"],
            ns["row"],
            cases["row"].delta.size_bytes / 2**20,
        )
        result.figures[f"number_ns_{n_streams}"] = numbers
        result.figures[f"row_ns_{n_streams}"] = ns["row"]


def _compared(result: Result, n_blocks: int, passes: int, seed: int) -> None:
    """Columns of one stream and window: the arrangement that suits the others best. Routing included."""
    progress("the same with other libraries")
    n_blocks = max(2, n_blocks // 4)
    blocks = make_blocks(
        n_blocks,
        seed=seed,
        n_streams=1,
        n_numbers=N_NUMBERS,
        cardinalities=(1000,) * N_STRINGS,
        n_windows=1,
    )
    rows = sum(block.n for block in blocks)
    columns = [
        [np.ascontiguousarray(lane(block, N_NUMBERS, j)) for j in range(N_NUMBERS)]
        for block in blocks
    ]
    texts = [text for block in blocks for text in string_lane(block, N_STRINGS, 0)]
    some = np.concatenate([column for block in columns for column in block])[
        :SCALAR_VALUES
    ].tolist()
    some_texts = texts[:SCALAR_VALUES]

    numbers_only = make_blocks(n_blocks, seed=seed, n_streams=1, n_numbers=N_NUMBERS, n_windows=1)
    strings_only = make_blocks(
        n_blocks,
        seed=seed,
        n_streams=1,
        n_numbers=0,
        cardinalities=(1000,) * N_STRINGS,
        n_windows=1,
    )
    own = "inferometer"
    cases: dict[str, tuple[str, int, Callable[[], object]]] = {
        own: ("numbers", rows * N_NUMBERS, _Added(numbers_only, 1, N_NUMBERS, 0)),
        f"{own}, strings": ("strings", rows * N_STRINGS, _Added(strings_only, 1, 0, N_STRINGS)),
        "numpy histogram (64 bins)": (
            "numbers",
            rows * N_NUMBERS,
            lambda: [np.histogram(c, 64, (-10.0, 1000.0)) for block in columns for c in block],
        ),
        "numpy quantile (3), of the whole window": (
            "numbers",
            rows * N_NUMBERS,
            lambda: [
                np.quantile(np.concatenate([block[j] for block in columns]), (0.5, 0.9, 0.99))
                for j in range(N_NUMBERS)
            ],
        ),
        "numpy min, max, sum, sum of squares": (
            "numbers",
            rows * N_NUMBERS,
            lambda: [(c.min(), c.max(), c.sum(), c @ c) for block in columns for c in block],
        ),
        "collections.Counter": ("strings", rows, lambda: _counter(texts)),
    }
    cases |= _peers(result, columns, rows, some, some_texts)
    with frozen():
        timings = timed({name: case for name, (_, _, case) in cases.items()}, passes)
    ns = {name: timings[name].cpu_s / cases[name][1] * 1e9 for name in cases}
    for kind, ours in (("numbers", own), ("strings", f"{own}, strings")):
        table = result.table(
            f"One stream, one window: {kind}", "what", "ns per value", "of inferometer's"
        )
        for name, (case_kind, _, _) in cases.items():
            if case_kind == kind:
                table.add(name, ns[name], ns[name] / ns[ours])
                result.figures[f"ratio: {name}"] = ns[name] / ns[ours]
    result.notes.append(
        "inferometer's numbers: exponential histogram, moments to the fourth, min, max, nulls and missing; its "
        "strings: distinct values, heavy hitters with their texts, hashed buckets. KLL keeps quantiles only, HLL "
        "distinct values only."
    )


def _counter(texts: Sequence[str]) -> None:
    from collections import Counter

    Counter(texts)


def _peers(
    result: Result,
    columns: list[list[np.ndarray]],
    rows: int,
    some: list[float],
    some_texts: list[str],
) -> dict[str, tuple[str, int, Callable[[], object]]]:
    """Those of the `bench` extra; a missing one is said, not left out."""
    cases: dict[str, tuple[str, int, Callable[[], object]]] = {}
    n_values = rows * N_NUMBERS
    try:
        import datasketches

        klls = [datasketches.kll_doubles_sketch(200) for _ in range(N_NUMBERS)]

        def kll_vectors() -> None:
            for block in columns:
                for sketch, column in zip(klls, block, strict=True):
                    sketch.update(column)

        one_kll = datasketches.kll_doubles_sketch(200)
        hll = datasketches.hll_sketch(11)
        items = datasketches.frequent_strings_sketch(7)
        cases["datasketches KLL, a column at a time"] = ("numbers", n_values, kll_vectors)
        cases["datasketches KLL, a value at a time"] = (
            "numbers",
            len(some),
            lambda: _each(one_kll.update, some),
        )
        cases["datasketches HLL, a value at a time"] = (
            "strings",
            len(some_texts),
            lambda: _each(hll.update, some_texts),
        )
        cases["datasketches frequent strings"] = (
            "strings",
            len(some_texts),
            lambda: _each(items.update, some_texts),
        )
    except ImportError as error:
        result.notes.append(f"datasketches was not measured: {error}; install the `bench` extra")
    try:
        import ddsketch

        dd = ddsketch.DDSketch(0.01)
        cases["ddsketch, a value at a time"] = ("numbers", len(some), lambda: _each(dd.add, some))
    except ImportError as error:
        result.notes.append(f"ddsketch was not measured: {error}; install the `bench` extra")
    return cases


def _each(update: Callable[[Any], Any], values: Sequence[Any]) -> None:
    for value in values:
        update(value)


if __name__ == "__main__":
    run(__doc__, measure, options)

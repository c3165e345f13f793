"""Which lines of the hot path take the time?

The reference event at 16 and at 500 models, record batches to sketches; a second thread looks a thousand
times a second where the first one is. Kernels run without the GIL, so a sample taken meanwhile names
the line that called the kernel. Optimises nothing: it says where to look.

    python -m benchmarks.profile [--json] [--shape reference] [--models 16,500] [--seconds S]
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path as File

from benchmarks.events import SHAPES
from benchmarks.frame import Result, frozen, progress, run
from benchmarks.path import Path, config_of, make_feed

EVERY_S = 0.001
MOST_LINES = 25
_ROOT = File(__file__).resolve().parents[1]

Where = tuple[str, str, int]  # file, function, line


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shape", default="reference", choices=SHAPES)
    parser.add_argument("--models", default="16,500", help="numbers of models, one table each")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each table")
    parser.add_argument("--rows", type=int, default=100_000)


def measure(options: argparse.Namespace, result: Result) -> None:
    shape = SHAPES[options.shape]
    rows = 2_000 if options.tiny else options.rows
    seconds = 0.3 if options.tiny else options.seconds
    for models in map(int, options.models.split(",")):
        progress(f"{shape.name}, {models} models")
        path = Path(config_of(shape))
        feed = make_feed(shape, rows, options.seed, models=models)
        path.run(feed)
        with frozen():
            lines, ns = _sampled(lambda path=path, feed=feed: path.run(feed), seconds)
        total = sum(lines.values())
        ns /= feed.n
        table = result.table(
            f"{shape.name}, {models} models: {ns:.0f} ns/row",
            *("line", "function", "% of samples", "ns/row"),
            note=f"{total:,} samples. A line that calls a kernel has the kernel's time.",
        )
        for (file, function, line), n in lines.most_common(MOST_LINES):
            table.add(f"{file}:{line}", function, 100 * n / total, ns * n / total)


def _sampled(work: Callable[[], None], seconds: float) -> tuple[Counter[Where], float]:
    """Where the work was, sample by sample, and its mean duration in ns."""
    lines: Counter[Where] = Counter()
    ended = threading.Event()
    watched = threading.get_ident()

    def watch() -> None:
        while not ended.wait(EVERY_S):
            frame = sys._current_frames().get(watched)
            if frame is not None:
                code = frame.f_code
                lines[_name_of(code.co_filename), code.co_qualname, frame.f_lineno] += 1

    sampler = threading.Thread(target=watch, name="sampler", daemon=True)
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)  # Python gives way soon when a sample is due
    n = 0
    try:
        sampler.start()
        began = time.perf_counter()
        while time.perf_counter() - began < seconds:
            work()
            n += 1
        took = time.perf_counter() - began
    finally:
        ended.set()
        sampler.join()
        sys.setswitchinterval(interval_s)
    return lines, took / n * 1e9


def _name_of(path: str) -> str:
    """A file of this project by its path in it, another by its last three parts."""
    file = File(path)
    if file.is_relative_to(_ROOT):
        return str(file.relative_to(_ROOT))
    return "/".join(file.parts[-3:])


if __name__ == "__main__":
    run(__doc__, measure, options)

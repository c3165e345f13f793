"""What every peer's process does alike: arguments, clocks, and one line of JSON at the end.

Processor time is that of the whole process, all threads, from before the first fetch to the finished
result. What was imported and built before is frozen out of the cyclic collector's sight, which is
then off: peers in Python are shown at their best.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any


@dataclass(frozen=True)
class Task:
    """The last `rows` events of a topic: rows / partitions of each partition, up to its end."""

    bootstrap: str
    topic: str
    partitions: int
    rows: int

    @property
    def rows_each(self) -> int:
        return self.rows // self.partitions


@dataclass
class Answer:
    """What the job asks for. `numbers`: name -> (values counted, the three quantiles of `rows.QUANTILES`);
    `distinct`: name -> estimate."""

    rows: int = 0
    models: Mapping[str, int] = field(default_factory=dict)
    numbers: Mapping[str, tuple[int, list[float]]] = field(default_factory=dict)
    distinct: Mapping[str, float] = field(default_factory=dict)


def task_from_arguments() -> Task:
    parser = argparse.ArgumentParser()
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--partitions", type=int, required=True)
    parser.add_argument("--rows", type=int, required=True)
    return Task(**vars(parser.parse_args()))


class Meter:
    """Clocks: `start` before the first fetch, `first` with the first records in hand, `end`."""

    def __init__(self) -> None:
        self._first_s: float | None = None
        gc.collect()
        gc.freeze()
        gc.disable()
        self._wall_s = time.perf_counter()
        self._cpu_s = time.process_time()

    def first(self) -> None:
        """Records have come; connecting is over. Only the first call counts."""
        if self._first_s is None:
            self._first_s = time.perf_counter()

    def end(self, answer: Answer, *packages: str) -> None:
        """Print what was found and what it took."""
        cpu_s = time.process_time() - self._cpu_s
        now_s = time.perf_counter()
        found: dict[str, Any] = {
            "rows": answer.rows,
            "cpu_s": cpu_s,
            "wall_s": now_s - (self._first_s or self._wall_s),
            "models": dict(answer.models),
            "numbers": {name: list(pair) for name, pair in answer.numbers.items()},
            "distinct": dict(answer.distinct),
            "versions": {name: version(name) for name in packages},
        }
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()

"""Where the time of a path goes: seconds inside each compiled step, the rest is Python between them.

Every step is one compiled function that Python calls by a name of its module. While a `Stages` is in
force those names lead through a clock, which costs about 0.2 us a call: steps are called once for a
block of 2048 rows, so a row's share is below a nanosecond.
"""

from __future__ import annotations

import contextlib
import importlib
import time
from collections.abc import Callable, Iterator
from typing import Any

#: Step -> names that lead to it: (module, attribute). Those that do not exist are passed over.
STEPS: dict[str, list[tuple[str, str]]] = {
    "open batches": [
        ("agent.decode.arena", "open_batches"),
        ("agent.decode.arena", "open_payload"),
    ],
    "record index": [("agent.decode.arena", "index_records")],
    "template tier": [("agent.decode.slices", "decode_templates")],
    "scan tier": [("agent.decode.slices", "scan")],
    "finish: stream, status, trace": [("agent.decode.tier_rows", "finish_rows")],
    "finish: new streams": [("agent.decode.tier_rows", "settle_rows")],
    "windows": [("agent.decode.tier_rows", "mark_windows")],
    "orjson tier": [("agent.decode.events.JsonDecoder", "take")],
    "learning": [("agent.decode.paths.PathTable", "learn")],
    "route": [("agent.sketch.kernels.route", "route_rows")],
    "new cells": [("agent.sketch.update", "find_missing")],
    "numbers": [("agent.sketch.update", "_update_numbers")],
    "strings": [("agent.sketch.update", "_update_strings")],
}
GLUE = "Python between them"


class Stages:
    """Seconds and calls by step. Not for several threads."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(STEPS, 0.0)
        self.calls: dict[str, int] = dict.fromkeys(STEPS, 0)
        self.total_s = 0.0
        self._inner_s = 0.0  # of steps that ended inside of the one in hand

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Watch all steps; the time in here is the total."""
        with contextlib.ExitStack() as stack:
            for step, places in STEPS.items():
                for module, name in places:
                    owner = _find(module)
                    if owner is not None and hasattr(owner, name):
                        original = getattr(owner, name)
                        setattr(owner, name, self._clocked(step, original))
                        stack.callback(setattr, owner, name, original)
            began = time.perf_counter()
            try:
                yield
            finally:
                self.total_s += time.perf_counter() - began

    def _clocked(self, step: str, function: Callable[..., Any]) -> Callable[..., Any]:
        clock = time.perf_counter

        def clocked(*arguments: Any, **named: Any) -> Any:
            outer, self._inner_s = self._inner_s, 0.0
            began = clock()
            try:
                return function(*arguments, **named)
            finally:
                took = clock() - began
                self.seconds[step] += took - self._inner_s
                self.calls[step] += 1
                self._inner_s = outer + took

        return clocked

    def per_row_ns(self, rows: int) -> dict[str, float]:
        """ns of a row by step, the glue last; steps that never ran are left out."""
        found = {
            step: seconds / rows * 1e9 for step, seconds in self.seconds.items() if self.calls[step]
        }
        found[GLUE] = (self.total_s - sum(self.seconds.values())) / rows * 1e9
        return found


def _find(path: str) -> Any:
    """A module, or a class in one; None when it is not there."""
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError:
        module, _, name = path.rpartition(".")
        try:
            return getattr(importlib.import_module(module), name, None)
        except (ModuleNotFoundError, ValueError):
            return None

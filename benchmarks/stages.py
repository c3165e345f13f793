"""Where the time of a path goes: CPU seconds inside each compiled step, the rest is Python between them.

Every step is a kernel that Python calls by a name of some module of the agent. While a `Stages` is in
force all those names lead through a clock, which costs a few microseconds a call: as much as Python does
between two kernels. What that is is measured, and left out.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from agent.sketch.kernels.compile import KERNELS

#: Kernels (module.function) whose own name says too little.
NAMES = {
    "open_batches.open_batches": "open batches (copy, lz4, snappy)",
    "record_index.index_records": "record index",
    "template.decode_templates": "template tier",
    "scan.scan": "scan tier",
    "finish.finish_rows": "finish: stream, status, trace",
    "finish.sum_sizes": "bytes of records",
    "finish.close_rows": "finish: windows, what is late, row ends",
    "finish.settle_rows": "finish: rows of new streams",
    "finish.mark_windows": "windows",
    "route.add_rows": "sketch: route and numbers",
    "strings.update_strings": "sketch: strings",
}
#: Python that is worth a line of its own: (module, class, method).
METHODS = {
    "orjson tier": ("agent.decode.events", "JsonDecoder", "take"),
    "learning": ("agent.decode.slices", "SliceDecoder", "_learn"),
    "cut": ("agent.sketch.delta", "Delta", "freeze"),
}
GLUE = "Python between them"


class Stages:
    """CPU seconds of this thread, and calls, by step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.calls: dict[str, int] = {}
        self.total_s = 0.0
        self._clock_s = 0.0  # what one call costs more than without a clock
        self._inner_s = 0.0  # of steps that ended inside of the one in hand

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Watch all steps; the time in here is the total."""
        self._clock_s = _clock_cost()
        with contextlib.ExitStack() as stack:
            for owner, name, step in _places():
                original = getattr(owner, name)
                setattr(owner, name, self._clocked(step, original))
                stack.callback(setattr, owner, name, original)
            began = time.thread_time()
            try:
                yield
            finally:
                self.total_s += time.thread_time() - began

    def _clocked(self, step: str, function: Callable[..., Any]) -> Callable[..., Any]:
        clock = time.thread_time

        def clocked(*arguments: Any, **named: Any) -> Any:
            outer, self._inner_s = self._inner_s, 0.0
            began = clock()
            try:
                return function(*arguments, **named)
            finally:
                took = clock() - began
                self.seconds[step] = self.seconds.get(step, 0.0) + took - self._inner_s
                self.calls[step] = self.calls.get(step, 0) + 1
                self._inner_s = outer + took

        return clocked

    def per_row_ns(self, rows: int) -> dict[str, float]:
        """ns of a row by step, in the order of their first calls; the glue last."""
        found = {step: seconds / rows * 1e9 for step, seconds in self.seconds.items()}
        clocks_s = self._clock_s * sum(self.calls.values())
        found[GLUE] = (self.total_s - sum(self.seconds.values()) - clocks_s) / rows * 1e9
        return found


def _clock_cost() -> float:
    """Seconds that a call through the clock takes outside of what the clock itself sees."""
    stages = Stages()
    steps = [stages._clocked("nothing", _nothing), _nothing]
    least = []
    for step in steps:
        times = []
        for _ in range(20):
            began = time.thread_time()
            for _ in range(100):
                step()
            times.append((time.thread_time() - began) / 100)
        least.append(min(times))
    seen = stages.seconds["nothing"] / stages.calls["nothing"]
    return max(0.0, least[0] - least[1] - seen)


def _nothing() -> None:
    pass


def _places() -> Iterator[tuple[Any, str, str]]:
    """Every (module or class, name) of the agent that leads to a step, and the step."""
    steps = {id(kernel): name for name, (kernel, _) in KERNELS.items()}
    for module_name, module in list(sys.modules.items()):
        if module_name.startswith("agent."):
            for name, value in list(vars(module).items()):
                kernel = steps.get(id(value))
                if kernel is not None:
                    yield module, name, NAMES.get(kernel, kernel)
    for step, (module_name, owner_name, method) in METHODS.items():
        owner = getattr(sys.modules.get(module_name), owner_name, None)
        if hasattr(owner, method):
            yield owner, method, step

"""Where the time of a path goes: CPU seconds inside each compiled step, the rest is Python between them.

Every step is a kernel that Python calls by a name of some module of the agent. While a `Stages` is in
force all those names lead through a clock, which costs about a microsecond a call: kernels are called once for
a block of 2048 rows, so a row's share is a nanosecond or two in all.
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
        self._inner_s = 0.0  # of steps that ended inside of the one in hand

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Watch all steps; the time in here is the total."""
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
        found[GLUE] = (self.total_s - sum(self.seconds.values())) / rows * 1e9
        return found


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

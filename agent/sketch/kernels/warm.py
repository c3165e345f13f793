"""Compile every kernel, or load it from the cache, before the first row arrives."""

from __future__ import annotations

import time
from collections.abc import Callable

from agent.sketch.kernels import (  # noqa: F401  (importing registers the kernels)
    hashing,
    merge_cells,
    missing,
    numbers,
    pages,
    strings,
)
from agent.sketch.kernels.compile import KERNELS


def warm(progress: Callable[[str, int, int], None] | None = None) -> dict[str, float]:
    """Make every registered kernel ready to run; returns its name -> seconds taken.

    progress  called as progress(name, number done, number of all) before each one

    A stage with kernels of its own registers them by importing `compile.kernel`; they are warmed too
    when its modules have been imported.
    """
    took: dict[str, float] = {}
    for done, (name, (dispatcher, signature)) in enumerate(sorted(KERNELS.items())):
        if progress is not None:
            progress(name, done, len(KERNELS))
        began = time.perf_counter()
        dispatcher.compile(signature)
        took[name] = time.perf_counter() - began
    return took

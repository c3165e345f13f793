"""Compile every kernel, or load it from the cache, before the first row arrives."""

from __future__ import annotations

import importlib
import pkgutil
import time
from collections.abc import Callable

from numba.core import sigutils

from agent.sketch import kernels
from agent.sketch.kernels.compile import KERNELS


def warm(progress: Callable[[str, int, int], None] | None = None) -> dict[str, float]:
    """Make every registered kernel ready to run; returns its name -> seconds taken.

    progress  called as progress(name, number done, number of all) before each one

    Takes all modules of this package; kernels of another stage (made by the same decorator) are warmed
    too when their modules have been imported.
    """
    for module in pkgutil.iter_modules(kernels.__path__):
        importlib.import_module(f"{kernels.__name__}.{module.name}")
    took: dict[str, float] = {}
    for done, (name, (dispatcher, signature)) in enumerate(sorted(KERNELS.items())):
        if progress is not None:
            progress(name, done, len(KERNELS))
        began = time.perf_counter()
        # The types, not the string: numba keys its cache by what it is given, and a lazy call gives types.
        dispatcher.compile(sigutils.normalize_signature(signature)[0])
        took[name] = time.perf_counter() - began
    return took

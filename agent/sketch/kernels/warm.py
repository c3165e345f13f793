"""Compile every kernel, or load it from the cache, before the first row arrives."""

from __future__ import annotations

import importlib
import pkgutil
import time
from collections.abc import Callable

from numba.core import sigutils

from agent.sketch.kernels.compile import KERNELS

#: Packages that hold kernels; each of their modules is imported.
PACKAGES = ("agent.decode.kernels", "agent.emit.kernels", "agent.sketch.kernels")


def warm(progress: Callable[[str, int, int], None] | None = None) -> dict[str, float]:
    """Make every registered kernel ready to run; returns its name -> seconds taken.

    progress  called as progress(name, number done, number of all) before each one

    """
    for package in map(importlib.import_module, PACKAGES):
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{package.__name__}.{module.name}")
    took: dict[str, float] = {}
    for done, (name, (dispatcher, signature)) in enumerate(sorted(KERNELS.items())):
        if progress is not None:
            progress(name, done, len(KERNELS))
        began = time.perf_counter()
        # The types, not the string: numba keys its cache by what it is given, and a lazy call gives types.
        dispatcher.compile(sigutils.normalize_signature(signature)[0])
        took[name] = time.perf_counter() - began
    return took

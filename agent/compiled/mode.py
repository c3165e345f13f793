"""Whether this process loads compiled kernels from files, or has numba; and numba's names for both.

The commands load files. Tests and benchmarks import kernels without saying so, and get numba's
dispatchers, with their Python functions beside the compiled ones. `INFEROMETER_KERNELS=numba` makes the
commands do the same: a way out where LLVM cannot load what it made.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from agent.errors import ConfigError

VARIABLE = "INFEROMETER_KERNELS"
_COMPILE = "agent.sketch.kernels.compile"

_from_files = False
_caches = True


def use_files() -> None:
    """Load kernels from files, in this whole process; without effect once a kernel was imported.

    Raises ConfigError when the variable has a value that is not known.
    """
    global _from_files
    asked = os.environ.get(VARIABLE, "")
    if asked not in ("", "files", "numba"):
        raise ConfigError(
            f"{VARIABLE} is {asked!r}, but must be files (the default) or numba: unset it, or correct it"
        )
    if _COMPILE not in sys.modules and asked != "numba":
        _from_files = True


def compile_afresh() -> None:
    """Keep numba from its own cache: what comes from there has no bitcode, of which files are made."""
    global _caches
    _caches = False


def from_files() -> bool:
    return _from_files


def numba_caches() -> bool:
    return _caches


class Absent:
    """Stands for a part of numba where kernels are not compiled: any attribute or call of it is absent too."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *_: Any, **__: Any) -> Any:
        return self

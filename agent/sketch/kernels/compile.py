"""The one decorator of all compiled code.

    kernel     a function that Python calls: 64-bit integers in, one or nothing out
    inlined    a piece of a kernel, merged into it
    outlined   a rare path of a kernel, kept out of it

The commands load kernels from files (`agent.compiled`): decorated functions are then handles, and pieces
stay plain functions that nobody calls. Everywhere else they are numba's dispatchers, cached by numba
in a folder that is named after all they depend on: numba itself does not notice a changed callee.
"""

from __future__ import annotations

import logging
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agent.compiled.key import cache_key
from agent.compiled.mode import from_files, numba_caches
from agent.compiled.store import CACHE_VARIABLE, base_folder, mark_used
from agent.compiled.target import tell_numba

log = logging.getLogger(__name__)

#: Every kernel that is called from Python: name -> (dispatcher or handle, its one signature).
KERNELS: dict[str, tuple[Any, str]] = {}
#: Those that run while other threads of Python do.
WITHOUT_GIL: set[str] = set()


class Handle:
    """A kernel that is loaded from a file: callable, by `warm` or at its first call."""

    __slots__ = ("call", "name", "py_func")

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self.name = name
        self.py_func = function
        self.call: Callable[..., Any] = self._first_call

    def __call__(self, *arguments: int) -> Any:
        return self.call(*arguments)

    def _first_call(self, *arguments: int) -> Any:
        from agent.sketch.kernels.warm import warm

        warm()
        return self.call(*arguments)


def _numba_folder() -> Path | None:
    """Where numba keeps its files; None, with one warning, when it cannot."""
    base = base_folder()
    folder = None if base is None else base / cache_key() / "numba"
    if folder is not None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                mark_used(folder.parent)
                return folder
        except OSError:
            pass
    log.warning(
        "kernels are compiled at every start: cannot write %s; set %s to a writable folder",
        folder or "to a home folder",
        CACHE_VARIABLE,
    )
    return None


def _piece(function: Any) -> Any:
    return function


if from_files():
    inlined: Any = _piece
    outlined: Any = _piece

    def _compiled(function: Any, name: str, *, nogil: bool) -> Any:
        return Handle(name, function)

else:
    tell_numba()
    from numba import njit
    from numba.core import config

    folder = _numba_folder() if numba_caches() else None
    if folder is not None:
        settings: Any = config
        settings.CACHE_DIR = str(folder)
    inlined = njit(nogil=True, error_model="numpy", inline="always")
    outlined = njit(nogil=True, error_model="numpy")

    def _compiled(function: Any, name: str, *, nogil: bool) -> Any:
        return njit(nogil=nogil, error_model="numpy", cache=folder is not None)(function)


def kernel(signature: str, *, nogil: bool = True) -> Any:
    """Compile a function that Python calls; `signature` is the only one it is ever used with.

    nogil  False for what the event loop calls: with the GIL given away, a kernel thread that runs Python
           may keep it for several milliseconds. Also for what takes a few microseconds: to give the GIL away
           and to wait for it again costs more

    Compiled or loaded at the first call or by `warm`. `nogil`: threads run side by side; `numpy` errors: a
    division by zero gives inf or NaN, and costs no branch. No fastmath: it deletes NaN checks.
    """

    def decorate(function: Any) -> Any:
        name = f"{function.__module__.rpartition('.')[2]}.{function.__name__}"
        if name in KERNELS:
            raise ValueError(f"two kernels are called {name}")
        compiled = _compiled(function, name, nogil=nogil)
        KERNELS[name] = (compiled, signature)
        if nogil:
            WITHOUT_GIL.add(name)
        return compiled

    return decorate


#: Held while kernels are made ready.
WARMING = threading.RLock()

"""Make every kernel ready before the first row arrives: load it from its file, or compile it."""

from __future__ import annotations

import importlib
import logging
import pkgutil
import time
from collections.abc import Callable

from agent.compiled.mode import from_files
from agent.compiled.store import CACHE_VARIABLE, Store, base_folder, mark_used
from agent.compiled.target import check_cpu
from agent.errors import InferometerError
from agent.sketch.kernels.compile import KERNELS, WARMING

log = logging.getLogger(__name__)

#: Packages that hold kernels; each of their modules is imported.
PACKAGES = ("agent.decode.kernels", "agent.emit.kernels", "agent.sketch.kernels")

#: progress(name, number done, number of all), before each kernel that is compiled.
Progress = Callable[[str, int, int], None]


def import_all() -> None:
    """Import every module of kernels, so that `KERNELS` has them all."""
    for package in map(importlib.import_module, PACKAGES):
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{package.__name__}.{module.name}")


def warm(progress: Progress | None = None) -> dict[str, float]:
    """Make every kernel ready to run; returns its name -> seconds taken. Safe to call at any time.

    Raises InferometerError when kernels cannot be compiled, or this CPU cannot run them.
    """
    check_cpu()
    import_all()
    with WARMING:
        if not from_files():
            return _compile(progress)
        codes, took, unkept = _from_files(progress)
        if unkept:
            log.warning("kernels are compiled at every start: %s", unkept)
        _link(codes)
        return took


def fill_cache(progress: Progress | None = None) -> tuple[dict[str, float], str]:
    """Keep every kernel for later starts, of another CPU too: each name -> seconds taken, and why they could
    not be kept ("" when they are). Otherwise as `warm`.
    """
    import_all()
    with WARMING:
        if not from_files():
            from agent.sketch.kernels import compile as compiling

            return _compile(progress), "" if compiling.folder else _no_folder("")
        codes, took, unkept = _from_files(progress)
        try:
            check_cpu()
        except InferometerError:
            return took, unkept
        _link(codes)
        return took, unkept


def kernel_store() -> Store:
    """Where the commands keep kernels of this code, for this CPU."""
    from agent.compiled.key import cache_key

    return Store(base_folder(), cache_key())


def _from_files(
    progress: Progress | None,
) -> tuple[dict[str, bytes], dict[str, float], str]:
    """Object code, seconds taken, why some was not kept. What has no file is compiled in children first."""
    store = kernel_store()
    codes: dict[str, bytes] = {}
    took = dict.fromkeys(sorted(KERNELS), 0.0)
    for name in took:
        code = store.read(name, KERNELS[name][1])
        if code is not None:
            codes[name] = code
    if store.folder is not None:
        mark_used(store.folder)
    missing = [name for name in took if name not in codes]
    if not missing:
        return codes, took, ""
    from agent.compiled.build import build

    kept = True
    began = (lambda name: progress(name, len(codes), len(took))) if progress else _ignore
    for built in build(missing, began):
        codes[built.name], took[built.name] = built.code, built.seconds
        kept = store.write(built.name, KERNELS[built.name][1], built.code) and kept
    store.tidy()
    return codes, took, "" if kept else _no_folder(store.failure)


def _no_folder(why: str) -> str:
    return f"{why or 'no folder can be written'}; set {CACHE_VARIABLE} to a writable folder"


def _link(codes: dict[str, bytes]) -> None:
    from agent.compiled.load import load

    for name, call in load(codes).items():
        KERNELS[name][0].call = call


def _compile(progress: Progress | None) -> dict[str, float]:
    """By numba, or from its own cache."""
    from numba.core import sigutils

    took: dict[str, float] = {}
    for done, (name, (dispatcher, signature)) in enumerate(sorted(KERNELS.items())):
        if progress is not None:
            progress(name, done, len(KERNELS))
        began = time.perf_counter()
        # The types, not the string: numba keys its cache by what it is given, and a lazy call gives types.
        dispatcher.compile(sigutils.normalize_signature(signature)[0])
        took[name] = time.perf_counter() - began
    return took


def _ignore(name: str) -> None:
    pass

"""The CPU that kernels are made for: what numba is told of it, and whether this one can run the result.

numba takes two variables, and for each that is missing something of the machine that it runs on:

    NUMBA_CPU_NAME      features follow from the name, and are not the building machine's
    NUMBA_CPU_FEATURES  on top of the name, or of this CPU when there is no name
    neither             this CPU, with the features that it has
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from llvmlite import binding

from agent.errors import InferometerError

NAME, FEATURES = "NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES"
#: What else of numba's variables changes the code that it makes.
CODE_VARIABLES = (
    "NUMBA_BOUNDSCHECK",
    "NUMBA_DEBUGINFO",
    "NUMBA_DISABLE_INTEL_SVML",
    "NUMBA_ENABLE_AVX",
    "NUMBA_LLVM_REFPRUNE_FLAGS",
    "NUMBA_LLVM_REFPRUNE_PASS",
    "NUMBA_LOOP_VECTORIZE",
    "NUMBA_OPT",
    "NUMBA_SLP_VECTORIZE",
)
#: LLVM's names for what the levels of the x86-64 psABI add to the one before.
_LEVELS = {
    "x86-64": "cx8 fxsr mmx sse sse2",
    "x86-64-v2": "cx16 popcnt sahf sse3 sse4.1 sse4.2 ssse3",
    "x86-64-v3": "avx avx2 bmi bmi2 f16c fma lzcnt movbe xsave",
    "x86-64-v4": "avx512bw avx512cd avx512dq avx512f avx512vl",
}


def asked() -> tuple[str | None, str | None]:
    """Name and features that were asked for, as numba must be told them. (None, None): this CPU."""
    name = os.environ.get(NAME) or None
    features = os.environ.get(FEATURES) or None
    return (name, features) if name is None else (name, features or "")


def target() -> tuple[str, str]:
    """Name and features that code is made for."""
    name, features = asked()
    if name is None and features is None:
        features = binding.get_host_cpu_features().flatten()
    return name or binding.get_host_cpu_name(), features or ""


def environment() -> dict[str, str]:
    """For a process that compiles: of numba's variables, those that the key of its work holds, and no other."""
    kept = {
        k: v for k, v in os.environ.items() if not k.startswith("NUMBA_") or k in CODE_VARIABLES
    }
    told = zip((NAME, FEATURES), asked(), strict=True)
    return kept | {variable: value for variable, value in told if value is not None}


def tell_numba() -> None:
    """Before numba is used in this process: it sees the two variables as `asked` does."""
    told = dict(zip((NAME, FEATURES), asked(), strict=True))
    if told == {variable: os.environ.get(variable) for variable in told}:
        return
    for variable, value in told.items():
        if value is None:
            os.environ.pop(variable, None)
        else:
            os.environ[variable] = value
    if "numba" in sys.modules:
        from numba.core import config

        settings: object = config
        settings.reload_config()  # type: ignore[attr-defined]


def lacking(name: str | None, features: str | None, host: Mapping[str, bool]) -> list[str]:
    """Features of this target that the host has not. Of a name that is no level, LLVM tells none."""
    needed: set[str] = set()
    if name in _LEVELS:
        levels = list(_LEVELS)
        for level in levels[: levels.index(name) + 1]:
            needed.update(_LEVELS[level].split())
    for item in (features or "").split(","):
        if item.startswith("+") and item[1:] in host:  # tuning flags are no features of a CPU
            needed.add(item[1:])
        elif item.startswith("-"):
            needed.discard(item[1:])
    return sorted(feature for feature in needed if not host.get(feature, False))


def check_cpu() -> None:
    """Before code of a fixed target runs. Raises InferometerError when this CPU lacks some of it."""
    name, features = asked()
    if name is None and features is None:
        return
    try:
        host = binding.get_host_cpu_features()
    except RuntimeError:  # LLVM cannot tell
        return
    missing = lacking(name, features, host)
    if missing:
        raise InferometerError(
            f"this CPU lacks {', '.join(missing)}, which kernels for {name or features} need; build the image "
            f"for an older one (--build-arg CPU_NAME=x86-64-v2), or set {NAME} and {FEATURES} to what this has"
        )

"""What compiled kernels depend on, as one short name."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path

#: Whose code takes part in compiling, or is compiled against.
_PACKAGES = ("numba", "llvmlite", "numpy")
_AGENT = Path(__file__).resolve().parents[1]


def sources() -> list[Path]:
    """Every kernel source, and what makes files of them: a changed callee changes its callers."""
    return sorted([*_AGENT.glob("*/kernels/*.py"), *_AGENT.glob("compiled/*.py")])


def target() -> tuple[str, str]:
    """Name and features of the CPU that code is made for, as numba takes them from its two variables."""
    from llvmlite import binding

    name = os.environ.get("NUMBA_CPU_NAME") or ""
    features = os.environ.get("NUMBA_CPU_FEATURES") or ""
    if not name:
        features = features or binding.get_host_cpu_features().flatten()
    return name or binding.get_host_cpu_name(), features


def cache_key() -> str:
    """20 hex digits; they change with any source, the versions of Python and of packages, and the CPU target."""
    digest = hashlib.sha256()
    for path in sources():
        digest.update(path.relative_to(_AGENT).as_posix().encode())
        digest.update(path.read_bytes())
    parts = [platform.python_version(), sys.abiflags, platform.machine(), sys.platform, *target()]
    for part in (*map(version, _PACKAGES), *parts):
        digest.update(f"|{part}".encode())
    return digest.hexdigest()[:20]

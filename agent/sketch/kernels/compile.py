"""The one decorator of all compiled code, and where its compiled form is kept between runs.

Compiling takes seconds, so it is cached on disk. numba names a cache file after the function's own
file and does not notice that a function *called* from it has changed, so the folder is keyed by a
hash of all kernel sources, the versions of Python and numba, and the CPU that code is made for.

The folder is `$INFEROMETER_KERNEL_CACHE/<key>`, by default in the user's cache folder. When it exists
but cannot be written (a read-only container with a cache baked in), it is copied to a temporary
folder: numba insists on a writable one even for reading. When nothing can be written, kernels are
compiled in memory at every start, with one warning.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numba
from numba import njit
from numba.core import config as numba_config

CACHE_VARIABLE = "INFEROMETER_KERNEL_CACHE"
config: Any = numba_config
log = logging.getLogger(__name__)

_AGENT = Path(__file__).resolve().parents[2]


def cache_key() -> str:
    """Name of the cache folder: changes when any kernel source, numba, Python or the CPU target does."""
    import llvmlite
    from llvmlite import binding

    digest = hashlib.sha256()
    for path in sorted(_AGENT.glob("*/kernels/*.py")):
        digest.update(path.relative_to(_AGENT).as_posix().encode())
        digest.update(path.read_bytes())
    name = config.CPU_NAME or binding.get_host_cpu_name()
    features = config.CPU_FEATURES
    if features is None:
        features = binding.get_host_cpu_features().flatten() if config.CPU_NAME is None else ""
    for part in (
        numba.__version__,
        llvmlite.__version__,
        platform.python_version(),
        name,
        features,
    ):
        digest.update(f"|{part}".encode())
    return digest.hexdigest()[:20]


def _default_base() -> Path:
    root = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(root) if root else Path("~/.cache").expanduser()) / "inferometer"


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def choose_cache() -> tuple[Path | None, str]:
    """The folder to use and why: "kept", "copied" (from a read-only one) or "none"."""
    try:
        base = Path(os.environ.get(CACHE_VARIABLE, "") or _default_base())
        folder = base / cache_key()
    except (OSError, RuntimeError) as error:  # no home folder
        log.warning("kernels are compiled at every start: %s; set %s", error, CACHE_VARIABLE)
        return None, "none"
    if _writable(folder):
        return folder, "kept"
    if folder.is_dir():
        try:
            copy = Path(tempfile.mkdtemp(prefix="inferometer-kernels-")) / folder.name
            shutil.copytree(folder, copy)
            return copy, "copied"
        except OSError:
            pass
    log.warning(
        "kernels are compiled at every start: cannot write %s; set %s to a writable folder",
        folder,
        CACHE_VARIABLE,
    )
    return None, "none"


CACHE_FOLDER, CACHE_MODE = choose_cache()
if CACHE_FOLDER is not None:
    config.CACHE_DIR = str(CACHE_FOLDER)

#: Every kernel that is called from Python: name -> (dispatcher, its one signature).
KERNELS: dict[str, tuple[Any, str]] = {}


def kernel(signature, *, nogil=True):
    """Compile a function that Python calls; `signature` is the only one it is ever used with.

    nogil  False for what the event loop calls: with the GIL given away, a kernel thread that runs Python
           may keep it for several milliseconds

    Compiled at the first call or by `warm`. `nogil`: threads run side by side; `numpy` errors: a
    division by zero gives inf or NaN, and costs no branch. No fastmath: it deletes NaN checks.
    """

    def decorate(function):
        compiled = njit(nogil=nogil, error_model="numpy", cache=CACHE_FOLDER is not None)(function)
        name = f"{function.__module__.rpartition('.')[2]}.{function.__name__}"
        if name in KERNELS:
            raise ValueError(f"two kernels are called {name}")
        KERNELS[name] = (compiled, signature)
        return compiled

    return decorate


#: A piece of a kernel, merged into it (by numba, so that constants fold).
inlined = njit(nogil=True, error_model="numpy", inline="always")
#: A rare path of a kernel, kept out of it.
outlined = njit(nogil=True, error_model="numpy")

"""What compiled kernels depend on, as one short name."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from agent.compiled.target import CODE_VARIABLES, target
from agent.errors import InferometerError

#: Whose code takes part in compiling, or is compiled against.
_PACKAGES = ("numba", "llvmlite", "numpy")
_AGENT = Path(__file__).resolve().parents[1]
#: Lines, not a syntax tree: the tree of all these files takes 60 ms at every start. Tests compare both.
_IMPORT = re.compile(
    r"^[ \t]*(?:from[ \t]+(agent[\w.]*)[ \t]+import[ \t]+(\([^)]*\)|[^\n#]*)|import[ \t]+(agent[\w.]*))",
    re.MULTILINE,
)
_FOR_TYPES_ALONE = re.compile(r"^if TYPE_CHECKING:\n(?:[ \t]+[^\n]*\n|\n)+", re.MULTILINE)


def sources() -> list[Path]:
    """Every kernel source, what makes files of them, and all modules of the agent that these import.

    A changed callee changes its callers, and a constant is part of the code that was compiled with it.
    """
    found: set[Path] = set()
    modules: set[str] = set()
    kernels = list(_AGENT.glob("*/kernels/*.py"))
    waiting = [*kernels, *{path.parents[1] / "__init__.py" for path in kernels}]
    waiting += _AGENT.glob("compiled/*.py")
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            more = _imported(path.read_text()) - modules
            modules |= more
            waiting += [file for name in more for file in _files_of(name)]
    return sorted(found)


def _imported(text: str) -> set[str]:
    """The agent's modules that a source imports; of a package, what is imported from it may be one too."""
    modules: set[str] = set()
    for package, names, module in _IMPORT.findall(_FOR_TYPES_ALONE.sub("", text)):
        modules.add(package or module)
        if package and package.count(".") < 3:  # no package is deeper
            modules.update(f"{package}.{name}" for name in re.findall(r"\w+", names))
    return modules


def _files_of(module: str) -> list[Path]:
    """Of the module, if there is one, and of the packages that it is in."""
    parts = module.split(".")[1:]
    found = [_AGENT.joinpath(*parts[:n], "__init__.py") for n in range(len(parts) + 1)]
    if parts:
        found.append(_AGENT.joinpath(*parts).with_suffix(".py"))
    return [path for path in found if path.is_file()]


def cache_key() -> str:
    """20 hex digits; they change with any source, the versions of Python and of packages, and the CPU target.

    Raises InferometerError when one of the packages is not installed.
    """
    digest = hashlib.sha256()
    for path in sources():
        digest.update(path.relative_to(_AGENT).as_posix().encode())
        digest.update(path.read_bytes())
    parts = [platform.python_version(), sys.abiflags, platform.machine(), sys.platform, *target()]
    parts += [f"{name}={os.environ[name]}" for name in CODE_VARIABLES if name in os.environ]
    for part in (*map(_version, _PACKAGES), *parts):
        digest.update(f"|{part}".encode())
    return digest.hexdigest()[:20]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        raise InferometerError(
            f"the package {package} is not installed; kernels are kept by its version, even where nothing is "
            "left to compile. Install inferometer with all it depends on"
        ) from None

"""What the demo prepares once: arrays of numbers and text, kept in the user's cache folder.

A key is made of everything the result depends on (package versions, source code), so a stale
entry is never read. Where the folder cannot be written, the demo works without a cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def directory() -> Path:
    """The folder; it may not exist yet. XDG_CACHE_HOME applies (XDG base directory specification)."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "inferometer" / "demo"


def source_digest(*paths: str) -> str:
    """Digest of source files, so that changed code makes a new key."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(Path(path).read_bytes())
    return digest.hexdigest()


def arrays(
    name: str, depends_on: Iterable[str], build: Callable[[], dict[str, NDArray[Any]]]
) -> dict[str, NDArray[Any]]:
    """Named arrays from the cache, or from `build`, which is then cached. Nothing is unpickled."""
    path = _path(name, depends_on, "npz")
    with (
        contextlib.suppress(OSError, ValueError, EOFError, KeyError),
        np.load(path, allow_pickle=False) as archive,
    ):
        return {key: archive[key] for key in archive.files}
    result = build()
    _write(path, result)
    return result


def _path(name: str, depends_on: Iterable[str], suffix: str) -> Path:
    key = hashlib.sha256("\0".join(depends_on).encode()).hexdigest()[:16]
    return directory() / f"{name}-{key}.{suffix}"


def _write(path: Path, result: dict[str, NDArray[Any]]) -> None:
    """Write beside and rename, so that a reader never sees half a file; drop older keys."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            np.savez(file, **result)  # type: ignore[arg-type]
        Path(file.name).replace(path)
        for old in path.parent.glob(f"{path.stem.rpartition('-')[0]}-*{path.suffix}"):
            if old != path:
                old.unlink()

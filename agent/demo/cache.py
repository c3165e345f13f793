"""What the demo prepares once: arrays of numbers and text, kept in the user's cache folder.

A key is made of everything the result depends on (package versions, source code), so a stale
entry is never read. Where the folder cannot be written, the demo works without a cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def directory() -> Path:
    """The folder; it may not exist yet. XDG_CACHE_HOME applies (XDG base directory specification).

    Raises OSError for a user without a home.
    """
    root = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(root) if root else Path.home() / ".cache") / "inferometer" / "demo"
    except RuntimeError as error:
        raise FileNotFoundError(str(error)) from None


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
    key = hashlib.sha256("\0".join(depends_on).encode()).hexdigest()[:16]
    with contextlib.suppress(OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
        path = directory() / f"{name}-{key}.npz"
        with np.load(path, allow_pickle=False) as archive:
            return {each: archive[each] for each in archive.files}
    result = build()
    with contextlib.suppress(OSError):
        _write(directory() / f"{name}-{key}.npz", result)
    return result


def _write(path: Path, result: dict[str, NDArray[Any]]) -> None:
    """Write beside and rename, so that a reader never sees half a file; drop older keys."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        try:
            np.savez(file, **result)  # type: ignore[arg-type]
        except OSError:
            Path(file.name).unlink()
            raise
    Path(file.name).replace(path)
    for old in path.parent.glob(f"{path.stem.rpartition('-')[0]}-*{path.suffix}"):
        if old != path:
            old.unlink(missing_ok=True)

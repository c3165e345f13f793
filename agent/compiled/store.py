"""The folder of compiled kernels: `$INFEROMETER_KERNEL_CACHE/<key>/<kernel>.o`, read-only is enough to read.

Invariants
 1. A file is there whole or not at all: it is renamed into place.
 2. A file counts only when its first line names this very kernel, signature and key, and the digest of
    the rest is the one it gives. Anything else is as if it were not there, so it is compiled again.

The digest finds damage, not malice: who can write the folder can run code, as with any program's folder.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

CACHE_VARIABLE = "INFEROMETER_KERNEL_CACHE"
_FORMAT = "inferometer kernel 1"


def base_folder() -> Path | None:
    """Where kernels are kept by default, or by the variable; None when there is no home folder."""
    given = os.environ.get(CACHE_VARIABLE, "")
    if given:
        return Path(given)
    root = os.environ.get("XDG_CACHE_HOME", "")
    try:
        return (Path(root) if root else Path("~/.cache").expanduser()) / "inferometer"
    except RuntimeError:
        return None


class Store:
    """Kernels of one key in one folder; without a folder it keeps nothing."""

    def __init__(self, base: Path | None, key: str) -> None:
        self.folder = None if base is None else base / key
        self._key = key

    def read(self, name: str, signature: str) -> bytes | None:
        """The kernel's object code; None when there is none that is whole and meant."""
        if self.folder is None:
            return None
        try:
            head, _, code = (self.folder / f"{name}.o").read_bytes().partition(b"\n")
        except OSError:
            return None
        return code if head == self._head(name, signature, code) else None

    def write(self, name: str, signature: str, code: bytes) -> bool:
        """Keep it; False when it cannot be kept."""
        if self.folder is None:
            return False
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.folder, delete=False) as file:
                new = Path(file.name)
                try:
                    file.write(self._head(name, signature, code) + b"\n" + code)
                    file.flush()
                    new.chmod(0o644)  # an image is built by one user and run by another
                    new.replace(self.folder / f"{name}.o")
                except OSError:
                    new.unlink(missing_ok=True)
                    raise
        except OSError:
            return False
        return True

    def _head(self, name: str, signature: str, code: bytes) -> bytes:
        digest = hashlib.sha256(code).hexdigest()
        return f"{_FORMAT} {self._key} {name} {signature} {digest}".encode()

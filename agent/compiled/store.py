"""The folder of compiled kernels: `$INFEROMETER_KERNEL_CACHE/<key>/<kernel>.o`, read-only is enough to read.

Invariants
 1. A file is there whole or not at all: it is renamed into place.
 2. A file counts only when its first line names this very kernel, signature and key, and the digest of
    the rest is the one it gives. Anything else is as if it were not there, so it is compiled again.

 3. What another user could have written is not read: folders and files must belong to this user or to
    root, and nobody else may write them. Then too a kernel is compiled again, at every start.

The digest finds damage, not malice: who can write the folder can run code, as with any program's folder.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import tempfile
from pathlib import Path

log = logging.getLogger(__name__)

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
        self._refused = False

    def read(self, name: str, signature: str) -> bytes | None:
        """The kernel's object code; None when there is none that is whole and meant."""
        if self.folder is None:
            return None
        try:
            fd = os.open(self.folder / f"{name}.o", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            with os.fdopen(fd, "rb") as file:
                if not self._is_ours(os.fstat(fd)):
                    return None
                head, _, code = file.read().partition(b"\n")
        except OSError:
            return None
        return code if head == self._head(name, signature, code) else None

    def write(self, name: str, signature: str, code: bytes) -> bool:
        """Keep it; False when it cannot be kept."""
        if self.folder is None:
            return False
        try:
            self.folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.folder.mkdir(mode=0o700, exist_ok=True)
            if not self._is_ours(None):
                return False
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

    def _is_ours(self, file: os.stat_result | None) -> bool:
        """Whether nobody but this user and root can have written the file, or put it there."""
        assert self.folder is not None
        found = {str(path): path.stat() for path in (self.folder.parent, self.folder)}
        if file is not None:
            found["a kernel in it"] = file
        for what, at in found.items():
            if at.st_uid not in (os.geteuid(), 0) or at.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                if not self._refused:
                    self._refused = True
                    log.warning(
                        "kernels in %s are not used: %s belongs to user %d with mode %o; it must belong "
                        "to this user or root, and nobody else may write it (chown, chmod go-w)",
                        self.folder, what, at.st_uid, stat.S_IMODE(at.st_mode),
                    )  # fmt: skip
                return False
        return True

    def _head(self, name: str, signature: str, code: bytes) -> bytes:
        digest = hashlib.sha256(code).hexdigest()
        return f"{_FORMAT} {self._key} {name} {signature} {digest}".encode()

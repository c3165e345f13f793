"""The folder of compiled kernels: `$INFEROMETER_KERNEL_CACHE/<key>/<kernel>.o`, read-only is enough to read.

Invariants
 1. A file is there whole or not at all: it is renamed into place.
 2. A file counts only when its first line names this very kernel, signature and key, and the digest of
    the rest is the one it gives. Anything else is as if it were not there, so it is compiled again.

 3. What another user could have written is not read: folders and files must belong to this user or to
    root, and nobody else may write them. Then too a kernel is compiled again, at every start.

Every upgrade and every CPU has a key of its own: `tidy` removes those that nobody has used for long, and what
writers that were killed have left.

The digest finds damage, not malice: who can write the folder can run code, as with any program's folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import shutil
import stat
import tempfile
import time
from pathlib import Path

log = logging.getLogger(__name__)

CACHE_VARIABLE = "INFEROMETER_KERNEL_CACHE"
_FORMAT = "inferometer kernel 1"
_KEY = re.compile("[0-9a-f]{20}")
#: Keys that stay however old they are, and the days since its last use that any key stays.
_KEEP_KEYS = 4
_KEEP_DAYS = 7
_DAY_S = 86_400.0
#: A writer takes milliseconds for a file.
_WRITERS_S = 3600.0


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


def mark_used(folder: Path) -> None:
    """So that `tidy` leaves the folder of this key, told once a day; without effect where it cannot be written."""
    with contextlib.suppress(OSError):
        if time.time() - folder.stat().st_mtime > _DAY_S:
            os.utime(folder)


class Store:
    """Kernels of one key in one folder; without a folder it keeps nothing."""

    def __init__(self, base: Path | None, key: str) -> None:
        self.folder = None if base is None else base / key
        self._key = key
        self._refused = False
        #: Why something could not be kept.
        self.failure = "there is no home folder" if base is None else ""

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
                self.failure = f"others may write {self.folder}"
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
        except OSError as error:
            self.failure = f"cannot write {self.folder} ({error.strerror or error})"
            return False
        return True

    def tidy(self) -> None:
        """Remove keys of this user that were not used for long, and files of writers that were killed."""
        if self.folder is None:
            return
        now = time.time()
        with contextlib.suppress(OSError):
            if not self._is_ours(None):
                return
            for path in self.folder.glob("tmp*"):
                at = path.lstat()
                if at.st_uid == os.geteuid() and now - at.st_mtime > _WRITERS_S:
                    path.unlink(missing_ok=True)
            found = [path for path in self.folder.parent.iterdir() if _KEY.fullmatch(path.name)]
            used = {path: path.lstat().st_mtime for path in found if path != self.folder}
            newest_first = sorted(used, key=lambda path: used[path], reverse=True)
            for path in newest_first[_KEEP_KEYS - 1 :]:
                if now - used[path] > _KEEP_DAYS * _DAY_S and _is_all_mine(path):
                    shutil.rmtree(path, ignore_errors=True)

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


def _is_all_mine(folder: Path) -> bool:
    """Whether this is a folder, and it and all in it belong to this user."""
    paths = [folder, *folder.rglob("*")]
    return folder.is_dir() and all(path.lstat().st_uid == os.geteuid() for path in paths)

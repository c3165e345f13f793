"""One process to a directory of state: `flock` on a file in it, which ends with the process."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from agent.errors import StateError
from agent.state.files import FILE_MODE

NAME = "lock"


class DirectoryLock:
    """Held from construction to `release`. Raises StateError with the holder's pid.

    `option`: the one that names the directory, for messages.
    """

    def __init__(self, directory: Path, option: str = "delivery.volume_path") -> None:
        path = directory / NAME
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        except OSError as error:
            raise StateError(
                f"{path} cannot be opened ({error.strerror}); {option} must be a directory that this "
                "process may write to"
            ) from None
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._fd)
            raise StateError(
                f"{directory} is in use by process {holder}; stop it, or give this one another "
                f"{option}"
            ) from None
        try:
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, b"%d\n" % os.getpid(), 0)
        except OSError:
            pass  # a full disk: the lock is held all the same, it only does not say by whom

    def release(self) -> None:
        """Let another process in. May be called twice."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

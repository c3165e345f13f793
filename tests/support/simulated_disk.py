"""A disk in memory that crashes: only what was synced survives, and some of the rest, as it likes.

Rules, as of a journalling file system: bytes that were synced stay. Of later bytes of a file any may
be there, or zeros in their place, up to any length. Names made, renamed and removed since the last
sync of the directory survive up to some operation of them, in order.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Callable
from pathlib import Path

from agent.state.files import Files


class Crash(BaseException):
    """The machine stopped here."""


class _File:
    def __init__(self) -> None:
        self.synced = b""
        self.data = bytearray()

    def after_crash(self, rnd: random.Random) -> bytes:
        if len(self.data) <= len(self.synced):
            return bytes(self.data)
        loose = bytearray(
            self.data[len(self.synced) : rnd.randint(len(self.synced), len(self.data))]
        )
        if loose and rnd.random() < 0.5:  # pages reach the disk in any order
            first = rnd.randrange(len(loose))
            last = rnd.randint(first, len(loose))
            loose[first:last] = bytes(last - first)
        return bytes(self.synced) + bytes(loose)


class SimulatedDisk(Files):
    """One directory. `before` is called ahead of every operation with its name; it may raise.

    Raise `Crash` from it, then call `crash`; or raise OSError, as a disk that is full would.
    """

    def __init__(self) -> None:
        self.before: Callable[[str], None] = lambda operation: None
        self._names: dict[str, _File] = {}
        self._on_disk: dict[str, _File] = {}
        self._changes: list[Callable[[dict[str, _File]], None]] = []
        self._open: dict[int, _File] = {}
        self._next_fd = 1000
        self.n_syncs = 0

    # -- as Files

    def make_directory(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)  # the lock is a real file

    def names(self, path: Path) -> list[str]:
        self.before("names")
        return sorted(self._names)

    def create(self, path: Path) -> int:
        self.before("create")
        file = _File()
        self._change(lambda names: names.__setitem__(path.name, file))
        return self._descriptor(file)

    def reopen(self, path: Path) -> int:
        self.before("reopen")
        return self._descriptor(self._names[path.name])

    def write(self, fd: int, data: bytes) -> None:
        file = self._open[fd]
        half = len(data) // 2
        file.data += data[:half]
        self.before("write")
        file.data += data[half:]

    def sync(self, fd: int) -> None:
        self.before("sync")
        file = self._open[fd]
        file.synced = bytes(file.data)
        self.n_syncs += 1

    def close(self, fd: int) -> None:
        del self._open[fd]

    def read(self, path: Path) -> bytes:
        if path.name not in self._names:
            raise FileNotFoundError(errno.ENOENT, "No such file", str(path))
        return bytes(self._names[path.name].data)

    def rename(self, path: Path, to: Path) -> None:
        self.before("rename")
        file = self._names[path.name]

        def rename(names: dict[str, _File]) -> None:
            names.pop(path.name, None)
            names[to.name] = file

        self._change(rename)

    def unlink(self, path: Path) -> None:
        self.before("unlink")
        self._change(lambda names: names.pop(path.name, None))

    def sync_directory(self, path: Path) -> None:
        self.before("sync_directory")
        self._on_disk = dict(self._names)
        self._changes.clear()

    # -- for tests

    def crash(self, rnd: random.Random) -> None:
        """Forget what was not synced, or some of it."""
        for change in self._changes[: rnd.randint(0, len(self._changes))]:
            change(self._on_disk)
        for file in {id(f): f for f in self._on_disk.values()}.values():
            file.data = bytearray(file.after_crash(rnd))
            file.synced = bytes(file.data)
        self._names = dict(self._on_disk)
        self._changes.clear()
        self._open.clear()
        self.before = lambda operation: None

    def put(self, name: str, data: bytes) -> None:
        """A file with these bytes, as damage or another program would leave it."""
        file = _File()
        file.data = bytearray(data)
        file.synced = bytes(data)
        self._names[name] = file
        self._on_disk[name] = file

    def remove(self, name: str) -> None:
        self._names.pop(name, None)
        self._on_disk.pop(name, None)

    def _change(self, change: Callable[[dict[str, _File]], object]) -> None:
        change(self._names)
        self._changes.append(change)  # type: ignore[arg-type]

    def _descriptor(self, file: _File) -> int:
        self._next_fd += 1
        self._open[self._next_fd] = file
        return self._next_fd

"""The file calls of journal and snapshots, in one place: tests replace them to break them.

Invariant: what is here says nothing about order or meaning; callers decide what is synced when.
Every call raises OSError as the system does.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

#: Only the agent's user may read state: it holds names and values of features.
FILE_MODE = 0o600
DIRECTORY_MODE = 0o700

#: Ends the name of a file that is not whole yet.
TEMPORARY = ".tmp"

#: Written in pieces: each `write` gives up the GIL, none holds it for long before.
PIECE_BYTES = 1 << 20


class Files:
    """Calls to the real file system."""

    def make_directory(self, path: Path) -> None:
        """Make `path` and its parents; one that exists stays as it is."""
        path.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)

    def names(self, path: Path) -> list[str]:
        """Names in a directory, sorted."""
        return sorted(entry.name for entry in path.iterdir())

    def create(self, path: Path) -> int:
        """An empty file, open for writing; what was there is gone."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0)
        return os.open(path, flags, FILE_MODE)

    def reopen(self, path: Path) -> int:
        """A file, open for writing behind its end."""
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)

    def write(self, fd: int, data: bytes) -> None:
        """All of `data`, behind what was written before."""
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view[:PIECE_BYTES]) :]

    def sync(self, fd: int) -> None:
        """What was written is on the disk when this returns."""
        os.fsync(fd)

    def close(self, fd: int) -> None:
        os.close(fd)

    def read(self, path: Path) -> bytes:
        return path.read_bytes()

    def rename(self, path: Path, to: Path) -> None:
        """Atomically; what was at `to` is gone."""
        path.replace(to)

    def unlink(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def sync_directory(self, path: Path) -> None:
        """Names made, replaced and removed in it are on the disk when this returns."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def write_whole(files: Files, path: Path, parts: list[bytes]) -> None:
    """A new file, or a new version of one: after a crash it is there whole, or not at all.

    A file beside it is written, synced, renamed, and the directory synced. Raises OSError; what was
    at `path` then stands, unless only the last sync failed.
    """
    beside = path.with_name(path.name + TEMPORARY)
    fd = files.create(beside)
    try:
        try:
            for part in parts:
                files.write(fd, part)
            files.sync(fd)
        finally:
            files.close(fd)
        files.rename(beside, path)
    except OSError:
        with contextlib.suppress(OSError):  # a full disk gets its bytes back
            files.unlink(beside)
        raise
    files.sync_directory(path.parent)

"""`inferometer` with seams: a clock that jumps, a disk that fails, power that goes, a kill at any arrow.

    python -m tests.chaos.seams FOLDER run -c inferometer.yaml

Wrapped around the program from outside; it knows nothing of them. Both processes share a file of four
integers (`Controls`). A power cut is a SIGKILL after which the parent takes from every file of the volume
some of what was never synced (`cut_power`). The order of names is not simulated here: unit tests of the
volume do that on a disk in memory.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import random
import signal
import struct
import sys
import time
import types
from importlib import import_module
from pathlib import Path

from tests.support import killed_at

_START = ["settled", "placed"]
#: Arrows of the commit by what a process does, by the names of `killed_at`: those that it passes again and
#: again, and those that it passes when it begins.
ARROWS: dict[str, tuple[list[str], list[str]]] = {
    "volume": ([p for p in killed_at.POINTS if p not in _START], _START),
    "memory": (["export-answered", "commit-sent", "commit-answered"], []),
    "fleet": (killed_at.FLEET_POINTS, killed_at.FLEET_START_POINTS),
    "aggregate": (killed_at.SHARD_POINTS, killed_at.SHARD_START_POINTS),
}

_N_FIELDS = 4
_CLOCK, _ERRNO, _POINT, _PASSES = range(_N_FIELDS)


class Controls:
    """The shared file; every process that has it open sees a change at once."""

    def __init__(self, folder: Path) -> None:
        path = folder / "controls"
        if not path.exists():
            path.write_bytes(bytes(8 * _N_FIELDS))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 8 * _N_FIELDS)

    def _get(self, field: int) -> int:
        return int(struct.unpack_from("<q", self._map, 8 * field)[0])

    def _set(self, field: int, value: int) -> None:
        struct.pack_into("<q", self._map, 8 * field, value)

    @property
    def clock_ns(self) -> int:
        """Added to the clock of the agent."""
        return self._get(_CLOCK)

    def jump(self, by_s: float) -> None:
        self._set(_CLOCK, self.clock_ns + int(by_s * 1e9))

    @property
    def errno(self) -> int:
        """With which the volume's files fail; 0: they do not."""
        return self._get(_ERRNO)

    def fail_disk(self, errno: int) -> None:
        self._set(_ERRNO, errno)

    def arm(self, point: str, passes: int) -> None:
        """Die at the `passes`-th time past this point, counted from now."""
        self._set(_PASSES, passes)
        self._set(_POINT, killed_at.ALL_POINTS.index(point) + 1)

    def disarm(self) -> None:
        self._set(_POINT, 0)

    def passed(self, point: str) -> None:
        if self._get(_POINT) != killed_at.ALL_POINTS.index(point) + 1:
            return
        self._set(_PASSES, self._get(_PASSES) - 1)
        if self._get(_PASSES) <= 0:
            self.disarm()
            os.kill(os.getpid(), signal.SIGKILL)


def cut_power(volume: Path, folder: Path, rnd: random.Random) -> int:
    """Take some of what was not synced from the end of every file; returns the bytes taken."""
    synced: dict[int, int] = {}
    with contextlib.suppress(FileNotFoundError):
        for line in (folder / "synced").read_text().splitlines():
            inode, size_bytes = line.split()
            synced[int(inode)] = int(size_bytes)
    taken = 0
    for path in sorted(volume.rglob("*")) if volume.exists() else []:
        at = path.stat()
        kept = synced.get(at.st_ino)
        if kept is not None and at.st_size > kept:
            left = rnd.randint(kept, at.st_size)
            os.truncate(path, left)
            taken += at.st_size - left
    return taken


def _install_clock(controls: Controls) -> None:
    real_s, real_ns = time.time, time.time_ns
    # gRPC tells its core, which sees the clock of the machine, when a request is over.
    unmoved = types.ModuleType("time")
    vars(unmoved).update(vars(time))
    for name in ("grpc._channel", "grpc._common"):
        import_module(name).time = unmoved  # type: ignore[attr-defined]
    time.time = lambda: real_s() + controls.clock_ns / 1e9
    time.time_ns = lambda: real_ns() + controls.clock_ns


def _install_disk(controls: Controls, folder: Path) -> None:
    """Files that fail when told, and note how much of each is on the disk."""
    from agent.state.files import Files

    notes = os.open(folder / "synced", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(fd: int, size_bytes: int | None = None) -> None:
        at = os.fstat(fd)
        known = at.st_size if size_bytes is None else size_bytes
        os.write(notes, f"{at.st_ino} {known}\n".encode())

    def check() -> None:
        if number := controls.errno:
            raise OSError(number, os.strerror(number))

    class Seamed(Files):
        create_, reopen_, write_ = Files.create, Files.reopen, Files.write
        sync_, rename_, unlink_ = Files.sync, Files.rename, Files.unlink

        def create(self, path: Path) -> int:
            check()
            fd = self.create_(path)
            note(fd, 0)
            return fd

        def reopen(self, path: Path) -> int:
            check()
            fd = self.reopen_(path)
            note(fd)
            return fd

        def write(self, fd: int, data: bytes) -> None:
            if controls.errno:  # some of it still found room
                self.write_(fd, data[: len(data) // 2])
            check()
            self.write_(fd, data)

        def sync(self, fd: int) -> None:
            check()
            self.sync_(fd)
            note(fd)

        def rename(self, path: Path, to: Path) -> None:
            check()
            self.rename_(path, to)

        def unlink(self, path: Path) -> None:
            check()
            self.unlink_(path)

    for name in ("create", "reopen", "write", "sync", "rename", "unlink"):
        setattr(Files, name + "_", getattr(Files, name))
        setattr(Files, name, getattr(Seamed, name))


def _hasten() -> None:
    """New partitions are seen, and a broker is found again, in the time of a round."""
    from agent.ingest import kafka

    for name, value in (("metadata_max_age_s", 2.0), ("reconnect_max_s", 1.0)):
        object.__setattr__(kafka._PACE, name, value)


def main(arguments: list[str]) -> int:
    folder = Path(arguments[0])
    controls = Controls(folder)
    _install_clock(controls)  # before anything takes a reference to the clock
    from agent import cli
    from agent.compiled import mode

    mode.use_files()
    _install_disk(controls, folder)
    _hasten()
    for point in killed_at.ALL_POINTS:
        killed_at.install(point, lambda point=point: controls.passed(point))  # type: ignore[misc]
    return cli.main(arguments[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

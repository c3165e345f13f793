"""What a process costs, read from /proc: processor time by thread, resident memory, sampled in a thread."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

#: As the gRPC core names its threads.
_GRPC_NAMES = ("grpc", "event_engine", "lifeguard", "default-execut", "resolver-execu", "timer_")
_TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """User and system seconds of all threads, ended ones included; in steps of 10 ms."""
    return _cpu_of(Path(f"/proc/{pid}/stat"))


def cpu_by_thread(pid: int) -> dict[str, float]:
    """The same of living threads by name, in steps of ns; "loop" is the first thread.

    Threads of the gRPC core are one; those that have no name of their own are "other".
    """
    found: dict[str, float] = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            name = (task / "comm").read_text().strip()
            ns = int((task / "schedstat").read_text().split()[0])
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(task.name) == pid:
            name = "loop"
        elif name.startswith(_GRPC_NAMES):
            name = "grpc"
        elif name.startswith("python"):
            name = "other"
        found[name] = found.get(name, 0.0) + ns / 1e9
    return found


def peak_rss_bytes(pid: int) -> int:
    """Largest resident memory so far."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def _cpu_of(stat: Path) -> float:
    # The name in parentheses may hold blanks: fields count from behind it.
    fields = stat.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_S


@dataclass(frozen=True)
class Sample:
    at_s: float  # time.monotonic()
    cpu_s: float
    rss_bytes: int


class Watch:
    """Samples one process every `every_s` until the end of its `with`."""

    def __init__(self, pid: int, every_s: float = 0.05) -> None:
        self.samples: list[Sample] = []
        self._pid = pid
        self._every_s = every_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def take(self) -> Sample:
        """One sample now; not kept."""
        pages = int(Path(f"/proc/{self._pid}/statm").read_text().split()[1])
        return Sample(time.monotonic(), cpu_s(self._pid), pages * os.sysconf("SC_PAGE_SIZE"))

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                self.samples.append(self.take())
            except (FileNotFoundError, ProcessLookupError):
                return
            self._ended.wait(self._every_s)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(5.0)

    def busy_until_s(self, since_s: float, share: float = 0.25) -> float:
        """End of the last interval after `since_s` in which more than `share` of a core was used."""
        last = since_s
        for before, after in zip(self.samples, self.samples[1:], strict=False):
            used_s = after.cpu_s - before.cpu_s
            if before.at_s >= since_s and used_s > share * (after.at_s - before.at_s):
                last = after.at_s
        return last

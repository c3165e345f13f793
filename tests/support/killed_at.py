"""`inferometer` that kills itself (SIGKILL) on its n-th way past one point of delivery.

    python -m tests.support.killed_at POINT N run -c inferometer.yaml

The points are wrapped around functions of the program from outside; the program knows nothing of them.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from agent.cli import main
from agent.delivery import volume as delivery
from agent.delivery.volume import VolumeMode
from agent.emit.exporter import MetricExporter
from agent.ingest.fence import CoordinatorLink
from agent.state.files import Files
from agent.state.volume import Volume


class Countdown:
    def __init__(self, n: int) -> None:
        self.left = n

    def __call__(self) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def around(owner: Any, name: str, count: Countdown, *, before: bool, is_async: bool = True) -> None:
    original = getattr(owner, name)
    if is_async:

        async def wrapped(*args: Any, **named: Any) -> Any:
            if before:
                count()
            result = await original(*args, **named)
            if not before:
                count()
            return result
    else:

        def wrapped(*args: Any, **named: Any) -> Any:  # type: ignore[misc]
            if before:
                count()
            result = original(*args, **named)
            if not before:
                count()
            return result

    setattr(owner, name, wrapped)


def in_write(count: Countdown) -> None:
    """In the middle of the bytes of an entry or a snapshot."""
    original = Files.write

    def write(self: Files, fd: int, data: bytes) -> None:
        original(self, fd, data[: len(data) // 2])
        count()
        original(self, fd, data[len(data) // 2 :])

    Files.write = write  # type: ignore[method-assign]


def commit_sent(count: Countdown, *, answered: bool) -> None:
    """While an OffsetCommit is on its way, or when its answer has come and nobody has seen it."""
    original = CoordinatorLink.send

    async def send(self: CoordinatorLink, request: Any) -> Any:
        is_commit = getattr(request, "API_KEY", -1) == 8
        if is_commit and not answered:
            coordinator: Any = self._coordinator
            await coordinator.ensure_coordinator_known()
            work = coordinator._send_req(request)
            import asyncio

            task = asyncio.ensure_future(work)
            await asyncio.sleep(0)  # its bytes are with the kernel, or on their way there
            count()
            return await task
        response = await original(self, request)
        if is_commit:
            count()
        return response

    CoordinatorLink.send = send  # type: ignore[method-assign]


POINTS: dict[str, Callable[[Countdown], None]] = {
    "cut": lambda c: around(VolumeMode, "_write", c, before=True),
    "half-written": in_write,
    "durable": lambda c: around(VolumeMode, "_commit_chunk", c, before=True),
    "commit-sent": lambda c: commit_sent(c, answered=False),
    "commit-answered": lambda c: commit_sent(c, answered=True),
    "committed": lambda c: around(delivery, "_answer", c, before=True, is_async=False),
    "folded": lambda c: around(delivery, "_answer", c, before=False, is_async=False),
    "export-journalled": lambda c: around(VolumeMode, "export", c, before=False),
    "export-accepted": lambda c: around(MetricExporter, "export", c, before=False),
    "snapshot-begun": lambda c: around(Volume, "_write_snapshot", c, before=True, is_async=False),
    "snapshot-synced": lambda c: around(Files, "rename", c, before=True, is_async=False),
    "snapshot-renamed": lambda c: around(Files, "rename", c, before=False, is_async=False),
    "snapshot-written": lambda c: around(Volume, "_prune", c, before=True, is_async=False),
    "unlinked": lambda c: around(Files, "unlink", c, before=False, is_async=False),
    "settled": lambda c: around(VolumeMode, "settle", c, before=False),
    "placed": lambda c: around(VolumeMode, "place", c, before=False),
}


if __name__ == "__main__":
    POINTS[sys.argv[1]](Countdown(int(sys.argv[2])))
    sys.exit(main(sys.argv[3:]))

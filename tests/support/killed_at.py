"""`inferometer` that kills itself (SIGKILL) on its n-th way past one point of delivery.

    python -m tests.support.killed_at POINT N run -c inferometer.yaml

The points are wrapped around functions of the program from outside; the program knows nothing of them.
It is imported late: kernels must be loaded as the command loads them.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

#: Point -> module, class (or "" for a function), name, whether the kill comes before the call.
AROUND: dict[str, tuple[str, str, str, bool]] = {
    "cut": ("agent.delivery.volume", "VolumeMode", "_write", True),
    "durable": ("agent.delivery.volume", "VolumeMode", "_commit_chunk", True),
    "committed": ("agent.delivery.volume", "", "_answer", True),
    "folded": ("agent.delivery.volume", "", "_answer", False),
    "export-journalled": ("agent.delivery.volume", "VolumeMode", "export", False),
    "export-answered": ("agent.emit.exporter", "MetricExporter", "export", False),
    "snapshot-begun": ("agent.state.volume", "Volume", "_write_snapshot", True),
    "file-synced": ("agent.state.files", "Files", "rename", True),
    "file-renamed": ("agent.state.files", "Files", "rename", False),
    "snapshot-written": ("agent.state.volume", "Volume", "_prune", True),
    "unlinked": ("agent.state.files", "Files", "unlink", False),
    "settled": ("agent.delivery.volume", "VolumeMode", "settle", False),
    "placed": ("agent.delivery.volume", "VolumeMode", "place", False),
}
POINTS = [*AROUND, "half-written", "commit-sent", "commit-answered"]
#: The same of an agent in fleet mode, and of an aggregator.
AROUND |= {
    "fleet-cut": ("agent.fleet.chunk_writer", "ChunkWriter", "write", True),
    "record-sent": ("aiokafka", "AIOKafkaProducer", "send", False),
    "fleet-durable": ("agent.fleet.mode", "FleetMode", "_commit_chunk", True),
    "fleet-counted": ("agent.fleet.mode", "FleetMode", "deliver", False),
    "fleet-settled": ("agent.fleet.mode", "FleetMode", "settle", False),
    "fleet-placed": ("agent.fleet.mode", "FleetMode", "place", False),
    "shard-read": ("agent.aggregate.folding", "ShardFold", "take", True),
    "shard-taken": ("agent.aggregate.folding", "", "_sync", True),
    "shard-durable": ("agent.aggregate.folding", "", "_sync", False),
    "shard-exported": ("agent.delivery.kept", "Kept", "export", False),
    "shard-opened": ("agent.aggregate.folding", "ShardFold", "open", False),
}
_COMMIT = ["commit-sent", "commit-answered"]
FLEET_POINTS = ["fleet-cut", "record-sent", "fleet-durable", *_COMMIT, "fleet-counted"]
FLEET_START_POINTS = ["fleet-settled", "fleet-placed"]
SHARD_POINTS = [
    "shard-read",
    *_COMMIT,
    "shard-taken",
    "half-written",
    "shard-durable",
    "shard-exported",
    "export-answered",
    "snapshot-begun",
    "file-synced",
    "file-renamed",
    "snapshot-written",
    "unlinked",
]
SHARD_START_POINTS = ["shard-opened"]
ALL_POINTS = list(dict.fromkeys([*POINTS, *AROUND]))

Count = Callable[[], None]


def countdown(n: int) -> Count:
    def count() -> None:
        nonlocal n
        n -= 1
        if n == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    return count


def install(point: str, count: Count) -> None:
    if point in AROUND:
        module_name, class_name, name, is_before = AROUND[point]
        owner: Any = import_module(module_name)
        owner = getattr(owner, class_name) if class_name else owner
        setattr(owner, name, around(getattr(owner, name), count, is_before))
    elif point == "half-written":
        in_write(count)
    else:
        in_commit(count, is_answered=point == "commit-answered")


def around(original: Any, count: Count, is_before: bool) -> Any:
    async def wrapped_async(*args: Any, **named: Any) -> Any:
        if is_before:
            count()
        result = await original(*args, **named)
        if not is_before:
            count()
        return result

    def wrapped(*args: Any, **named: Any) -> Any:
        if is_before:
            count()
        result = original(*args, **named)
        if not is_before:
            count()
        return result

    return wrapped_async if asyncio.iscoroutinefunction(original) else wrapped


def in_write(count: Count) -> None:
    """In the middle of the bytes of an entry or a snapshot."""
    from agent.state.files import Files

    original = Files.write

    def write(self: Files, fd: int, data: bytes) -> None:
        original(self, fd, data[: len(data) // 2])
        count()
        original(self, fd, data[len(data) // 2 :])

    Files.write = write  # type: ignore[method-assign]


def in_commit(count: Count, *, is_answered: bool) -> None:
    """While an OffsetCommit is on its way, or when its answer has come and nobody has seen it."""
    from agent.ingest.fence import CoordinatorLink

    original = CoordinatorLink.send

    async def send(self: CoordinatorLink, request: Any) -> Any:
        if getattr(request, "API_KEY", -1) != 8:
            return await original(self, request)
        work = asyncio.ensure_future(original(self, request))
        if is_answered:
            await asyncio.wait([work])
        else:
            for _ in range(5):  # its bytes are with the kernel by then
                await asyncio.sleep(0)
        count()
        return await work

    CoordinatorLink.send = send  # type: ignore[method-assign]


def main(arguments: list[str]) -> int:
    from agent import cli
    from agent.compiled import mode

    mode.use_files()
    install(arguments[0], countdown(int(arguments[1])))
    return cli.main(arguments[2:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

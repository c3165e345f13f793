"""The audit trail of actions: one JSON line for each outcome, in a file of bounded size.

Invariants
1. A line is appended whole, and only the agent's user may read the file (mode 0600, no symbolic link).
2. At `max_bytes` the file becomes `<path>.1`, in place of the one before: two files at most.
3. A file that cannot be written costs lines, said at most every ten seconds, never an action.

What was delivered is read back at start, so that a restart does not repeat it (`was_delivered`).
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import OrderedDict
from pathlib import Path
from typing import Any, Final

import orjson

from agent.emit.complaints import Complaints
from agent.errors import ConfigError
from agent.types import Json

log = logging.getLogger(__name__)

FILE_MODE: Final = 0o600
DIRECTORY_MODE: Final = 0o700
#: Deliveries remembered: what a volume could tell again after a crash is fewer.
MAX_REMEMBERED: Final = 20_000
_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0)

DELIVERED: Final = "delivered"


class Audit:
    """One owner, the loop; writes happen in a thread. `path` None: only what was delivered is kept.

    Memory: about 100 bytes for each of `MAX_REMEMBERED` deliveries.
    """

    def __init__(self, path: Path | None, max_bytes: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._delivered: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._complaints = Complaints(log)
        self._turn = asyncio.Lock()
        self.n_lines = 0  # written by this process

    def open(self) -> None:
        """Read what was delivered before, and see that a line can be written. Raises ConfigError."""
        path = self._path
        if path is None:
            return
        try:
            path.parent.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
            os.close(os.open(path, _FLAGS, FILE_MODE))
            for each in (_older(path), path):
                if each.is_file():
                    self._read(each)
        except OSError as error:
            raise ConfigError(
                f"respond.audit_path is {path}; it cannot be used ({error.strerror}). "
                "Name a file in a directory that this process may write to"
            ) from None

    def was_delivered(self, action: str, event_id: str) -> bool:
        return (action, event_id) in self._delivered

    async def add(self, line: Json) -> None:
        """Append a line. `action`, `id` and `outcome` in it are what `open` reads back."""
        if line["outcome"] == DELIVERED:
            self._remember(line["action"], line["id"])
        if self._path is None:
            return
        data = orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)
        async with self._turn:
            try:
                await asyncio.to_thread(_append, self._path, data, self._max_bytes)
                self.n_lines += 1
            except OSError as error:
                self._complaints.say(
                    "write", f"respond.audit_path {self._path} cannot be written: {error.strerror}"
                )

    def _remember(self, action: str, event_id: str) -> None:
        self._delivered[action, event_id] = None
        self._delivered.move_to_end((action, event_id))
        while len(self._delivered) > MAX_REMEMBERED:
            self._delivered.popitem(last=False)

    def _read(self, path: Path) -> None:
        """Lines that are torn or foreign say nothing."""
        with path.open("rb") as file:
            for raw in file:
                try:
                    line: Any = orjson.loads(raw)
                except orjson.JSONDecodeError:
                    continue
                if isinstance(line, dict) and line.get("outcome") == DELIVERED:
                    self._remember(str(line.get("action")), str(line.get("id")))


def _append(path: Path, data: bytes, max_bytes: int) -> None:
    fd = os.open(path, _FLAGS, FILE_MODE)
    try:
        size_bytes = os.fstat(fd).st_size
        if size_bytes and size_bytes + len(data) > max_bytes:
            path.replace(_older(path))
            os.close(fd)
            fd = os.open(path, _FLAGS, FILE_MODE)
        os.write(fd, data)
    finally:
        os.close(fd)


def _older(path: Path) -> Path:
    return path.with_name(path.name + ".1")

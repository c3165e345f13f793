"""Nothing phones home: a process that may not connect, and tells who tried.

An audit hook of the interpreter refuses every connection and every look-up of a name before it happens, whatever
library asks for it, and cannot be taken out again. What C code does without Python's sockets it does not see.
"""

from __future__ import annotations

import sys
from typing import Any

#: Audit events of the standard library that leave the process.
_LEAVES = frozenset(
    (
        "socket.connect",
        "socket.getaddrinfo",
        "socket.gethostbyaddr",
        "socket.gethostbyname",
        "socket.sendmsg",
        "socket.sendto",
    )
)
_refused: list[str] = []


class Refused(OSError):
    """A connection that a tool wanted."""


def refuse_connections() -> None:
    """From now on; call it before a tool is imported."""
    sys.addaudithook(_audit)


def refused() -> list[str]:
    """What was wanted so far."""
    return list(_refused)


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event in _LEAVES:
        wanted = f"{event} {arguments[1:] if event.startswith('socket.con') else arguments}"
        _refused.append(wanted)
        raise Refused(f"{wanted}: this process stays alone")

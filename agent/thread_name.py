"""Threads by name in `top -H`, `perf` and /proc."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

#: What Linux keeps of a thread's name.
_MOST_BYTES = 15


def show_thread_name() -> None:
    """Tell the system the calling thread's Python name; nothing where there is no /proc."""
    name = threading.current_thread().name.encode()[:_MOST_BYTES]
    with contextlib.suppress(OSError):
        Path("/proc/thread-self/comm").write_bytes(name)

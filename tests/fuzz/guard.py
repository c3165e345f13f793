"""Memory that ends: what reads or writes beyond it dies at once (SIGSEGV), so tests run it in a process of its own."""

from __future__ import annotations

import ctypes
import mmap

import numpy as np

PAGE = mmap.PAGESIZE


class GuardedRoom:
    """`pages` readable pages between two that are not. `bytes` is what lies between."""

    def __init__(self, pages: int) -> None:
        self._map = mmap.mmap(-1, (pages + 2) * PAGE)
        whole = np.frombuffer(self._map, np.uint8)
        libc = ctypes.CDLL(None, use_errno=True)
        for page in (0, pages + 1):
            address = ctypes.c_void_p(whole.ctypes.data + page * PAGE)
            if libc.mprotect(address, PAGE, 0) != 0:
                raise OSError(ctypes.get_errno(), "mprotect")
        self.bytes = whole[PAGE : (pages + 1) * PAGE]

    def put_at_end(self, text: bytes, padding: int) -> int:
        """Lay the text down with exactly `padding` bytes behind it; returns where it starts."""
        start = len(self.bytes) - padding - len(text)
        self.bytes[start : start + len(text)] = np.frombuffer(text, np.uint8)
        return start

    def put_at_start(self, text: bytes, padding: int) -> int:
        """Lay the text down with exactly `padding` bytes before it; returns where it starts."""
        self.bytes[padding : padding + len(text)] = np.frombuffer(text, np.uint8)
        return padding

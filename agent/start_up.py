"""What the process asks of Python and of the C library for itself, at its start and when all is loaded."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys

#: A thread that wants the GIL asks for it after so long. The loop wants it at every turn, and finds the
#: fold, an encoder and a kernel thread before it: with Python's own 5 ms, up to 15 ms late.
SWITCH_INTERVAL_S = 0.0005
#: Arenas of the C library: by itself it makes eight a core, each of which keeps what it once had.
ARENAS = 2
_M_ARENA_MAX = -8  # malloc.h


def tune() -> None:
    """At the start of the process, before there are threads."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    with contextlib.suppress(OSError, AttributeError):  # a C library without it
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, ARENAS)


def settle() -> None:
    """When all is loaded: what lives now stays for good, and what loading left over is given back.

    A full collection that walks everything holds the process up for a tenth of a second, again and again.
    """
    gc.collect()
    gc.freeze()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)

"""What the process asks of Python and of the C library for itself: at its start, when all is loaded, every second."""

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
#: Python's own for young objects. Old ones are never looked at by themselves: that walks the whole heap with
#: the GIL held, 130 ms at 10,000 series, whenever a quarter of it is new. `tidy` does it in small steps.
_YOUNG, _MIDDLE, _OLD = 700, 10, 1 << 30
#: Collections of young objects, 7,000 objects each, after which `tidy` looks at what they left.
_TIDY_AFTER = 10

#: Objects set aside when all were last looked at, and since.
_set_aside = 0
_since = 0


def tune() -> None:
    """At the start of the process, before there are threads."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.set_threshold(_YOUNG, _MIDDLE, _OLD)
    with contextlib.suppress(OSError, AttributeError):  # a C library without it
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, ARENAS)


def settle() -> None:
    """When all is loaded: what lives now stays for good, and what loading left over is given back."""
    _look_at_all()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def tidy() -> None:
    """Now and then: free cycles among objects that have come since the last time, and set aside those that stay.

    What is set aside is freed when nothing refers to it, as ever; a cycle of it is not found. So all is looked
    at when twice as much is set aside as the last time: cycles never take more than the heap did then, and a
    heap that has stopped growing is not walked again.
    """
    global _since
    if gc.get_count()[2] < _TIDY_AFTER:
        return
    if _since > _set_aside:
        _look_at_all()
        return
    gc.collect()
    # To ask for the number of all that is set aside takes 40 ms at 10,000 series.
    _since += len(gc.get_objects(generation=2))
    gc.freeze()


def _look_at_all() -> None:
    global _set_aside, _since
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    _set_aside, _since = gc.get_freeze_count(), 0

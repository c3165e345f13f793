"""For how long was an event loop held by this very process, whatever else the machine was doing?

The wall clock cannot tell: on a busy machine a loop is late because it, or the thread that has the GIL, waits for
a core. Processor time does not pass meanwhile. So a task sleeps for a millisecond again and again, and at each
turn reads the processor time of the loop's thread and of every other thread of Python since its last turn:

    held     at most what a core of its own would have had it wait: the smaller of how late it was, and of the
             processor time of all threads that may have had the GIL (one has it at a time)
    loop     processor time of the loop's own thread alone: its callbacks

`free` are threads that work mostly without the GIL and always (a kernel thread): their time says nothing, and
they are left out of `held`. Watch them in a run of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time
import traceback
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass, field

_STEP_S = 0.001


@dataclass(slots=True)
class Holds:
    """Worst turn of a loop, seconds, of each kind. `who` had most of the processor in the worst held one."""

    wall_s: float = 0.0
    held_s: float = 0.0
    loop_s: float = 0.0
    who: str = ""
    #: Of each turn above `note_above_s`: seconds held, thread, its stack as it was after.
    notes: list[tuple[float, str, str]] = field(default_factory=list)


class _Clocks:
    """Processor time of every thread of Python but this one, as it passes."""

    def __init__(self, free: Collection[str]) -> None:
        self._free = frozenset(free)
        self._last: dict[int, float] = {}

    def passed(self) -> list[tuple[float, threading.Thread]]:
        """Seconds since the last call, for each thread that was there already or is new."""
        found = []
        here = threading.get_ident()
        for thread in threading.enumerate():
            ident = thread.ident
            if ident is None or ident == here or thread.name in self._free:
                continue
            try:
                now = time.clock_gettime(time.pthread_getcpuclockid(ident))
            except OSError:  # it has just ended
                continue
            found.append((now - self._last.get(ident, 0.0), thread))
            self._last[ident] = now
        return found


@contextlib.asynccontextmanager
async def watched(*, free: Collection[str] = (), note_above_s: float = 1e9) -> AsyncIterator[Holds]:
    """The running loop's worst turns while the body runs."""
    holds = Holds()
    clock = time.perf_counter  # the loop's own stands still while it is held

    async def watch() -> None:
        clocks = _Clocks(free)
        clocks.passed()
        while True:
            due, own = clock() + _STEP_S, time.thread_time()
            await asyncio.sleep(_STEP_S)
            late, own = clock() - due, time.thread_time() - own
            others = clocks.passed()
            held = min(late, own + sum(seconds for seconds, _ in others))
            seconds, thread = max(
                [(own, threading.current_thread()), *others], key=lambda pair: pair[0]
            )
            holds.wall_s = max(holds.wall_s, late)
            holds.loop_s = max(holds.loop_s, own)
            if held > holds.held_s:
                holds.held_s, holds.who = held, thread.name
            if held > note_above_s and thread.ident is not None:
                frame = sys._current_frames().get(thread.ident)
                stack = traceback.format_stack(frame, 6) if frame is not None else []
                holds.notes.append((held, f"{thread.name} {seconds * 1e3:.1f}", "".join(stack)))

    async with asyncio.TaskGroup() as group:
        task = group.create_task(watch(), name="lag")
        await asyncio.sleep(0.01)
        try:
            yield holds
        finally:
            await asyncio.sleep(0.005)
            task.cancel()

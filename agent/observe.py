"""What a process sees of itself: how late its loop is, and its resident memory."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

_STEP_S: Final = 0.05
_REPORT_S: Final = 1.0


async def watch_loop(report: Callable[[float], None]) -> None:
    """Call `report` every second with the worst lag of the loop since the last time (s); until cancelled."""
    worst_s = 0.0
    next_report = time.monotonic() + _REPORT_S
    while True:
        before = time.monotonic()
        await asyncio.sleep(_STEP_S)
        worst_s = max(worst_s, time.monotonic() - before - _STEP_S)
        if time.monotonic() >= next_report:
            next_report += _REPORT_S
            report(worst_s)
            worst_s = 0.0


def resident_bytes() -> int:
    """Resident memory of this process, 0 where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")

"""When to leave records out, and how many: looks at the lag once a second, changes the level at cuts.

    behind   lag in records / records read a second, over the last `STEP_S`
    up       behind more than `overload.behind_s`, the lag does not shrink, and it is this process that is
             the bottleneck: fetched bytes have waited for a kernel thread
    down     behind less than a quarter of that; so a level holds for a while, and none swings fast

Invariants
 1. One step is one bit: half of the records, or twice as many.
 2. A level changes only between two cuts, in all kernel threads at the same cut (`turn`), so the rows of
    a chunk have one level, and it stands in the chunk.
 3. Off, the level is always 0.
"""

from __future__ import annotations

import logging
import math

from agent.config import Overload
from agent.decode.shed import Level
from agent.telemetry import Telemetry
from agent.types import Json

log = logging.getLogger(__name__)

#: A level is looked at again after this time: a few cuts, so that its effect can be seen.
STEP_S = 5.0


class Shedding:
    """The loop's side of `decode.shed`."""

    def __init__(self, config: Overload, telemetry: Telemetry) -> None:
        self.level = Level()
        self.is_enabled = config.mode == "shed"
        self._behind_s = config.behind_s
        self._max_bits = config.max_halvings
        self._telemetry = telemetry
        self._wanted = 0
        self._looked: tuple[float, int, int] | None = None  # time, records, lag
        self._was_pressed = False
        self._last_behind_s = 0.0

    @property
    def bits(self) -> int:
        """Of 2^bits records that arrive now, one is decoded."""
        return self.level.bits

    @property
    def ratio(self) -> float:
        return 0.5**self.level.bits

    def turn(self) -> int:
        """The level of what is about to be cut; the one wanted begins behind that cut.

        Call it right before the cut is asked for, with nothing awaited in between.
        """
        bits, self.level.bits = self.level.bits, self._wanted
        return bits

    def look(self, now_s: float, records: int, lag: int, is_pressed: bool) -> None:
        """Decide about the level, every `STEP_S` at most.

        now_s       monotonic
        records     read since the start, those left out included
        lag         records that wait in the log
        is_pressed  fetched bytes wait for a kernel thread, to the limit of `kafka.buffer_max_bytes`
        """
        self._telemetry.set("inferometer.overload.ratio", self.ratio)
        if not self.is_enabled:
            return
        self._was_pressed |= is_pressed
        if self._looked is None:
            self._looked = now_s, records, lag
            return
        then_s, records_then, lag_then = self._looked
        if now_s - then_s < STEP_S:
            return
        rate = (records - records_then) / (now_s - then_s)
        behind_s = lag / rate if rate > 0 else math.inf if lag else 0.0
        self._last_behind_s = behind_s
        if behind_s < math.inf:
            self._telemetry.set("inferometer.overload.behind", behind_s)
        if behind_s > self._behind_s and lag >= lag_then and rate > 0 and self._was_pressed:
            self._want(min(self._wanted + 1, self._max_bits), behind_s)
        elif behind_s < self._behind_s / 4:
            self._want(max(self._wanted - 1, 0), behind_s)
        self._looked = now_s, records, lag
        self._was_pressed = is_pressed

    def _want(self, bits: int, behind_s: float) -> None:
        if bits == self._wanted:
            return
        say = log.warning if bits > self._wanted else log.info
        self._wanted = bits
        say(
            "overload: %.0f s behind; %s",
            behind_s,
            f"one of {1 << bits} records is decoded from here on, the others are counted as shed"
            if bits
            else "every record is decoded again",
        )

    def notes(self) -> list[str]:
        """What the readiness page says of it."""
        if not self.level.bits:
            return []
        return [f"shedding load: one of {1 << self.level.bits} records is decoded"]

    def describe(self) -> Json:
        """`overload` on the state page."""
        return {
            "mode": "shed" if self.is_enabled else "off",
            "ratio": self.ratio,
            "behind_s": round(self._last_behind_s, 1) if self._last_behind_s < math.inf else None,
        }

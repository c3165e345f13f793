"""When to leave records out, and how many: looks at the lag once a second, changes the level at cuts.

    behind   lag in records / records read a second, over the last `STEP_S`
    up       behind more than `overload.behind_s`, and the lag does not shrink
    back     the step up did not make reading faster: what holds it up is not this process, but a broker or
             the network, and records would be given up for nothing. Tried again after `HOLD_S`
    down     behind less than a quarter of the limit; so a level holds for a while, and none swings fast

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
#: What a step up must do to the rate of reading, and how long none is tried when it did not.
HELPS, HOLD_S = 1.1, 60.0


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
        self._rate_before = 0.0  # the last step up; 0 when the last step was none
        self._hold_until = 0.0
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

    def look(self, now_s: float, records: int, lag: int) -> None:
        """Decide about the level, every `STEP_S` at most.

        now_s    monotonic
        records  read since the start, those left out included
        lag      records that wait in the log
        """
        self._telemetry.set("inferometer.overload.ratio", self.ratio)
        if not self.is_enabled:
            return
        if self._looked is None:
            self._looked = now_s, records, lag
            return
        then_s, records_then, lag_then = self._looked
        if now_s - then_s < STEP_S:
            return
        self._looked = now_s, records, lag
        rate = (records - records_then) / (now_s - then_s)
        behind_s = lag / rate if rate > 0 else math.inf if lag else 0.0
        self._last_behind_s = behind_s
        if behind_s < math.inf:
            self._telemetry.set("inferometer.overload.behind", behind_s)
        self._decide(now_s, rate, behind_s, is_shrinking=lag < lag_then)

    def _decide(self, now_s: float, rate: float, behind_s: float, *, is_shrinking: bool) -> None:
        rate_before, self._rate_before = self._rate_before, 0.0
        if rate_before and rate < HELPS * rate_before and not is_shrinking:
            self._hold_until = now_s + HOLD_S
            self._want(self._wanted - 1, behind_s)
        elif behind_s < self._behind_s / 4:
            self._want(max(self._wanted - 1, 0), behind_s)
        elif (
            behind_s > self._behind_s
            and rate > 0
            and not is_shrinking
            and now_s >= self._hold_until
            and self._wanted < self._max_bits
        ):
            self._rate_before = rate
            self._want(self._wanted + 1, behind_s)

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

"""A fold that is kept on a volume: what volume mode and the aggregator have in common.

Invariants
 1. The volume is used on the fold thread alone, so whoever reads the fold there sees whole entries.
 2. Nothing leaves that rests on an entry that is not durable.
 3. A volume that cannot be written is said in readiness and log, and tried again; it never ends the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Final, TypeVar, cast

from agent.delivery.chained import SAY_EVERY_S
from agent.delivery.outcome import Outcome
from agent.errors import StateError
from agent.fold.base import Fold
from agent.fold.effects import Effects
from agent.ingest.announcer import Announcer
from agent.owner_thread import OwnerThread
from agent.state.entries import Accepted, Tick
from agent.state.recovery import Recovered
from agent.state.volume import Volume
from agent.telemetry import Telemetry
from agent.types import Json, Snapshot

log = logging.getLogger(__name__)

#: A snapshot is taken sooner when a restart would have to work this long (processor time).
REPLAY_S: Final = 0.8

T = TypeVar("T")


class Kept:
    """The fold thread and its volume. All methods belong to the loop."""

    def __init__(
        self,
        volume: Volume,
        fold: OwnerThread[Fold],
        telemetry: Telemetry,
        *,
        path: str,
        interval_s: float,
    ) -> None:
        """`interval_s`: between snapshots."""
        self.volume = volume
        self._fold = fold
        self._telemetry = telemetry
        self._path = path
        self._interval_s = interval_s
        self._snapshot_at = 0.0
        self._announcer = Announcer(SAY_EVERY_S)
        # Of journal and snapshot apart: one may fail while the other does not.
        self._write_trouble = ""
        self._snapshot_trouble = ""

    @property
    def trouble(self) -> str:
        """What keeps the volume from being written; "": nothing."""
        return "; ".join(dict.fromkeys(filter(None, (self._write_trouble, self._snapshot_trouble))))

    def call(self, function: Callable[[Volume], T]) -> asyncio.Future[T]:
        """Run it on the fold thread."""
        return self._fold.call(lambda _: function(self.volume))

    async def open(self) -> Recovered:
        """Read snapshot and journal. Raises StateError, ConfigError."""
        started = time.monotonic()
        out: list[Recovered] = []

        def read() -> Fold:
            out.append(self.volume.open())
            return self.volume.fold

        await self._fold.replace(read)
        (found,) = out
        log.info(
            "%s: %s, %d entries of the journal folded, in %.2f s",
            self._path,
            "a new volume" if found.is_new else f"run {len(self.volume.state.runs)}",
            found.n_replayed,
            time.monotonic() - started,
        )
        self._snapshot_at = time.monotonic() + self._interval_s
        return found

    def close(self) -> None:
        self.call(Volume.close)

    # -- snapshots

    async def snapshot_if_due(self) -> None:
        is_long = self.volume.replay_s >= REPLAY_S
        if is_long or time.monotonic() >= self._snapshot_at:
            await self.snapshot()

    async def snapshot(self) -> None:
        """The next start has nothing to fold again."""
        self._snapshot_at = time.monotonic() + self._interval_s
        try:
            await self.call(Volume.snapshot)
        except StateError as error:
            self._snapshot_trouble = str(error)
            self._say(f"no snapshot: {error}")
        else:
            self._snapshot_trouble = ""

    # -- what leaves

    async def export(self, now_ns: int, *, zeros: bool) -> Snapshot | None:
        """None while the volume cannot be written: a crash would take back what left."""
        return await self._durable(lambda volume: volume.export(now_ns, zeros=zeros))

    async def scrape(self, now_ns: int) -> Snapshot | None:
        """Every series' value now; None as for an export."""
        return await self._durable(lambda volume: volume.scrape(now_ns))

    async def _durable(self, make: Callable[[Volume], Snapshot]) -> Snapshot | None:
        try:
            return await self.call(make)
        except StateError as error:
            self.not_written(str(error))
            return None

    def accepted(self, snapshot: Snapshot) -> None:
        """A receiver took it."""
        time_ns = snapshot.time_ns
        self.call(lambda volume: volume.take(Accepted(time_ns)))

    # -- what others see

    def describe(self) -> Json:
        """Its part of `/v1/state`."""
        return {
            "path": self._path,
            "run_id": self.volume.run_id,
            "runs": len(self.volume.state.runs),
            "journal_bytes": self.volume.bytes_since_snapshot,
            "snapshot_age_s": self._snapshot_age_s(),
            "trouble": self.trouble or None,
        }

    def observe(self) -> None:
        age_s = self._snapshot_age_s()
        if age_s is not None:
            self._telemetry.set("inferometer.snapshot.age", age_s)

    def _snapshot_age_s(self) -> float | None:
        taken_ns = self.volume.snapshot_ns
        return round((time.time_ns() - taken_ns) / 1e9, 3) if taken_ns else None

    def not_written(self, trouble: str) -> None:
        """The journal cannot be written, until `written`."""
        self._write_trouble = trouble
        self._say(trouble)

    def written(self) -> None:
        """The journal takes entries again."""
        self._write_trouble = ""

    def _say(self, trouble: str) -> None:
        if self._announcer.may_say("trouble"):
            log.error("%s", trouble)


# ---------------------------------------------------------------- on the fold thread


def ticked(volume: Volume, effects: Effects, now_ns: int, *, is_folded: bool) -> Outcome:
    """Let the clock do what it must. What was folded and sealed is durable before anybody sees it."""
    effects.add(cast(Effects, volume.take(Tick(now_ns))))
    if effects.sealed or is_folded:
        with contextlib.suppress(StateError):  # the next chunk waits for the disk, and says so
            volume.sync()
    irregular = {reason: n for reason, n in volume.fold.tally.irregular.items() if n}
    return Outcome(effects, irregular, is_folded)

"""Exports: a snapshot of the base to the collector, on a timer and on request.

A task of its own: a collector that is slow or away delays nothing but itself, and in memory mode the
commits that wait for its word.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable

from agent.delivery.outcome import Folded, Position
from agent.types import Partition


class Export:
    """The one task that exports snapshots; tells `on_accepted` the positions that each one holds.

    `send(urgent) -> accepted` takes a snapshot of the base and delivers it to the collector; None
    when no receiver is configured: then what is folded counts as accepted. `hurry` makes a send in
    flight give up.
    """

    def __init__(
        self,
        interval_s: float,
        folded: Folded,
        send: Callable[[bool], Awaitable[bool]] | None,
        hurry: Callable[[], None],
        on_accepted: Callable[[dict[Partition, Position]], None],
    ) -> None:
        self._interval_s = interval_s
        self._folded = folded
        self._send = send
        self._hurry = hurry
        self._on_accepted = on_accepted
        self._requests: asyncio.Queue[asyncio.Future[bool]] = asyncio.Queue()
        self._in_flight = False

    @property
    def is_pressed(self) -> bool:
        """Somebody waits for an urgent export: one that has not been sent yet should give way."""
        return not self._requests.empty()

    async def export_now(self) -> bool:
        """Export what is folded now, giving up an export in flight; True when the collector took it."""
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._requests.put_nowait(future)
        if self._in_flight:
            self._hurry()
        return await future

    async def run(self) -> None:
        """Export on the timer and on request, until cancelled."""
        next_at = time.monotonic() + self._interval_s
        while True:
            waiting: list[asyncio.Future[bool]] = []
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, next_at - time.monotonic())):
                    waiting.append(await self._requests.get())
            while not self._requests.empty():
                waiting.append(self._requests.get_nowait())
            next_at = time.monotonic() + self._interval_s
            accepted = await self._once(urgent=bool(waiting))
            for request in waiting:
                if not request.done():
                    request.set_result(accepted)

    async def _once(self, *, urgent: bool) -> bool:
        # Positions first: the snapshot is taken later, so it holds at least these.
        positions = dict(self._folded.positions)
        if self._send is not None:
            self._in_flight = not urgent
            try:
                if not await self._send(urgent):
                    return False
            finally:
                self._in_flight = False
        self._on_accepted(positions)
        return True

"""Commits of memory mode: positions that an accepted export holds, under the epoch that read them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from agent.delivery.outcome import Position
from agent.errors import FencedError, SourceError
from agent.types import Partition

log = logging.getLogger(__name__)


class Commit:
    """The one task that commits accepted positions: one commit in flight, the newest positions next.

    A coordinator that is away delays commits, and nothing else.
    """

    def __init__(
        self, commit: Callable[[int, dict[Partition, int]], Awaitable[dict[Partition, str]]]
    ) -> None:
        self._commit = commit
        self._accepted: dict[Partition, Position] = {}
        self._committed: dict[Partition, Position] = {}
        self._requests: asyncio.Queue[asyncio.Future[None] | None] = asyncio.Queue()
        self.epoch = 0

    def begin(self, epoch: int) -> None:
        """An epoch begins: what was accepted under another is not to be committed any more."""
        self.epoch = epoch
        self._accepted.clear()
        self._committed.clear()

    def accepted(self, positions: dict[Partition, Position]) -> None:
        """An accepted export holds these positions."""
        self._accepted = positions
        if self._requests.empty():
            self._requests.put_nowait(None)

    async def commit_now(self) -> None:
        """Return when what has been accepted so far is committed, or could not be."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._requests.put_nowait(future)
        await future

    async def run(self) -> None:
        """Commit when there is something new, until cancelled."""
        while True:
            waiting = [await self._requests.get()]
            while not self._requests.empty():
                waiting.append(self._requests.get_nowait())
            await self._once()
            for request in waiting:
                if request is not None and not request.done():
                    request.set_result(None)

    async def _once(self) -> None:
        epoch = self.epoch
        due = {
            partition: position
            for partition, position in self._accepted.items()
            if position[0] == epoch and self._committed.get(partition) != position
        }
        if not due:
            return
        try:
            refused = await self._commit(epoch, {partition: at[1] for partition, at in due.items()})
        except FencedError as error:
            log.warning("commit refused, the group has moved on: %s", error)
        except SourceError as error:
            log.warning("commit failed, tried again with the next export: %s", error)
        else:
            if epoch == self.epoch:
                self._committed.update(
                    {partition: at for partition, at in due.items() if partition not in refused}
                )

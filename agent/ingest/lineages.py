"""Starts of partitions whose rows must count exactly once: the group's offsets and a journal together.

Where both know a partition they are compared by its chain of chunks (`Chain.settle`); where nobody
does, the rules of `starts.py` hold. Whatever is begun anew is a new lineage, journalled before its
genesis is committed, and committed before anything is read.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from aiokafka.protocol.admin import DescribeGroupsRequest

from agent.errors import FencedError, SourceError, StateError
from agent.ingest.fence import Committed, CoordinatorLink, until_ended
from agent.ingest.starts import End, Start, StartFinder, Why
from agent.types import Partition

log = logging.getLogger(__name__)

ANNOUNCE_EVERY_S = 10.0
RETRY_S = 1.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where a partition goes on. `is_committed`: the group's offset is this one, with its metadata."""

    offset: int
    is_committed: bool


class Chain(Protocol):
    """Knows which rows count. Raises StateError when its volume cannot be written: ask again."""

    async def settle(
        self, wanted: Collection[Partition], committed: Mapping[Partition, Committed]
    ) -> Mapping[Partition, Place]:
        """Judge what is unanswered by the group's offsets; say where partitions go on.

        A partition that neither side knows is left out.
        """

    async def place(self, epoch: int, offsets: Mapping[Partition, int]) -> Mapping[Partition, str]:
        """The epoch begins at these offsets; durable. Returns the metadata that belong to them."""

    def is_genesis(self, metadata: str) -> bool:
        """A start that was chosen and committed, behind which nothing has been read yet."""


class LineageStarts(StartFinder):
    """`StartFinder` for one member that has a `chain`."""

    def __init__(self, *arguments: Any, chain: Chain, epoch: int, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._chain = chain
        self._epoch = epoch

    async def find(
        self, wanted: Collection[Partition], out_of_range: Mapping[Partition, int]
    ) -> dict[Partition, Start]:
        """As its parent; `genesis` is the metadata that belong to each start."""
        while True:
            try:
                return await self._find(wanted, out_of_range)
            except StateError as error:
                if self._announcer.may_say("state"):
                    log.error("partitions are not read: %s", error)
                await until_ended(self._ended, asyncio.sleep(RETRY_S), "waiting for the volume")

    async def _find(
        self, wanted: Collection[Partition], out_of_range: Mapping[Partition, int]
    ) -> dict[Partition, Start]:
        # All of the group's offsets: an unanswered chunk may have partitions that are gone by now.
        everywhere = dict(await self._committed(None))
        everywhere |= await self._committed(self.known_partitions())
        committed = await self._committed(wanted)
        everywhere |= committed
        places = await self._chain.settle(wanted, everywhere)
        is_new_group = all(self._chain.is_genesis(at.metadata) for at in everywhere.values())
        # Whatever became of the group's offsets: a place that is the journal's has a group behind it.
        is_new_group &= all(place.is_committed for place in places.values())
        starts: dict[Partition, Start] = {}
        for partition in sorted(wanted):
            place = places.get(partition)
            if place is not None and out_of_range.get(partition) != place.offset:
                why = Why.COMMITTED if place.is_committed else Why.JOURNAL
                starts[partition] = Start(why, place.offset)
            elif place is not None:
                starts[partition] = Start(Why.OUT_OF_RANGE, end=End.EARLIEST)
            elif is_new_group:
                starts[partition] = Start(Why.NEW_GROUP, end=End(self._kafka.auto_offset_reset))
            else:
                starts[partition] = Start(Why.NEW_PARTITION, end=End.EARLIEST)
        await self._fill_in_ends(starts)
        offsets = {partition: start.offset for partition, start in starts.items()}
        metadata = await self._chain.place(self._epoch, offsets)
        return {
            partition: Start(start.why, start.offset, start.end, metadata[partition])
            for partition, start in starts.items()
        }


class Wholeness:
    """Keeps a member that was not given the whole topic from reading: another one counts the rest."""

    def __init__(self, group_id: str, timeout_s: float) -> None:
        self._group_id = group_id
        self._timeout_s = timeout_s
        self._since: float | None = None
        self.reason = ""

    async def wait(
        self,
        missing: int,
        link: CoordinatorLink,
        ended: asyncio.Event,
        *,
        poll_s: float,
        rejoin: Callable[[], None],
    ) -> None:
        """Return when the epoch has ended. Raises SourceError behind the time limit.

        A static member that comes back is given what it had before, and no more; when there is nobody
        else, `rejoin` makes it ask for all.
        """
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        due = 0.0
        while not ended.is_set():
            now = time.monotonic()
            if now >= due:
                due = now + ANNOUNCE_EVERY_S
                members = await _members(link, self._group_id, ended)
                self._say(missing, members)
                if len(members) == 1:
                    rejoin()
            if now - self._since >= self._timeout_s:
                raise SourceError(
                    f"{self.reason}; not alone within delivery.sole_member_timeout_s "
                    f"({self._timeout_s:g} s): stop the others, or give this agent its own "
                    "kafka.group_id"
                )
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(poll_s):
                    await ended.wait()

    def _say(self, missing: int, members: list[str]) -> None:
        self.reason = (
            f"{missing} partitions of the topics are not ours; members of group "
            f"{self._group_id}: {', '.join(members) or 'unknown'}; delivery.mode: volume needs all "
            "partitions"
        )
        log.warning("paused: %s", self.reason)

    def is_whole(self) -> None:
        """The whole topic is ours."""
        self._since = None
        self.reason = ""


async def _members(link: CoordinatorLink, group_id: str, ended: asyncio.Event) -> list[str]:
    """Client ids and hosts of the group's members, as the coordinator knows them; or nothing."""
    try:
        answer = await until_ended(ended, link.send(DescribeGroupsRequest([group_id])), "describe")
        return _names(answer)
    except FencedError:
        raise
    except Exception as error:  # only words of a message are lost
        log.debug("the members of %s are not known: %s", group_id, error)
        return []


def _names(answer: Any) -> list[str]:
    members = [member for group in answer.groups for member in group[5]]
    return sorted(f"{member[1]} at {str(member[2]).lstrip('/')}" for member in members)

"""Reads the heads of the agents' group, from outside of it, once a second.

The request is the fence's own OffsetFetch, with both levels of errors looked at: a coordinator that
moves or loads is asked again, and "nothing committed" is only read from an answer without an error.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Any

from aiokafka.client import ConnectionGroup, CoordinationType

from agent.ingest.announcer import Announcer
from agent.ingest.fence import fetch_offsets
from agent.state.heads import Head, head_of
from agent.types import Partition

log = logging.getLogger(__name__)


class OutsideLink:
    """`GroupLink` to another group's coordinator, through a client of ours."""

    def __init__(self, client: Any, group_id: str) -> None:
        self._client = client
        self._group_id = group_id
        self._node: Any = None

    async def send(self, request: Any) -> Any:
        if self._node is None:
            self._node = await self._client.coordinator_lookup(
                CoordinationType.GROUP, self._group_id
            )
        return await self._client.send(self._node, request, group=ConnectionGroup.COORDINATION)

    def lost(self) -> None:
        self._node = None


class HeadReader:
    """Heads of all partitions of `topics` that the group has committed, and of any other it has."""

    def __init__(self, client: Any, group_id: str, topics: Iterable[str]) -> None:
        """`client`: a started AIOKafkaClient. `topics`: as far as they are known by name."""
        self._client = client
        self._group_id = group_id
        self._topics = frozenset(topics)
        self._link = OutsideLink(client, group_id)
        self._announcer = Announcer(30.0)

    async def read(self, *, ended: asyncio.Event) -> dict[Partition, Head]:
        """One reading. Partitions with offsets that are not an agent's in fleet mode are left out.

        Raises FencedError when `ended` is set first, SourceError when the group may not be read.
        """
        found = await fetch_offsets(self._link, self._group_id, None, ended=ended)
        for topic in self._topics:
            await self._client.add_topic(topic)  # nothing, once it is known
        # The embedded broker answers for named partitions only.
        named = self._partitions() - found.keys()
        found |= await fetch_offsets(self._link, self._group_id, named, ended=ended)
        heads = {}
        for partition, (offset, metadata) in found.items():
            head = head_of(offset, metadata)
            if head is not None:
                heads[partition] = head
            elif self._announcer.may_say(str(partition)):
                log.warning(
                    "the offset of %s/%d in group %r was not committed in fleet mode (metadata %r)",
                    *partition,
                    self._group_id,
                    metadata[:80],
                )
        return heads

    def _partitions(self) -> set[Partition]:
        cluster = self._client.cluster
        return {
            Partition(topic, number)
            for topic in self._topics
            for number in cluster.partitions_for_topic(topic) or ()
        }

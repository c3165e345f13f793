"""Reads the heads of the agents' group, and what it reads at all, from outside of it, once a second.

The request is the fence's own OffsetFetch, with both levels of errors looked at: a coordinator that
moves or loads is asked again, and "nothing committed" is only read from an answer without an error.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from aiokafka.client import ConnectionGroup, CoordinationType

from agent.config import Kafka
from agent.ingest.announcer import Announcer
from agent.ingest.consumer import topics_of, whole_pattern
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


class Group(NamedTuple):
    """The agents' group, as it was read once.

    heads  by partition; one whose offset is not an agent's in fleet mode is left out
    there  partitions of the configured topics that the group has an offset of, or that exist. Nobody will
           ever speak again for one that is in neither: its topic was deleted, or taken out
    """

    heads: dict[Partition, Head]
    there: frozenset[Partition]


def reads(kafka: Kafka) -> Callable[[str], bool]:
    """Whether agents of this configuration read a topic, labels included."""
    if kafka.topic_pattern is not None:
        pattern = re.compile(whole_pattern(kafka, None))
        return lambda topic: pattern.match(topic) is not None
    return frozenset(topics_of(kafka)).__contains__


class HeadReader:
    """Heads of all partitions that the group has committed."""

    def __init__(self, client: Any, kafka: Kafka) -> None:
        """`client`: a started AIOKafkaClient. `kafka`: the agents' own configuration."""
        self._client = client
        self._group_id = kafka.group_id
        self._topics = frozenset(kafka.topics)  # as far as they are known by name
        self._is_read = reads(kafka)
        self._link = OutsideLink(client, kafka.group_id)
        self._announcer = Announcer(30.0)

    async def read(self, *, ended: asyncio.Event) -> Group:
        """One reading.

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
        there = frozenset(p for p in found.keys() | self._partitions() if self._is_read(p.topic))
        return Group(heads, there)

    def _partitions(self) -> set[Partition]:
        cluster = self._client.cluster
        return {
            Partition(topic, number)
            for topic in self._topics
            for number in cluster.partitions_for_topic(topic) or ()
        }

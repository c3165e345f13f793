"""Where an epoch begins to read each of its partitions.

  committed              the committed offset
  nothing in the group   the start policy (`kafka.auto_offset_reset`)
  nothing here, but elsewhere in the group      earliest: a partition that the group has not met
  committed, and the log said "out of range"    earliest; what lies between is counted and announced

A start that is not a committed one is committed before anything is read (**genesis**), so that a
crash before the first commit, or another member, finds the same start.

Members that form a new group at the same moment each find their own partitions empty, and perhaps
the genesis of the others. So a genesis carries `genesis;<generation>` as metadata, and later commits
of that generation keep it: an offset that bears our own generation's mark does not make the group
an old one.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import aiokafka.errors as kafka_errors
from aiokafka.structs import TopicPartition

from agent.config import Kafka
from agent.ingest.announcer import Announcer
from agent.ingest.consumer import raise_unauthorised
from agent.ingest.fence import Committed, CoordinatorLink, Fence, fetch_offsets, until_ended
from agent.telemetry import Telemetry
from agent.types import Partition

log = logging.getLogger(__name__)


class Why(enum.StrEnum):
    COMMITTED = "committed"
    NEW_GROUP = "new group"
    NEW_PARTITION = "new partition"
    OUT_OF_RANGE = "out of range"
    JOURNAL = "journal"


class End(enum.StrEnum):
    EARLIEST = "earliest"
    LATEST = "latest"


@dataclass(frozen=True, slots=True)
class Start:
    """`offset` is -1 until the end of the log that `end` names has been asked for."""

    why: Why
    offset: int = -1
    end: End | None = None
    genesis: str = ""


def genesis_mark(fence: Fence) -> str:
    """Metadata of a genesis commit: less than 30 bytes."""
    return f"genesis;{fence.generation}"


def choose_starts(
    wanted: Iterable[Partition],
    committed: Mapping[Partition, Committed],
    elsewhere: Iterable[Committed],
    *,
    fence: Fence,
    policy: End,
    out_of_range: Mapping[Partition, int],
) -> dict[Partition, Start]:
    """Decide for each partition. `elsewhere`: all offsets that the group has committed anywhere.

    `out_of_range`: offsets that a log has refused. It says nothing about any other offset, so it is
    of no account once the group's offset is another one.
    """
    mark = genesis_mark(fence)
    is_new_group = all(offset.metadata == mark for offset in elsewhere)
    starts: dict[Partition, Start] = {}
    for partition in sorted(wanted):
        if partition in committed:
            offset, metadata = committed[partition]
            if out_of_range.get(partition) == offset:
                starts[partition] = Start(Why.OUT_OF_RANGE, end=End.EARLIEST)
                continue
            genesis = mark if metadata == mark else ""
            starts[partition] = Start(Why.COMMITTED, offset, genesis=genesis)
        elif is_new_group:
            starts[partition] = Start(Why.NEW_GROUP, end=policy, genesis=mark)
        else:
            starts[partition] = Start(Why.NEW_PARTITION, end=End.EARLIEST, genesis=mark)
    return starts


class StartFinder:
    """Asks the group and the logs for one epoch's starts."""

    def __init__(
        self,
        kafka: Kafka,
        consumer: Any,
        fence: Fence,
        ended: asyncio.Event,
        *,
        announcer: Announcer,
        retry_s: float,
    ) -> None:
        self._kafka = kafka
        self._consumer = consumer
        self._fence = fence
        self._ended = ended
        self._announcer = announcer
        self._retry_s = retry_s

    async def find(
        self, wanted: Collection[Partition], out_of_range: Mapping[Partition, int]
    ) -> dict[Partition, Start]:
        """Committed offsets, and the ends of the log where there are none, for all of `wanted`.

        Raises FencedError when the epoch ends first, SourceError when something is not authorised.
        """
        committed = await self._committed(wanted)
        elsewhere = list(committed.values())
        if set(wanted) - committed.keys():
            # All partitions of our topics by name, and all others the group has: the embedded
            # broker answers the second question with nothing.
            elsewhere += (await self._committed(self.known_partitions())).values()
            elsewhere += (await self._committed(None)).values()
        starts = choose_starts(
            wanted,
            committed,
            elsewhere,
            fence=self._fence,
            policy=End(self._kafka.auto_offset_reset),
            out_of_range=out_of_range,
        )
        await self._fill_in_ends(starts)
        return starts

    async def _fill_in_ends(self, starts: dict[Partition, Start]) -> None:
        """Offsets of the starts that are ends of the log, in place."""
        for end in End:
            asked = [partition for partition, start in starts.items() if start.end is end]
            for partition, offset in (await self._ends(asked, end)).items():
                starts[partition] = replace(starts[partition], offset=offset)

    async def _committed(
        self, partitions: Collection[Partition] | None
    ) -> dict[Partition, Committed]:
        link = CoordinatorLink(self._consumer._coordinator)
        return await fetch_offsets(link, self._fence.group_id, partitions, ended=self._ended)

    def known_partitions(self) -> set[Partition]:
        """All partitions of the topics that are read, as the cluster's metadata name them."""
        cluster = self._consumer._client.cluster
        return {
            Partition(topic, number)
            for topic in self._consumer.subscription()
            for number in cluster.partitions_for_topic(topic) or ()
        }

    async def _ends(self, partitions: Collection[Partition], end: End) -> dict[Partition, int]:
        """First or next offset of the logs; asks until all leaders answer or the epoch ends."""
        if not partitions:
            return {}
        tps = [TopicPartition(*partition) for partition in partitions]
        ask = self._consumer.beginning_offsets
        if end is End.LATEST:
            ask = self._consumer.end_offsets
        what = f"{end} offsets"
        while True:
            try:
                offsets = await until_ended(self._ended, ask(tps), what)
            except kafka_errors.TopicAuthorizationFailedError as error:
                raise_unauthorised(error.args)
            except kafka_errors.KafkaError as error:
                if self._announcer.may_say("ends"):
                    log.warning("the %s are not known yet: %s", what, error)
                await until_ended(self._ended, asyncio.sleep(self._retry_s), what)
            else:
                return {Partition(tp.topic, tp.partition): at for tp, at in offsets.items()}


def announce_start(
    partition: Partition, start: Start, asked: int | None, telemetry: Telemetry
) -> None:
    """Say and count a start that is not the committed one; `asked`: the offset that was out of range."""
    name = f"{partition.topic}/{partition.partition}"
    if asked is None:
        log.info("%s starts at offset %d (%s, %s)", name, start.offset, start.why, start.end)
        return
    telemetry.add("inferometer.offset.resets")
    if start.offset >= asked:
        telemetry.add("inferometer.offset.lost", start.offset - asked)
        what = f"at most {start.offset - asked} records were deleted before they were read"
    else:
        what = "the log is shorter than it was: its records are counted again"
    log.warning(
        "%s: offset %d is out of range; reading goes on at %d; %s",
        name,
        asked,
        start.offset,
        what,
    )

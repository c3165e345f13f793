"""Keeps two aggregators from writing one shard's series: the shard's own group, with one member.

Invariants
 1. A batch is folded only behind `confirm`: a commit that the group accepted under the fence of the
    assignment that gave us the shard. Whoever was paused, and replaced, is refused before it folds.
 2. Having had the shard, it is only taken again when nobody else committed in between: the committed
    metadata name the run that wrote them. Otherwise this process ends.

The committed offset is the oldest record still needed, its metadata name the run and the number of chunks
that its volume holds: an aggregator whose volume is lost, set back or another's finds out by them
(`resume.py`). The member is static: a restart has the shard at once, and so would an aggregator with
another volume; hence `look`, before anybody joins.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterable
from typing import Any, Final

import aiokafka.errors as kafka_errors
import msgspec
from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.client import AIOKafkaClient
from aiokafka.structs import TopicPartition

from agent.aggregate.heads import OutsideLink
from agent.config import Config
from agent.errors import FencedError, SourceError
from agent.ingest.announcer import Announcer
from agent.ingest.connection import silence_secrets
from agent.ingest.consumer import Pace, connect, disconnect, hopeless
from agent.ingest.fence import (
    Committed,
    CoordinatorLink,
    Fence,
    GroupLink,
    InstanceFencedError,
    commit_offsets,
    fetch_offsets,
    until_ended,
)
from agent.ingest.security import client_security, reread_password_at_connect
from agent.state.heads import Head, head_of, new_id
from agent.types import Partition

log = logging.getLogger(__name__)

POLL_S: Final = 0.5
RETRY_S: Final = 0.5
#: In messages: the option that the group's name is made of.
_GROUP_OPTION: Final = "aggregate.group_id: group"
#: Asked for when nothing is to be fetched: an empty list would mean all partitions.
_NOWHERE: Final = TopicPartition("", -1)


class Guard:
    """One member of the shard's group. All methods belong to the loop."""

    def __init__(self, config: Config, *, pace: Pace | None = None) -> None:
        aggregate, kafka = config.aggregate, config.kafka
        group = aggregate.group_id or f"{kafka.group_id}-aggregate"
        self._kafka = msgspec.structs.replace(
            kafka,
            group_id=f"{group}-{aggregate.shard}",
            group_instance_id=f"shard-{aggregate.shard}",
            client_id=f"{kafka.client_id}-aggregate-{aggregate.shard}",
            topics=[],
            topic_pattern=None,
            label_topics=[],
        )
        self._topic = config.delivery.chunk_topic or ""
        self._partition = Partition(self._topic, aggregate.shard)
        self.run_id = new_id()
        self._limit_s = config.delivery.sole_member_timeout_s
        self._pace = pace or Pace()
        self._announcer = Announcer(10.0)
        self._stopping = asyncio.Event()
        self._consumer: Any = None
        self._fence: Fence | None = None  # of the assignment that gives us the shard
        self._ended = asyncio.Event()  # the fence's
        self._changed = asyncio.Event()
        self._is_known = False  # the fence: nobody else has committed since ours
        self._had_it = False
        self._elsewhere_since: float | None = None

    @property
    def group_id(self) -> str:
        return self._kafka.group_id

    @property
    def reason(self) -> str:
        """Why nothing is folded now; "" when the shard is ours."""
        if self._fence is not None:
            return ""
        if self._elsewhere_since is not None:
            return f"shard {self._partition.partition} is another member's of group {self.group_id}"
        return f"not yet a member of group {self.group_id}"

    @property
    def may_speak(self) -> bool:
        """The group has said once that the shard is ours, and nobody else has it now."""
        return self._had_it and not self.is_standby

    @property
    def is_standby(self) -> bool:
        """Another member has the shard: what we would export is not ours to say."""
        return self._elsewhere_since is not None

    # -- life

    async def run(self) -> None:
        """Stay a member until `stop`. Raises SourceError when the shard cannot be had."""
        silence_secrets()
        while not self._stopping.is_set():
            consumer = await connect(self._kafka, self._pace, self._announcer, self._stopping)
            if consumer is None:
                return
            self._consumer = consumer
            consumer.subscribe(topics=[self._topic], listener=_Listener(self, consumer))
            try:
                await self._stay(consumer)
            except kafka_errors.KafkaError as error:
                if fatal := hopeless(self._kafka, error, group_option=_GROUP_OPTION):
                    raise fatal from None
                log.warning("group %s is joined again: %s", self.group_id, error)
                await asyncio.sleep(RETRY_S)
            finally:
                self._consumer = None
                self._lose()
                await disconnect(consumer, self._pace.stop_consumer_s)

    def stop(self) -> None:
        """`run` returns soon; nothing is confirmed any more."""
        self._stopping.set()
        self._lose()

    async def _stay(self, consumer: Any) -> None:
        while not self._stopping.is_set():
            with contextlib.suppress(TimeoutError):
                # Nothing is read. It raises what aiokafka's own tasks met, and says that we live.
                async with asyncio.timeout(2 * POLL_S):
                    await consumer.getmany(_NOWHERE, timeout_ms=0)
            since = self._elsewhere_since
            if since is not None and time.monotonic() - since > self._limit_s:
                raise SourceError(
                    f"{self.reason}, not ours within delivery.sole_member_timeout_s "
                    f"({self._limit_s:g} s): one shard has one aggregator; stop the other one"
                )
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await self._stopping.wait()

    # -- assignments

    def _assigned(self, consumer: Any, assigned: Iterable[TopicPartition]) -> None:
        tps = set(assigned)
        consumer.pause(*tps)
        for tp in tps:
            consumer.seek(tp, 0)  # any valid position: the fetcher looks for none by itself
        self._lose()
        if TopicPartition(*self._partition) in tps:
            coordinator = consumer._coordinator
            self._fence = Fence(
                self.group_id,
                coordinator.generation,
                coordinator.member_id,
                self._kafka.group_instance_id,
            )
            self._elsewhere_since = None
            log.info(
                "shard %d is ours: group %s, generation %d",
                self._partition.partition,
                self.group_id,
                coordinator.generation,
            )
        else:
            if self._elsewhere_since is None:
                self._elsewhere_since = time.monotonic()
            log.warning("waiting: %s", self.reason)
        self._changed.set()

    def _lose(self) -> None:
        """The fence is of no use any more; who waits for an answer to it does not any more."""
        self._ended.set()
        self._ended = asyncio.Event()
        self._fence, self._is_known = None, False
        self._changed.set()

    # -- the one question

    async def look(self) -> Committed | None:
        """What the group has committed of the shard, asked from outside of it. Raises as `confirm`."""
        while True:
            client = AIOKafkaClient(
                bootstrap_servers=list(self._kafka.bootstrap_servers),
                client_id=f"{self._kafka.client_id}-look",
                request_timeout_ms=int(self._kafka.request_timeout_s * 1000),
                **client_security(self._kafka),
            )
            reread_password_at_connect(client, self._kafka.sasl)
            try:
                await until_ended(self._stopping, client.bootstrap(), "looking for the shard")
                return await self._ask(OutsideLink(client, self.group_id), self._stopping)
            except (kafka_errors.KafkaError, OSError, TimeoutError) as error:
                if self._announcer.may_say("look"):
                    log.warning("group %s cannot be read: %s; trying again", self.group_id, error)
            finally:
                await client.close()
            await until_ended(self._stopping, asyncio.sleep(RETRY_S), "looking for the shard")

    async def committed(self) -> Committed | None:
        """What the group has committed of the shard, once it is ours. Raises as `confirm`."""
        while True:
            _, ended = await self._wait_fence()
            with contextlib.suppress(FencedError):
                return await self._read(ended)
            self._raise_when_stopping()

    async def confirm(self, position: int, number: int) -> None:
        """Return when the group has said that the shard is ours, however long that takes.

        `position`: the oldest record still needed; `number`: of chunks folded into the volume. Raises
        FencedError when stopping, SourceError when another aggregator has taken over.
        """
        while True:
            fence, ended = await self._wait_fence()
            try:
                await self._make_sure(fence, ended)
                await self._commit(fence, ended, position, number)
            except InstanceFencedError:
                raise SourceError(
                    f"another aggregator joined group {self.group_id} as "
                    f"{self._kafka.group_instance_id!r}: one shard has one aggregator; stop the other one"
                ) from None
            except FencedError as error:
                self._raise_when_stopping()
                if self._fence is fence:
                    log.info("%s; waiting for the next assignment", error)
                    self._lose()  # the heartbeat will find out, too
            else:
                self._had_it = True
                return

    async def _wait_fence(self) -> tuple[Fence, asyncio.Event]:
        while self._fence is None:
            self._changed.clear()
            await until_ended(self._stopping, self._changed.wait(), "waiting for the shard")
        self._raise_when_stopping()
        return self._fence, self._ended

    def _raise_when_stopping(self) -> None:
        if self._stopping.is_set():
            raise FencedError("stopping")

    async def _make_sure(self, fence: Fence, ended: asyncio.Event) -> None:
        """Nobody else has committed since we did."""
        if self._had_it and not self._is_known:
            found = await self._read(ended)
            head = None if found is None else head_of(*found)
            if head is not None and head.run_id != self.run_id:
                raise SourceError(
                    f"another aggregator (run {head.run_id}) folded shard {self._partition.partition} "
                    "while this one was away: one shard has one aggregator; stop the other one"
                )
        self._is_known = self._fence is fence

    async def _read(self, ended: asyncio.Event) -> Committed | None:
        return await self._ask(self._link(), ended)

    def _link(self) -> CoordinatorLink:
        """Raises FencedError when the consumer is gone; it took the fence with it."""
        if self._consumer is None:
            raise FencedError("the assignment has ended")
        return CoordinatorLink(self._consumer._coordinator)

    async def _ask(self, link: GroupLink, ended: asyncio.Event) -> Committed | None:
        found = await fetch_offsets(
            link, self.group_id, [self._partition], ended=ended, group_option=_GROUP_OPTION
        )
        return found.get(self._partition)

    async def _commit(self, fence: Fence, ended: asyncio.Event, position: int, number: int) -> None:
        link = self._link()
        metadata = Head(self.run_id, position, self.run_id, number).metadata
        wanted = {self._partition: Committed(position, metadata)}
        while await commit_offsets(link, fence, wanted, ended=ended, group_option=_GROUP_OPTION):
            if self._announcer.may_say("refused"):
                log.warning("the offset of %s/%d is refused; tried again", *self._partition)
            await until_ended(ended, asyncio.sleep(RETRY_S), "committing the shard's offset")


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    """aiokafka swallows what a listener raises."""

    def __init__(self, guard: Guard, consumer: Any) -> None:
        self._guard = guard
        self._consumer = consumer

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        if self._guard._consumer is self._consumer:
            try:
                self._guard._assigned(self._consumer, assigned)
            except Exception:
                log.exception("the shard could not be taken over")

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        if self._guard._consumer is self._consumer:
            self._guard._lose()

"""Reads a consumer group's share of the topics, under epochs, with own positions and own commits.

Invariants
1. Nothing is handed on outside of an open epoch, and nothing of a partition the epoch does not own.
2. Every epoch starts at the committed offsets; the ranges handed on of one partition abut.
3. Nothing blocks the loop or waits for the pipeline, but the revoked callback under its budget.
4. What aiokafka would swallow (an exception in a callback, a dead task) ends `run` or restarts the
   consumer; it never goes on silently.

Tasks: aiokafka's own (heartbeats, joins, prefetch) call the listener; everything else happens inside
`run`. The assigned callback only pauses and takes the fence, so that heartbeats begin at once;
`run` then finds the start offsets, tells the pipeline and resumes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import aiokafka.errors as kafka_errors
from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.structs import TopicPartition

from agent.config import Config
from agent.errors import ConfigError, FencedError, InferometerError, SourceError
from agent.ingest.announcer import Announcer
from agent.ingest.assignment import ByteBudget, Epoch, Owned, describe
from agent.ingest.connection import silence_secrets
from agent.ingest.consumer import (
    Pace,
    connect,
    disconnect,
    hopeless,
    pause,
    raise_unauthorised,
    topics_of,
    whole_pattern,
)
from agent.ingest.fence import (
    NOTHING_COMMITTED,
    Committed,
    CoordinatorLink,
    Fence,
    InstanceFencedError,
    commit_offsets,
)
from agent.ingest.ranges import RangeMaker
from agent.ingest.starts import StartFinder, Why, announce_start
from agent.ingest.watch import look_for_topics, why_restart
from agent.telemetry import Telemetry
from agent.types import Fetch, Partition

log = logging.getLogger(__name__)

OnAssigned = Callable[[int, dict[Partition, int]], None]
OnFetch = Callable[[Fetch], None]
OnRevoked = Callable[[int, float], Awaitable[None]]

#: Asked for when no partition may be read: an empty list would mean all of them.
_NOWHERE = TopicPartition("", -1)
_PACE = Pace()


class KafkaSource:
    """The agent's consumer group member.

    Memory: `kafka.buffer_max_bytes` handed on, and one prefetched answer a partition. All methods
    belong to the loop's thread. Raises ConfigError and SourceError with the option and the next step.
    """

    def __init__(
        self,
        config: Config,
        *,
        on_assigned: OnAssigned,
        on_fetch: OnFetch,
        on_revoked: OnRevoked,
        telemetry: Telemetry,
        pace: Pace = _PACE,
    ) -> None:
        """
        on_assigned   epoch and start offsets; before the first record of the epoch, from `run`
        on_fetch      one range of one partition; must not block
        on_revoked    epoch and budget in seconds; the epoch admits nothing more, and may still be
                      committed until this returns. Called once for each epoch that was assigned
        """
        self._kafka = config.kafka
        self._pattern = whole_pattern(config.kafka, config.decode.dead_letter_topic)
        self._on_assigned = on_assigned
        self._on_revoked = on_revoked
        self._telemetry = telemetry
        self._pace = pace
        self._revoke_budget_s = config.kafka.rebalance_timeout_s / 3
        self._consumer: Any = None
        self._epoch: Epoch | None = None
        self._number = 0
        self._budget = ByteBudget(config.kafka.buffer_max_bytes)
        self._ranges = RangeMaker(
            config.kafka,
            on_fetch,
            self._budget,
            telemetry,
            corrupt_attempts=pace.corrupt_attempts,
        )
        self._announcer = Announcer(pace.announce_s)
        self._ahead: set[Partition] = set()
        self._ready: tuple[TopicPartition, ...] = (_NOWHERE,)
        self._joined = False
        self._stopping = asyncio.Event()
        self._failure: InferometerError | None = None
        self._poll_scope: asyncio.Timeout | None = None
        self._commit_lock = asyncio.Lock()
        self._out_of_range: dict[Partition, int] = {}
        self._restarts = 0
        self._house_at = 0.0

    # -- what others see

    @property
    def joined(self) -> bool:
        """The group has given this member its share, which may be nothing."""
        return self._joined

    @property
    def standby(self) -> bool:
        """Joined, and the share is nothing: there are more members than partitions."""
        return self._joined and self._epoch is not None and not self._epoch.assigned

    @property
    def epoch(self) -> int:
        """Number of the latest assignment; 0 before the first."""
        return self._number

    def positions(self) -> list[dict[str, Any]]:
        """Where each owned partition stands, for `/v1/state`."""
        return describe(self._epoch.owned.values()) if self._epoch is not None else []

    # -- life

    async def start(self) -> None:
        """Connect, however long the brokers are away, and ask to join. Returns early on `stop_fetching`.

        Raises ConfigError and SourceError when waiting cannot help.
        """
        if not (self._kafka.topics or self._kafka.topic_pattern):
            raise ConfigError(
                "kafka.topics is empty; name the topics with inference events, or set kafka.topic_pattern"
            )
        silence_secrets()
        await self._connect()

    async def run(self) -> None:
        """Fetch until `stop_fetching`. Raises SourceError when the source cannot go on."""
        while not self._stopping.is_set():
            if self._failure is not None:
                raise self._failure
            epoch = self._epoch
            if epoch is not None and not (epoch.positioned or epoch.refused or epoch.closing):
                await self._position(epoch)
                continue
            await self._poll()
            if time.monotonic() >= self._house_at:
                self._house_at = time.monotonic() + self._pace.house_s
                await self._keep_house()

    def stop_fetching(self) -> None:
        """Let `run` return; the member stays in the group, and its epoch may still be committed."""
        self._stopping.set()
        if self._epoch is not None and not self._epoch.positioned:
            self._epoch.ended.set()  # nothing was read under it, and it may be waiting for a broker
        self._wake()

    async def stop(self, timeout_s: float) -> None:
        """Leave the group (static members stay until their session ends) and close all connections."""
        self.stop_fetching()
        if self._epoch is not None:
            self._epoch.closing = True
            self._epoch.ended.set()
        await self._disconnect(timeout_s)
        self._epoch = None

    # -- commits

    async def commit(
        self, epoch: int, offsets: Mapping[Partition, int], metadata: str = ""
    ) -> dict[Partition, str]:
        """Commit under the epoch's fence; the same bytes again until accepted, refused, or it ends.

        Returns the partitions that were refused alone, with the reason; the others are committed.
        Raises FencedError when nothing of this epoch may be committed any more, SourceError.
        """
        async with self._commit_lock:  # two at once could arrive in the other order
            current = self._epoch
            if current is None or current.number != epoch or current.ended.is_set():
                raise FencedError(f"epoch {epoch} has ended; nothing of it may be committed")
            if current.refused:
                raise FencedError(f"epoch {epoch} was refused; nothing of it may be committed")
            wanted = {
                partition: Committed(offset, metadata or current.owned[partition].genesis)
                for partition, offset in offsets.items()
                if partition in current.owned
            }
            return await self._commit(current, wanted)

    async def _commit(
        self, epoch: Epoch, wanted: Mapping[Partition, Committed]
    ) -> dict[Partition, str]:
        if self._consumer is None:
            raise FencedError(f"epoch {epoch.number} ended: the consumer is gone")
        link = CoordinatorLink(self._consumer._coordinator)
        try:
            refused = await commit_offsets(link, epoch.fence, wanted, ended=epoch.ended)
        except FencedError as error:
            self._telemetry.add("inferometer.commits", outcome="fenced")
            if not epoch.ended.is_set():
                epoch.refused = True  # the heartbeat will find out, and ask for a new assignment
            if isinstance(error, InstanceFencedError):
                self._fail(
                    SourceError(
                        f"kafka.group_instance_id {epoch.fence.group_instance_id!r} is used by "
                        "another agent of this group; give each agent its own"
                    )
                )
            raise
        except SourceError:
            self._telemetry.add("inferometer.commits", outcome="failed")
            raise
        self._telemetry.add("inferometer.commits", outcome="refused" if refused else "accepted")
        for partition, (offset, _) in wanted.items():
            if partition not in refused and (owned := epoch.owned.get(partition)):
                owned.committed = offset
        if refused and self._announcer.may_say("refused"):
            some = ", ".join(f"{p.topic}/{p.partition}: {why}" for p, why in refused.items())
            log.warning("offsets refused for some partitions, the others are committed: %s", some)
        return refused

    # -- back-pressure

    def release(self, size_bytes: int) -> None:
        """Give back the bytes of a fetch (`Fetch.size_bytes`)."""
        was_full = self._budget.full
        self._budget.release(size_bytes)
        if was_full and not self._budget.full:
            self._pause_as_needed()

    def set_ahead(self, partitions: Iterable[Partition]) -> None:
        """Do not read these for now: they are too far ahead of the others in event time."""
        ahead = set(partitions)
        if ahead != self._ahead:
            self._ahead = ahead
            self._pause_as_needed()

    def _pause_as_needed(self) -> None:
        epoch = self._epoch
        if epoch is None or self._consumer is None or not epoch.admits:
            return
        if not epoch.assigned <= self._consumer.assignment():
            return
        now = time.monotonic()
        ready = []
        for owned in epoch.owned.values():
            why = "ahead" if owned.partition in self._ahead else ""
            if self._budget.full:
                why = "buffer"
            if why and not owned.paused:
                self._consumer.pause(owned.tp)
            elif owned.paused and not why:
                owned.progressed_at = now
                self._consumer.resume(owned.tp)
            owned.paused = why
            if not why:
                ready.append(owned.tp)
        before = self._ready
        # Partitions that are not asked for keep what is prefetched; a paused one asked for loses it.
        self._ready = tuple(ready) or (_NOWHERE,)
        if set(self._ready) - set(before):
            self._wake()

    # -- connection

    async def _connect(self) -> None:
        consumer = await connect(self._kafka, self._pace, self._announcer, self._stopping)
        if consumer is None:
            return
        self._consumer = consumer
        listener = _Listener(self, consumer)
        if self._pattern:
            consumer.subscribe(pattern=self._pattern, listener=listener)
        else:
            consumer.subscribe(topics=topics_of(self._kafka), listener=listener)
        log.info(
            "connected to Kafka; joining group %r (topics: %s)",
            self._kafka.group_id,
            self._kafka.topic_pattern or ", ".join(topics_of(self._kafka)),
        )

    async def _disconnect(self, timeout_s: float) -> None:
        consumer, self._consumer = self._consumer, None
        self._joined = False
        if consumer is not None:
            await disconnect(consumer, timeout_s)

    async def _restart(self, why: str) -> None:
        """Replace a consumer that does not work, under a new epoch."""
        log.warning("the Kafka consumer is restarted: %s", why)
        self._telemetry.add("inferometer.consumer.restarts")
        if self._epoch is not None:
            await self._close_epoch(self._epoch)
        await self._disconnect(self._pace.stop_consumer_s)
        pause_s = min(self._pace.reconnect_s * 2**self._restarts, self._pace.reconnect_max_s)
        self._restarts = min(self._restarts + 1, 16)
        await pause(self._stopping, pause_s)
        await self._connect()

    # -- epochs

    def _begin_epoch(self, assigned: Iterable[TopicPartition]) -> None:
        """Synchronous: pause, number, fence. The first statement keeps anything from being read."""
        consumer = self._consumer
        tps = frozenset(assigned)
        consumer.pause(*tps)
        for tp in tps:
            # Any valid position: without one the fetcher would look for one by itself.
            consumer.seek(tp, 0)
        self._number += 1
        self._epoch = Epoch(self._number, self._fence(), tps)
        self._ready = (_NOWHERE,)
        self._joined = True
        self._telemetry.add("inferometer.rebalances")
        self._wake()

    def _fence(self) -> Fence:
        coordinator = self._consumer._coordinator
        return Fence(
            self._kafka.group_id,
            coordinator.generation,
            coordinator.member_id,
            self._kafka.group_instance_id,
        )

    async def _close_epoch(self, epoch: Epoch) -> None:
        """Admit nothing more, let the pipeline cut and commit under the budget, end. Never raises."""
        if epoch.closing:
            await epoch.ended.wait()
            return
        epoch.closing = True
        self._ready = (_NOWHERE,)
        try:
            if epoch.positioned:
                async with asyncio.timeout(self._revoke_budget_s):
                    await self._on_revoked(epoch.number, self._revoke_budget_s)
        except TimeoutError:
            log.warning(
                "the hand-over of epoch %d took more than %.1f s (a third of "
                "kafka.rebalance_timeout_s); rows since the last commit will be read again",
                epoch.number,
                self._revoke_budget_s,
            )
        except InferometerError as error:
            log.warning("the hand-over of epoch %d was cut short: %s", epoch.number, error)
        except Exception as error:
            log.exception("the revoked callback failed")
            self._fail(SourceError(f"the hand-over of epoch {epoch.number} failed: {error!r}"))
        finally:
            epoch.ended.set()
            for owned in epoch.owned.values():
                topic, partition = owned.partition
                self._telemetry.end(
                    "messaging.kafka.consumer.lag", topic=topic, partition=partition
                )
            if self._epoch is epoch:
                self._epoch = None

    async def _roll_over(self) -> None:
        """End the epoch and begin another on the same assignment, without a rebalance."""
        epoch, consumer = self._epoch, self._consumer
        if epoch is None:
            return
        await self._close_epoch(epoch)
        unchanged = consumer is self._consumer and self._fence() == epoch.fence
        rebalancing = consumer._subscription.reassignment_in_progress
        if self._epoch is None and unchanged and not rebalancing:
            self._begin_epoch(epoch.assigned)

    async def _position(self, epoch: Epoch) -> None:
        """Find where to read, commit the starts that are new, tell the pipeline, resume."""
        consumer = self._consumer
        finder = StartFinder(
            self._kafka,
            consumer,
            epoch.fence,
            epoch.ended,
            announcer=self._announcer,
            retry_s=self._pace.reconnect_s,
        )
        wanted = {Partition(tp.topic, tp.partition) for tp in epoch.assigned}
        try:
            starts = await finder.find(wanted, self._out_of_range)
            genesis = {
                partition: Committed(start.offset, start.genesis)
                for partition, start in starts.items()
                if start.why is not Why.COMMITTED
            }
            for partition in genesis:
                asked = self._out_of_range.get(partition)
                announce_start(partition, starts[partition], asked, self._telemetry)
            if genesis:
                async with self._commit_lock:
                    for partition in await self._commit(epoch, genesis):
                        del genesis[partition]
        except FencedError as error:
            log.info("epoch %d ended before it began: %s", epoch.number, error)
            return
        if epoch.closing or self._stopping.is_set():
            return
        assignment = consumer._subscription.subscription.assignment
        now = time.monotonic()
        for tp in epoch.assigned:
            partition = Partition(tp.topic, tp.partition)
            start = starts[partition]
            is_committed = start.why is Why.COMMITTED or partition in genesis
            consumer.seek(tp, start.offset)
            epoch.owned[partition] = Owned(
                partition=partition,
                tp=tp,
                state=assignment.state_value(tp),
                next_offset=start.offset,
                committed=start.offset if is_committed else NOTHING_COMMITTED,
                genesis=start.genesis,
                is_label_topic=tp.topic in self._kafka.label_topics,
                progressed_at=now,
                paused="assigned",
            )
            self._out_of_range.pop(partition, None)
        epoch.positioned = True
        log.info(
            "epoch %d: generation %d, %d partitions",
            epoch.number,
            epoch.fence.generation,
            len(epoch.owned),
        )
        self._on_assigned(epoch.number, {p: owned.next_offset for p, owned in epoch.owned.items()})
        self._pause_as_needed()

    # -- records

    async def _poll(self) -> None:
        """Hand on what has been fetched; waits at most `poll_s`, or until woken."""
        consumer, epoch = self._consumer, self._epoch
        if consumer is None:
            return
        fetched: dict[TopicPartition, list[Any]] = {}
        try:
            # getmany waits without its own limit during a rebalance. A cancelled getmany has not
            # taken anything out of the buffers: it takes and returns without waiting in between.
            async with asyncio.timeout(self._pace.poll_s * 2) as self._poll_scope:
                fetched = await consumer.getmany(
                    *self._ready,
                    timeout_ms=int(self._pace.poll_s * 1000),
                    max_records=self._pace.max_records,
                )
        except TimeoutError:
            pass
        except kafka_errors.KafkaError as error:
            await self._handle(error)
            return
        finally:
            self._poll_scope = None
        if epoch is None or epoch is not self._epoch or not epoch.admits:
            return
        for tp, items in fetched.items():
            owned = epoch.owned.get(Partition(tp.topic, tp.partition))
            if owned is not None:
                self._ranges.hand_on(consumer, epoch, owned, items)
        for owned in epoch.owned.values():
            self._ranges.hand_on_progress(epoch, owned)
        if self._budget.full:
            self._pause_as_needed()
        if fetched:
            self._restarts = 0
            await asyncio.sleep(0)  # getmany does not suspend while it has records

    def _wake(self) -> None:
        """End the current wait for records."""
        if self._poll_scope is not None:
            with contextlib.suppress(RuntimeError):  # it has just ended
                self._poll_scope.reschedule(asyncio.get_running_loop().time())

    # -- trouble

    async def _handle(self, error: kafka_errors.KafkaError) -> None:
        """What `getmany` raised: own errors of partitions, and what the background tasks left."""
        self._seek_back()
        match error:
            case kafka_errors.OffsetOutOfRangeError():
                await self._out_of_range_at(error.args[0])
            case kafka_errors.TopicAuthorizationFailedError():
                raise_unauthorised(error.args)
            case kafka_errors.NoOffsetForPartitionError():
                pass  # the fetcher was quicker than the assigned callback's seek
            case _:
                if fatal := hopeless(self._kafka, error):
                    raise fatal from None
                await self._restart(f"{type(error).__name__}: {error}")

    def _seek_back(self) -> None:
        """After an error: what was taken out of the buffers and not handed on is read again."""
        epoch = self._epoch
        if epoch is None or not epoch.admits:
            return
        for owned in epoch.owned.values():
            if owned.position() != owned.next_offset and owned.tp in self._consumer.assignment():
                self._consumer.seek(owned.tp, owned.next_offset)

    async def _out_of_range_at(self, offsets: Mapping[TopicPartition, int]) -> None:
        epoch = self._epoch
        if epoch is None or not epoch.admits:
            return
        for tp, offset in offsets.items():
            owned = epoch.owned.get(Partition(tp.topic, tp.partition))
            if owned is not None and owned.next_offset == offset:
                self._out_of_range[owned.partition] = offset
        if self._out_of_range:
            await self._roll_over()

    async def _keep_house(self) -> None:
        """Gauges, topics that do not exist, and the watchdog; about once a second."""
        if self._consumer is None:
            return
        owned = list(self._epoch.owned.values()) if self._epoch is not None else []
        for one in owned:
            one.high_watermark = self._ranges.end_of(one)
            if one.high_watermark >= 0:
                topic, partition = one.partition
                self._telemetry.set(
                    "messaging.kafka.consumer.lag",
                    one.lag(),
                    topic=topic,
                    partition=partition,
                    group=self._kafka.group_id,
                )
        for why in ("buffer", "ahead"):
            n = sum(one.paused == why for one in owned)
            self._telemetry.set("inferometer.paused", n, reason=why)
        look_for_topics(self._kafka, self._consumer, self._announcer)
        reason = await why_restart(self._kafka, self._consumer, owned, self._pace.stalled_s)
        if reason is not None:
            await self._restart(reason)

    def _fail(self, error: InferometerError) -> None:
        """Let `run` raise this."""
        if self._failure is None:
            self._failure = error
        self._wake()


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    """aiokafka swallows what a listener raises, so nothing may come out of here unseen."""

    def __init__(self, source: KafkaSource, consumer: Any) -> None:
        self._source = source
        self._consumer = consumer

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        source = self._source
        if source._consumer is not self._consumer:
            return
        try:
            source._begin_epoch(assigned)
        except Exception as error:
            log.exception("the assigned callback failed")
            source._fail(SourceError(f"an assignment could not be taken over: {error!r}"))

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        source = self._source
        if source._consumer is self._consumer and source._epoch is not None:
            await source._close_epoch(source._epoch)

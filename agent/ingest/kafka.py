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

What is switched off in aiokafka: auto commit, reset of positions, leaving the group when idle
(`max_poll_interval_ms`: a paused agent is not dead; the watchdog here looks at progress instead).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import aiokafka.errors as kafka_errors
from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.structs import TopicPartition

from agent.config import Config
from agent.errors import ConfigError, FencedError, InferometerError, SourceError
from agent.ingest.assignment import ByteBudget, Epoch, Owned, describe, size_of
from agent.ingest.batches import CorruptRange, ToleratingConsumer
from agent.ingest.connection import Outlook, find_trouble, silence_secrets
from agent.ingest.fence import (
    NOTHING_COMMITTED,
    Committed,
    CoordinatorLink,
    Fence,
    InstanceFencedError,
    commit_offsets,
    fetch_offsets,
)
from agent.ingest.security import client_security, reread_password_at_connect
from agent.ingest.starts import End, Start, Why, choose_starts
from agent.telemetry import Telemetry
from agent.types import Drop, Fetch, Partition, Record

log = logging.getLogger(__name__)

OnAssigned = Callable[[int, dict[Partition, int]], None]
OnFetch = Callable[[Fetch], None]
OnRevoked = Callable[[int, float], Awaitable[None]]

#: Asked for when no partition may be read: an empty list would mean all of them.
_NOWHERE = TopicPartition("", -1)
_NO_GENERATION = -1
_NO_IDLE_LIMIT_MS = 24 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class Pace:
    """Intervals and limits that are no options; tests shorten them."""

    poll_s: float = 0.2  # longest wait for records
    max_records: int = 2048  # of one `getmany`: about 2 ms of the loop
    house_s: float = 1.0  # gauges, missing topics, watchdog
    metadata_max_age_s: float = 30.0  # new partitions and topics are seen this soon
    stalled_s: float = 60.0  # behind the log without progress: restart the consumer
    announce_s: float = 30.0  # a lasting state is said again
    reconnect_s: float = 0.5  # first pause between connection attempts; doubles
    reconnect_max_s: float = 10.0
    suspect_attempts: int = 5  # in a row; then settings are taken to be wrong
    corrupt_attempts: int = 3  # reads of a damaged batch before it is given up
    stop_consumer_s: float = 5.0  # when the watchdog replaces it


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
        pace: Pace = Pace(),
    ) -> None:
        """
        on_assigned   epoch and start offsets; before the first record of the epoch, from `run`
        on_fetch      one range of one partition; must not block
        on_revoked    epoch and budget in seconds; the epoch admits nothing more, and may still be
                      committed until this returns. Called once for each epoch that was assigned
        """
        self._kafka = config.kafka
        self._excluded = config.decode.dead_letter_topic
        self._on_assigned = on_assigned
        self._on_fetch = on_fetch
        self._on_revoked = on_revoked
        self._telemetry = telemetry
        self._pace = pace
        self._revoke_budget_s = config.kafka.rebalance_timeout_s / 3
        self._consumer: Any = None
        self._epoch: Epoch | None = None
        self._number = 0
        self._budget = ByteBudget(config.kafka.buffer_max_bytes)
        self._ahead: set[Partition] = set()
        self._ready: tuple[TopicPartition, ...] = (_NOWHERE,)
        self._joined = False
        self._stopping = asyncio.Event()
        self._failure: InferometerError | None = None
        self._poll_scope: asyncio.Timeout | None = None
        self._commit_lock = asyncio.Lock()
        self._out_of_range: dict[Partition, int] = {}
        self._corrupt_seen: dict[tuple[Partition, int], int] = {}
        self._restarts = 0
        self._house_at = 0.0
        self._said_at: dict[str, float] = {}

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
        _pattern(self._kafka.topic_pattern, (), None)
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
        self._wake()

    async def stop(self, timeout_s: float) -> None:
        """Leave the group (static members stay until their session ends) and close all connections."""
        self.stop_fetching()
        if self._epoch is not None:
            self._epoch.closing = True
            self._epoch.ended.set()
        await self._drop_consumer(timeout_s)
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
            if self._consumer is None or current.refused:
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
        if refused and self._may_say("refused"):
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
        if epoch is None or self._consumer is None or not epoch.positioned:
            return
        if epoch.ended.is_set() or not epoch.assigned <= self._consumer.assignment():
            return
        now = time.monotonic()
        ready = []
        for owned in epoch.owned.values():
            if epoch.closing:
                why = "revoked"
            elif self._budget.full:
                why = "buffer"
            else:
                why = "ahead" if owned.partition in self._ahead else ""
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
        """Bring up a consumer and subscribe; waits for the brokers as long as it takes."""
        pause_s = self._pace.reconnect_s
        suspects = 0
        while not self._stopping.is_set():
            security = client_security(self._kafka)
            consumer = self._build(security)
            try:
                await consumer.start()
            except (kafka_errors.KafkaError, OSError, TimeoutError) as error:
                await _quietly(consumer.stop())
                trouble = await find_trouble(self._kafka, security)
                suspects = suspects + 1 if trouble and trouble.outlook is Outlook.SUSPECT else 0
                message = trouble.message if trouble else str(error)
                if trouble and trouble.outlook is Outlook.HOPELESS:
                    raise SourceError(message) from None
                if suspects >= self._pace.suspect_attempts:
                    raise SourceError(f"{message} ({suspects} attempts)") from None
                if self._may_say(f"connect: {message}"):
                    log.warning("waiting for Kafka: %s; trying again", message)
            else:
                self._consumer = consumer
                self._subscribe(consumer)
                log.info(
                    "connected to Kafka; joining group %r (topics: %s)",
                    self._kafka.group_id,
                    self._kafka.topic_pattern or ", ".join(self._topics()),
                )
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._stopping.wait()
            pause_s = min(pause_s * 2, self._pace.reconnect_max_s)

    def _build(self, security: Mapping[str, Any]) -> Any:
        kafka = self._kafka
        # A join is answered when all members have come, so its limit is above theirs.
        request_s = max(kafka.request_timeout_s, kafka.rebalance_timeout_s + 5)
        consumer = ToleratingConsumer(
            bootstrap_servers=list(kafka.bootstrap_servers),
            client_id=kafka.client_id,
            group_id=kafka.group_id,
            group_instance_id=kafka.group_instance_id,
            client_rack=kafka.client_rack,
            isolation_level=kafka.isolation_level,
            enable_auto_commit=False,
            auto_offset_reset="none",
            check_crcs=True,
            session_timeout_ms=int(kafka.session_timeout_s * 1000),
            heartbeat_interval_ms=int(kafka.heartbeat_interval_s * 1000),
            rebalance_timeout_ms=int(kafka.rebalance_timeout_s * 1000),
            request_timeout_ms=int(request_s * 1000),
            fetch_max_bytes=kafka.fetch_max_bytes,
            max_partition_fetch_bytes=kafka.fetch_max_partition_bytes,
            fetch_max_wait_ms=int(kafka.fetch_max_wait_s * 1000),
            metadata_max_age_ms=int(self._pace.metadata_max_age_s * 1000),
            max_poll_interval_ms=_NO_IDLE_LIMIT_MS,
            **security,
        )
        reread_password_at_connect(consumer._client, kafka.sasl)
        return consumer

    def _subscribe(self, consumer: Any) -> None:
        listener = _Listener(self, consumer)
        kafka = self._kafka
        if kafka.topic_pattern:
            pattern = _pattern(kafka.topic_pattern, kafka.label_topics, self._excluded)
            consumer.subscribe(pattern=pattern, listener=listener)
        else:
            consumer.subscribe(topics=self._topics(), listener=listener)

    def _topics(self) -> list[str]:
        return list(dict.fromkeys([*self._kafka.topics, *self._kafka.label_topics]))

    async def _drop_consumer(self, timeout_s: float) -> None:
        consumer, self._consumer = self._consumer, None
        self._joined = False
        if consumer is None:
            return
        try:
            async with asyncio.timeout(timeout_s):
                await consumer.stop()
        except (TimeoutError, kafka_errors.KafkaError, OSError) as error:
            log.warning(
                "the consumer did not stop in %.1f s (%s); it is cut off, and the group notices after "
                "kafka.session_timeout_s",
                timeout_s,
                error or "no answer",
            )
            await _cut_off(consumer)

    async def _restart(self, why: str) -> None:
        """Replace a consumer that does not work, under a new epoch."""
        log.warning("the Kafka consumer is restarted: %s", why)
        self._telemetry.add("inferometer.consumer.restarts")
        if self._epoch is not None:
            await self._close_epoch(self._epoch)
        await self._drop_consumer(self._pace.stop_consumer_s)
        pause_s = min(self._pace.reconnect_s * 2**self._restarts, self._pace.reconnect_max_s)
        self._restarts = min(self._restarts + 1, 16)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._stopping.wait()
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
        try:
            starts = await self._find_starts(epoch)
            genesis = {
                partition: Committed(start.offset, start.genesis)
                for partition, start in starts.items()
                if start.why is not Why.COMMITTED
            }
            if genesis:
                async with self._commit_lock:
                    refused = await self._commit(epoch, genesis)
                genesis = {p: at for p, at in genesis.items() if p not in refused}
        except FencedError as error:
            log.info("epoch %d ended before it began: %s", epoch.number, error)
            return
        if epoch.closing or self._stopping.is_set():
            return
        assignment = self._consumer._subscription.subscription.assignment
        now = time.monotonic()
        for tp in epoch.assigned:
            partition = Partition(tp.topic, tp.partition)
            start = starts[partition]
            is_committed = start.why is Why.COMMITTED or partition in genesis
            self._consumer.seek(tp, start.offset)
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

    async def _find_starts(self, epoch: Epoch) -> dict[Partition, Start]:
        """Committed offsets, and the ends of the log where there are none. Raises FencedError."""
        group, ended = self._kafka.group_id, epoch.ended
        link = CoordinatorLink(self._consumer._coordinator)
        wanted = {Partition(tp.topic, tp.partition) for tp in epoch.assigned}
        committed = await fetch_offsets(link, group, wanted, ended=ended)
        elsewhere: list[Committed] = list(committed.values())
        if wanted - committed.keys():
            # All partitions of our topics by name, and all others the group has: the embedded
            # broker answers the second question with nothing.
            elsewhere += (
                await fetch_offsets(link, group, self._known_partitions(), ended=ended)
            ).values()
            elsewhere += (await fetch_offsets(link, group, None, ended=ended)).values()
        starts = choose_starts(
            wanted,
            committed,
            elsewhere,
            fence=epoch.fence,
            policy=End(self._kafka.auto_offset_reset),
            out_of_range=self._out_of_range,
        )
        for end in End:
            asked = {p for p, start in starts.items() if start.end is end}
            for partition, offset in (await self._ends(epoch, asked, end)).items():
                start = starts[partition]
                starts[partition] = Start(start.why, offset, end, start.genesis)
                self._announce_start(partition, starts[partition])
        return starts

    def _known_partitions(self) -> set[Partition]:
        cluster = self._consumer._client.cluster
        return {
            Partition(topic, number)
            for topic in self._consumer.subscription()
            for number in cluster.partitions_for_topic(topic) or ()
        }

    async def _ends(
        self, epoch: Epoch, partitions: set[Partition], end: End
    ) -> dict[Partition, int]:
        """First or next offset of the logs; asks until all leaders answer or the epoch ends."""
        if not partitions:
            return {}
        tps = [TopicPartition(*partition) for partition in partitions]
        consumer = self._consumer
        while not epoch.ended.is_set():
            ask = consumer.beginning_offsets if end is End.EARLIEST else consumer.end_offsets
            try:
                offsets = await ask(tps)
            except kafka_errors.TopicAuthorizationFailedError as error:
                _raise_unauthorised(error)
            except kafka_errors.KafkaError as error:
                if self._may_say("ends"):
                    log.warning("the %s offsets are not known yet: %s", end, error)
                await asyncio.sleep(self._pace.reconnect_s)
            else:
                return {Partition(tp.topic, tp.partition): at for tp, at in offsets.items()}
        raise FencedError(f"epoch {epoch.number} ended while its offsets were looked up")

    def _announce_start(self, partition: Partition, start: Start) -> None:
        name = f"{partition.topic}/{partition.partition}"
        if start.why is not Why.OUT_OF_RANGE:
            log.info("%s starts at offset %d (%s, %s)", name, start.offset, start.why, start.end)
            return
        asked = self._out_of_range[partition]
        self._telemetry.add("inferometer.offset.resets")
        if start.offset >= asked:
            self._telemetry.add("inferometer.offset.lost", start.offset - asked)
            what = f"up to {start.offset - asked} records were deleted before they were read"
        else:
            what = "the log is shorter than it was: its records are counted again"
        log.warning(
            "%s: offset %d is out of range; reading goes on at %d; %s",
            name,
            asked,
            start.offset,
            what,
        )

    # -- records

    async def _poll(self) -> None:
        """Hand on what has been fetched; waits at most `poll_s`, or until woken."""
        consumer, epoch = self._consumer, self._epoch
        if consumer is None:
            return
        fetched: dict[TopicPartition, list[Record | CorruptRange]] = {}
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
                self._hand_on(epoch, owned, items)
        for owned in epoch.owned.values():
            self._hand_on_progress(epoch, owned)
        if self._budget.full:
            self._pause_as_needed()
        if fetched:
            await asyncio.sleep(0)  # getmany does not suspend while it has records

    def _wake(self) -> None:
        """End the current wait for records."""
        if self._poll_scope is not None:
            with contextlib.suppress(RuntimeError):  # it has just ended
                self._poll_scope.reschedule(asyncio.get_running_loop().time())

    def _hand_on(self, epoch: Epoch, owned: Owned, items: list[Any]) -> None:
        """Records of one partition, in offset order, with damaged ranges in their places."""
        corrupt = [i for i, item in enumerate(items) if type(item) is CorruptRange]
        n_corrupt = 0
        for index in corrupt:
            damage: CorruptRange = items[index]
            seen = self._corrupt_seen.get((owned.partition, damage.offset), 0) + 1
            if seen < self._pace.corrupt_attempts:
                # It may be the wire and not the disk: read it again, with all behind it.
                self._corrupt_seen[owned.partition, damage.offset] = seen
                self._put(epoch, owned, _records(items[:index]), damage.offset, n_corrupt)
                self._consumer.seek(owned.tp, damage.offset)
                return
            self._corrupt_seen.pop((owned.partition, damage.offset), None)
            n_corrupt += self._give_up(owned, damage)
        to_offset = owned.position()
        high_watermark = self._end_of(owned)
        if corrupt and type(items[-1]) is CorruptRange and 0 <= high_watermark < to_offset:
            # A damaged header may claim anything; the log ends where the broker says it does.
            to_offset = max(high_watermark, items[-1].offset + 1)
            self._consumer.seek(owned.tp, to_offset)
        records = _records(items) if corrupt else items
        if records:
            to_offset = max(to_offset, records[-1].offset + 1)
        self._put(epoch, owned, records, to_offset, n_corrupt)

    def _give_up(self, owned: Owned, damage: CorruptRange) -> int:
        to_offset = damage.to_offset
        if (end := self._end_of(owned)) >= 0:
            to_offset = max(min(to_offset, end), damage.offset + 1)
        n = to_offset - damage.offset
        log.warning(
            "%s/%d: offsets %d to %d cannot be read (%s): at most %d records dropped as %s",
            *owned.partition,
            damage.offset,
            to_offset - 1,
            damage.why,
            n,
            Drop.CORRUPT_BATCH,
        )
        return n

    def _hand_on_progress(self, epoch: Epoch, owned: Owned) -> None:
        """A range without records: transaction markers, compacted offsets, or the end of the log."""
        position = owned.position()
        if position > owned.next_offset or (not owned.told_watermark and self._end_of(owned) >= 0):
            self._put(epoch, owned, [], max(position, owned.next_offset), 0)

    def _put(
        self, epoch: Epoch, owned: Owned, records: list[Record], to_offset: int, n_corrupt: int
    ) -> None:
        values_bytes, size_bytes = size_of(records)
        owned.high_watermark = self._end_of(owned)
        owned.told_watermark = owned.high_watermark >= 0
        fetch = Fetch(
            epoch=epoch.number,
            partition=owned.partition,
            from_offset=owned.next_offset,
            to_offset=to_offset,
            records=records,
            high_watermark=owned.high_watermark,
            size_bytes=size_bytes,
            is_label_topic=owned.is_label_topic,
            n_corrupt=n_corrupt,
        )
        owned.next_offset = to_offset
        owned.progressed_at = time.monotonic()
        self._restarts = 0
        self._budget.reserve(size_bytes)
        if records:
            topic, partition = owned.partition
            self._telemetry.add("inferometer.fetch.bytes", values_bytes)
            self._telemetry.add(
                "messaging.client.consumed.messages",
                len(records),
                topic=topic,
                partition=partition,
                group=self._kafka.group_id,
            )
        self._on_fetch(fetch)

    def _end_of(self, owned: Owned) -> int:
        """End of what may be read: the high watermark, or the last stable offset; -1 unknown."""
        end = owned.state.highwater
        if end is None:
            return owned.high_watermark
        stable = owned.state.lso
        if self._kafka.isolation_level == "read_committed" and stable is not None and stable >= 0:
            end = min(end, stable)
        return int(end)

    # -- trouble

    async def _handle(self, error: kafka_errors.KafkaError) -> None:
        """What `getmany` raised: own errors of partitions, and what the background tasks left."""
        self._seek_back()
        match error:
            case kafka_errors.OffsetOutOfRangeError():
                await self._out_of_range_at(error.args[0])
            case kafka_errors.TopicAuthorizationFailedError():
                _raise_unauthorised(error)
            case kafka_errors.NoOffsetForPartitionError():
                pass  # the fetcher was quicker than the assigned callback's seek
            case _:
                if fatal := _hopeless(self._kafka, error):
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
            one.high_watermark = self._end_of(one)
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
        self._look_for_topics()
        await self._watch_progress(owned)

    def _look_for_topics(self) -> None:
        client = self._consumer._client
        subscribed = self._consumer.subscription()
        wanted = set(subscribed if self._kafka.topic_pattern else self._topics())
        if denied := wanted & set(client.cluster.unauthorized_topics):
            _raise_unauthorised(kafka_errors.TopicAuthorizationFailedError(*sorted(denied)))
        missing = sorted(t for t in wanted if not client.cluster.partitions_for_topic(t))
        if self._kafka.topic_pattern and not subscribed:
            missing = [f"(none matches {self._kafka.topic_pattern!r})"]
        if not missing:
            self._said_at.pop("topics", None)
        elif self._may_say("topics"):
            log.warning(
                "waiting for topics that do not exist: %s; create them, or correct kafka.topics",
                ", ".join(missing),
            )
        if missing:
            client.force_metadata_update()

    async def _watch_progress(self, owned: list[Owned]) -> None:
        """Restart a consumer that is behind the log and does not move, or whose fetcher has died."""
        fetcher = self._consumer._fetcher
        if fetcher.error_future.done():
            await self._restart("its fetch task has ended")
            return
        now = time.monotonic()
        cluster = self._consumer._client.cluster
        stuck = [
            one
            for one in owned
            if not one.paused
            and now - one.progressed_at > self._pace.stalled_s
            and (one.lag() > 0 or self._silent_s(one) > self._pace.stalled_s)
            and cluster.leader_for_partition(one.tp) not in (None, -1)
        ]
        if not stuck:
            return
        for one in stuck:
            one.progressed_at = now  # look again after the same time
        trouble = await find_trouble(self._kafka, client_security(self._kafka))
        if trouble is not None:
            log.warning("no records for %.0f s: %s", self._pace.stalled_s, trouble.message)
            return
        names = ", ".join(f"{p.topic}/{p.partition}" for p in [one.partition for one in stuck][:5])
        await self._restart(
            f"no progress for {self._pace.stalled_s:.0f} s although the brokers answer ({names})"
        )

    def _silent_s(self, owned: Owned) -> float:
        """Seconds since a broker last answered a fetch for this partition; 0 before the first."""
        answered_ms = owned.state.timestamp
        return 0.0 if answered_ms is None else max(0.0, time.time() - answered_ms / 1000)

    def _fail(self, error: InferometerError) -> None:
        """Let `run` raise this."""
        if self._failure is None:
            self._failure = error
        self._wake()

    def _may_say(self, what: str) -> bool:
        """True at most every `announce_s` for the same thing."""
        now = time.monotonic()
        if len(self._said_at) > 100:
            self._said_at.clear()
        if now - self._said_at.get(what, -1e9) < self._pace.announce_s:
            return False
        self._said_at[what] = now
        return True


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


def _records(items: Iterable[Any]) -> list[Record]:
    return [item for item in items if type(item) is not CorruptRange]


def _pattern(pattern: str | None, also: Iterable[str], excluded: str | None) -> str:
    """One expression for whole topic names (aiokafka matches prefixes): `pattern`, label topics, and
    never the dead-letter topic, which would feed itself."""
    if pattern is None:
        return ""
    try:
        re.compile(pattern)
    except re.error as error:
        raise ConfigError(
            f"kafka.topic_pattern is {pattern!r}; not a regular expression: {error}"
        ) from None
    names = [f"(?:{pattern})", *(re.escape(topic) for topic in also)]
    never = f"(?!{re.escape(excluded)}$)" if excluded else ""
    return f"^{never}(?:{'|'.join(names)})$"


def _hopeless(kafka: Any, error: kafka_errors.KafkaError) -> SourceError | None:
    """The error for what trying again cannot mend; None for the rest."""
    match error:
        case kafka_errors.GroupAuthorizationFailedError():
            return SourceError(
                f"kafka.group_id {kafka.group_id!r} is not authorised; grant Read on the group to "
                "this user"
            )
        case kafka_errors.InconsistentGroupProtocolError():
            return SourceError(
                f"kafka.group_id {kafka.group_id!r} is used by consumers of another kind; choose "
                "another group"
            )
        case kafka_errors.InvalidSessionTimeoutError():
            return SourceError(
                f"kafka.session_timeout_s is {kafka.session_timeout_s}; the broker allows what lies "
                "between its group.min.session.timeout.ms and group.max.session.timeout.ms"
            )
        case kafka_errors.InvalidGroupIdError():
            return SourceError(f"kafka.group_id {kafka.group_id!r} is not valid; choose another")
    return None


def _raise_unauthorised(error: kafka_errors.KafkaError) -> NoReturn:
    topics = ", ".join(repr(str(topic)) for topic in error.args) or "a topic"
    raise SourceError(
        f"kafka.topics: {topics} is not authorised; grant Read and Describe to this user"
    ) from None


async def _quietly(awaitable: Awaitable[Any]) -> None:
    with contextlib.suppress(kafka_errors.KafkaError, OSError, TimeoutError):
        async with asyncio.timeout(1.0):
            await awaitable


async def _cut_off(consumer: Any) -> None:
    """End what a consumer that does not stop has left behind: tasks and connections."""
    coordinator = consumer._coordinator
    if coordinator is not None:
        for name in ("_coordination_task", "_heartbeat_task", "_commit_refresh_task"):
            task = getattr(coordinator, name, None)
            if task is not None and not task.done():
                task.cancel()
    if consumer._fetcher is not None:
        await _quietly(consumer._fetcher.close())
    await _quietly(consumer._client.close())

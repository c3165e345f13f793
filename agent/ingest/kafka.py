"""Reads a consumer group's share of the topics and hands it on in ranges, under back-pressure.

Invariants
1. Nothing is handed on outside of an open epoch, and nothing of a partition the epoch does not own.
2. The ranges handed on of one partition abut within an epoch (`ranges.py`).
3. Nothing here blocks the loop or waits for the pipeline, but the hand-over under its budget.
4. What aiokafka would swallow (an exception in a callback, a dead task) ends `run` or restarts the
   consumer; it never goes on silently.

`membership.py` has the epochs and the commits, `consumer.py` the connection, `watch.py` the watchdog.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import aiokafka.errors as kafka_errors
from aiokafka.structs import TopicPartition

from agent.config import Config
from agent.errors import ConfigError, InferometerError
from agent.ingest.announcer import Announcer
from agent.ingest.assignment import ByteBudget, Epoch, describe
from agent.ingest.connection import silence_secrets
from agent.ingest.consumer import Pace, hopeless, pause, raise_unauthorised, whole_pattern
from agent.ingest.lineages import Chain, Wholeness
from agent.ingest.membership import Membership, OnAssigned, OnRevoked
from agent.ingest.ranges import RangeMaker
from agent.ingest.watch import (
    held_up,
    look_for_topics,
    not_waited_for,
    unheard,
    why_restart,
)
from agent.telemetry import Telemetry
from agent.types import Partition

log = logging.getLogger(__name__)

#: Takes a `Fetch`, or a `RawFetch` with `kafka.fetch: raw`.
OnFetch = Callable[[Any], None]

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
        chain: Chain | None = None,
    ) -> None:
        """
        chain         knows which rows count. In volume mode nothing is read unless all partitions are ours
        on_assigned   epoch and start offsets; before the first record of the epoch, from `run`
        on_fetch      one range of one partition; must not block
        on_revoked    epoch and budget in seconds; the epoch admits nothing more, and may still be
                      committed until this returns. Called once for each epoch that was assigned
        """
        self._kafka = config.kafka
        self._telemetry = telemetry
        self._pace = pace
        self._max_items = pace.max_batches if self._kafka.fetch == "raw" else pace.max_records
        self._announcer = Announcer(pace.announce_s)
        self._stopping = asyncio.Event()
        self._failure: InferometerError | None = None
        self._owner_timeout_s = config.windows.owner_timeout_s
        is_alone = config.delivery.mode == "volume"
        timeout_s = config.delivery.sole_member_timeout_s
        self._wholeness = Wholeness(config.kafka.group_id, timeout_s) if is_alone else None
        self._member = Membership(
            config.kafka,
            pattern=whole_pattern(config.kafka, config.decode.dead_letter_topic),
            pace=pace,
            announcer=self._announcer,
            telemetry=telemetry,
            stopping=self._stopping,
            on_assigned=on_assigned,
            on_revoked=on_revoked,
            on_change=self._adjust,
            on_failure=self._fail,
            chain=chain,
            wholeness=self._wholeness,
        )
        self._budget = ByteBudget(config.kafka.buffer_max_bytes)
        self._ranges = RangeMaker(
            config.kafka,
            on_fetch,
            self._budget,
            telemetry,
            corrupt_attempts=pace.corrupt_attempts,
            heartbeat_s=pace.heartbeat_s,
        )
        self._ahead: set[Partition] = set()
        self._ready: tuple[TopicPartition, ...] = (_NOWHERE,)
        self._poll_scope: asyncio.Timeout | None = None
        self._restarts = 0
        self._house_at = 0.0

    # -- what others see

    @property
    def joined(self) -> bool:
        """The group has given this member its share, which may be nothing."""
        return self._member.joined

    @property
    def standby(self) -> bool:
        """Joined, and the share is nothing: there are more members than partitions."""
        epoch = self._member.epoch
        return self._member.joined and epoch is not None and not epoch.assigned

    @property
    def waits_for(self) -> str:
        """Why it reads nothing although it is a member; "" otherwise."""
        if self._wholeness is not None and self._wholeness.reason:
            return self._wholeness.reason
        epoch = self._member.epoch
        owned = epoch.owned.values() if epoch is not None else ()
        return self._member.waits_for or held_up(owned, self._pace.stalled_s)

    @property
    def epoch(self) -> int:
        """Number of the latest assignment; 0 before the first."""
        return self._member.number

    def positions(self) -> list[dict[str, Any]]:
        """Where each owned partition stands, for `/v1/state`."""
        epoch = self._member.epoch
        return describe(epoch.owned.values()) if epoch is not None else []

    def unheard(self) -> set[Partition]:
        """Partitions that nothing was heard of for `windows.owner_timeout_s`: nobody waits for them."""
        epoch = self._member.epoch
        if epoch is None or not epoch.admits:
            return set()
        return unheard(epoch.owned.values(), self._owner_timeout_s)

    def notes(self) -> list[str]:
        """What the readiness page says although it is no reason not to be ready."""
        return not_waited_for(self.unheard(), self._owner_timeout_s)

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
        await self._member.connect()

    async def run(self) -> None:
        """Fetch until `stop_fetching`. Raises SourceError when the source cannot go on."""
        while not self._stopping.is_set():
            if self._failure is not None:
                raise self._failure
            epoch = self._member.epoch
            if epoch is not None and not (epoch.positioned or epoch.refused or epoch.closing):
                await self._member.position(epoch)
                continue
            await self._poll()
            if time.monotonic() >= self._house_at:
                self._house_at = time.monotonic() + self._pace.house_s
                await self._keep_house()

    def stop_fetching(self) -> None:
        """Let `run` return; the member stays in the group, and its epoch may still be committed."""
        self._stopping.set()
        epoch = self._member.epoch
        if epoch is not None and not epoch.positioned:
            epoch.ended.set()  # nothing was read under it, and it may be waiting for a broker
        self._wake()

    async def stop(self, timeout_s: float) -> None:
        """Leave the group (static members stay until their session ends) and close all connections."""
        self.stop_fetching()
        await self._member.leave(timeout_s)

    async def commit(
        self,
        epoch: int,
        offsets: Mapping[Partition, int],
        metadata: Mapping[Partition, str] | None = None,
    ) -> dict[Partition, str]:
        """Commit under the epoch's fence; the same bytes again until accepted, refused, or it ends.

        Returns the partitions that were refused alone, with the reason; the others are committed.
        Raises FencedError when nothing of this epoch may be committed any more (UnsentError: and
        nothing of this has been sent), SourceError.
        """
        return await self._member.commit(epoch, offsets, metadata)

    # -- back-pressure

    def release(self, size_bytes: int) -> None:
        """Give back the bytes of a fetch (`Fetch.size_bytes`)."""
        was_full = self._budget.full
        self._budget.release(size_bytes)
        if was_full and not self._budget.full:
            self._adjust()

    def set_ahead(self, partitions: Iterable[Partition]) -> None:
        """Do not read these for now: they are too far ahead of the others in event time."""
        ahead = set(partitions)
        if ahead != self._ahead:
            self._ahead = ahead
            self._adjust()

    def _adjust(self) -> None:
        """Pause and resume as epoch, budget and alignment ask; wake a wait that this makes pointless."""
        consumer, epoch = self._member.consumer, self._member.epoch
        ready: list[TopicPartition] = []
        if (
            epoch is not None
            and consumer is not None
            and epoch.admits
            and epoch.assigned <= consumer.assignment()
        ):
            ready = self._pause_and_resume(consumer, epoch)
        before = self._ready
        # Partitions that are not asked for keep what is prefetched; a paused one asked for loses it.
        self._ready = tuple(ready) or (_NOWHERE,)
        if self._ready != before or epoch is None or not epoch.positioned:
            self._wake()

    def _pause_and_resume(self, consumer: Any, epoch: Epoch) -> list[TopicPartition]:
        ready = []
        for owned in epoch.owned.values():
            why = "ahead" if owned.partition in self._ahead else ""
            if self._budget.full:
                why = "buffer"
            if why and not owned.paused:
                consumer.pause(owned.tp)
            elif owned.paused and not why:
                owned.progressed_at = time.monotonic()
                consumer.resume(owned.tp)
            owned.paused = why
            if not why:
                ready.append(owned.tp)
        return ready

    # -- records

    async def _poll(self) -> None:
        """Hand on what has been fetched; waits at most `poll_s`, or until woken."""
        consumer, epoch = self._member.consumer, self._member.epoch
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
                    max_records=self._max_items,
                )
        except TimeoutError:
            pass
        except kafka_errors.KafkaError as error:
            await self._handle(error)
            return
        finally:
            self._poll_scope = None
        if epoch is None or epoch is not self._member.epoch or not epoch.admits:
            return
        if not epoch.assigned <= consumer.assignment():
            # It went while this waited, and nothing can be sought now. What was fetched is left: no
            # offset beyond it is told under this epoch, and the next begins at the committed ones.
            await asyncio.sleep(0)
            return
        for tp, items in fetched.items():
            owned = epoch.owned.get(Partition(tp.topic, tp.partition))
            if owned is not None:
                self._ranges.hand_on(consumer, epoch, owned, items)
        for owned in epoch.owned.values():
            self._ranges.hand_on_progress(epoch, owned)
        if self._budget.full:
            self._adjust()
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
                if not await self._member.start_anew(error.args[0]):
                    await self._restart("offsets are out of range, and a commit has no answer")
            case kafka_errors.TopicAuthorizationFailedError():
                raise_unauthorised(error.args)
            case kafka_errors.NoOffsetForPartitionError():
                pass  # the fetcher was quicker than the assigned callback's seek
            case _:
                if fatal := hopeless(self._kafka, error):
                    raise fatal from None
                await self._restart(f"{type(error).__name__}: {error}")

    async def _restart(self, why: str) -> None:
        """Replace a consumer that does not work, under a new epoch."""
        log.warning("the Kafka consumer is restarted: %s", why)
        self._telemetry.add("inferometer.consumer.restarts")
        if self._member.epoch is not None:
            await self._member.close(self._member.epoch)
        await self._member.disconnect(self._pace.stop_consumer_s)
        pause_s = min(self._pace.reconnect_s * 2**self._restarts, self._pace.reconnect_max_s)
        self._restarts = min(self._restarts + 1, 16)
        await pause(self._stopping, pause_s)
        await self._member.connect()

    def _seek_back(self) -> None:
        """After an error: what was taken out of the buffers and not handed on is read again."""
        consumer, epoch = self._member.consumer, self._member.epoch
        if epoch is None or not epoch.admits:
            return
        for owned in epoch.owned.values():
            if owned.position() != owned.next_offset and owned.tp in consumer.assignment():
                consumer.seek(owned.tp, owned.next_offset)

    async def _keep_house(self) -> None:
        """Gauges, topics that do not exist, and the watchdog; about once a second."""
        consumer, epoch = self._member.consumer, self._member.epoch
        if consumer is None:
            return
        owned = list(epoch.owned.values()) if epoch is not None else []
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
        self._telemetry.set("inferometer.partitions.unheard", len(self.unheard()))
        look_for_topics(self._kafka, consumer, self._announcer)
        reason = await why_restart(self._kafka, consumer, epoch, self._pace.stalled_s)
        if reason is not None:
            await self._restart(reason)

    def _fail(self, error: InferometerError) -> None:
        """Let `run` raise this."""
        if self._failure is None:
            self._failure = error
        self._wake()

"""Membership in the group: epochs, their starts and their ends, and commits under their fences.

Invariants
1. An epoch begins paused and with its fence; the pipeline is told before anything is read.
2. Every epoch starts at the committed offsets (`starts.py` says where there are none).
3. An epoch is closed to records first, handed over under a budget, and ended; each once.
4. What aiokafka would swallow (an exception in a callback) reaches `on_failure`.

aiokafka's own tasks call the listener. The assigned callback only pauses and takes the fence, so that
heartbeats begin at once; the source's task then calls `position`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.structs import TopicPartition

from agent.config import Kafka
from agent.errors import FencedError, InferometerError, SourceError, UnsentError
from agent.ingest.announcer import Announcer
from agent.ingest.assignment import Epoch, Owned
from agent.ingest.consumer import Pace, connect, disconnect, topics_of
from agent.ingest.fence import (
    UNKNOWN_PARTITION,
    Committed,
    CoordinatorLink,
    Fence,
    InstanceFencedError,
    commit_offsets,
    until_ended,
)
from agent.ingest.lineages import Chain, LineageStarts, Wholeness
from agent.ingest.starts import StartFinder, Why, announce_start
from agent.telemetry import Telemetry
from agent.types import Partition

log = logging.getLogger(__name__)

OnAssigned = Callable[[int, dict[Partition, int]], None]
OnRevoked = Callable[[int, float], Awaitable[None]]


class Membership:
    """One consumer at a time and, while the group has given it a share, one epoch."""

    def __init__(
        self,
        kafka: Kafka,
        *,
        pattern: str,
        pace: Pace,
        announcer: Announcer,
        telemetry: Telemetry,
        stopping: asyncio.Event,
        on_assigned: OnAssigned,
        on_revoked: OnRevoked,
        on_change: Callable[[], None],
        on_failure: Callable[[InferometerError], None],
        chain: Chain | None = None,
        wholeness: Wholeness | None = None,
    ) -> None:
        """`on_change` is called when an epoch begins, may be read, or is closed.

        `chain`: knows which rows count, and is asked for starts; `wholeness`: nothing is read unless
        all partitions are ours.
        """
        self._kafka = kafka
        self._pattern = pattern
        self._pace = pace
        self._announcer = announcer
        self._telemetry = telemetry
        self._stopping = stopping
        self._on_assigned = on_assigned
        self._on_revoked = on_revoked
        self._on_change = on_change
        self._on_failure = on_failure
        self._chain = chain
        self._wholeness = wholeness
        self._revoke_budget_s = kafka.rebalance_timeout_s / 3
        self._commit_lock = asyncio.Lock()
        self._out_of_range: dict[Partition, int] = {}  # the offset that the log refused
        self.consumer: Any = None
        self.epoch: Epoch | None = None
        self.number = 0
        self.joined = False
        self.waits_for = ""  # why an epoch is not read yet, when that is worth a word

    # -- the consumer

    async def connect(self) -> None:
        """Bring up a consumer, as long as that takes, and ask to join; nothing when stopping."""
        consumer = await connect(self._kafka, self._pace, self._announcer, self._stopping)
        if consumer is None:
            return
        self.consumer = consumer
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

    async def disconnect(self, timeout_s: float) -> None:
        """Leave the group and close all connections."""
        consumer, self.consumer = self.consumer, None
        self.joined = False
        if consumer is not None:
            await disconnect(consumer, timeout_s)

    async def leave(self, timeout_s: float) -> None:
        """End the epoch without a hand-over: what was to be committed has been."""
        if self.epoch is not None:
            self.epoch.closing = True
            self.epoch.ended.set()
        await self.disconnect(timeout_s)
        self.epoch = None

    # -- epochs

    def _begin(self, assigned: Iterable[TopicPartition]) -> None:
        """Synchronous: pause, number, fence. The first statement keeps anything from being read."""
        consumer = self.consumer
        tps = frozenset(assigned)
        consumer.pause(*tps)
        for tp in tps:
            # Any valid position: without one the fetcher would look for one by itself.
            consumer.seek(tp, 0)
        self.number += 1
        self.epoch = Epoch(self.number, self._fence(), tps)
        self.joined = True
        self._telemetry.add("inferometer.rebalances")
        self._on_change()

    def _fence(self) -> Fence:
        coordinator = self.consumer._coordinator
        return Fence(
            self._kafka.group_id,
            coordinator.generation,
            coordinator.member_id,
            self._kafka.group_instance_id,
        )

    async def close(self, epoch: Epoch) -> None:
        """Admit nothing more, let the pipeline cut and commit under the budget, end. Never raises."""
        if epoch.closing:
            await epoch.ended.wait()
            return
        epoch.closing = True
        self._on_change()
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
            self._on_failure(
                SourceError(f"the hand-over of epoch {epoch.number} failed: {error!r}")
            )
        finally:
            epoch.ended.set()
            for owned in epoch.owned.values():
                topic, partition = owned.partition
                self._telemetry.end(
                    "messaging.kafka.consumer.lag", topic=topic, partition=partition
                )
            if self.epoch is epoch:
                self.epoch = None

    async def start_anew(self, gone: Mapping[TopicPartition, int]) -> bool:
        """These offsets are out of range: end the epoch and begin another on the same assignment.

        False when that must not be: the last commit of the epoch has no answer, and may arrive behind
        the offsets that the next epoch reads, for as long as the fence is the same. Then join anew.
        """
        epoch, consumer = self.epoch, self.consumer
        if epoch is None or not epoch.admits:
            return True
        marks = {
            owned.partition: offset
            for tp, offset in gone.items()
            if (owned := epoch.owned.get(Partition(tp.topic, tp.partition))) is not None
            and owned.next_offset == offset
        }
        if not marks:
            return True
        self._out_of_range |= marks
        await self.close(epoch)
        unchanged = consumer is self.consumer and self._fence() == epoch.fence
        rebalancing = consumer._subscription.reassignment_in_progress
        held = epoch.assigned <= consumer.assignment()
        if self.epoch is not None or not unchanged or not held or rebalancing:
            return True  # another epoch has begun, or will: under another fence
        if epoch.unanswered:
            return False
        self._begin(epoch.assigned)
        return True

    async def position(self, epoch: Epoch) -> None:
        """Find where to read, commit the starts that are new, tell the pipeline, resume.

        Leaves the epoch as it is when its assignment has gone: a topic that appears or vanishes under
        `kafka.topic_pattern` takes it away before the revoked callback is called.
        """
        consumer = self.consumer
        if not epoch.assigned <= consumer.assignment():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pace.poll_s):
                    await epoch.ended.wait()
            return
        finder = self._finder(epoch)
        wanted = {Partition(tp.topic, tp.partition) for tp in epoch.assigned}
        # Another member looks after the others now; when they come back, the log is asked anew.
        self._out_of_range = {p: at for p, at in self._out_of_range.items() if p in wanted}
        try:
            if self._wholeness is not None:
                if missing := len(finder.known_partitions() - wanted):
                    link = CoordinatorLink(consumer._coordinator)
                    await self._wholeness.wait(
                        missing,
                        link,
                        epoch.ended,
                        poll_s=self._pace.poll_s,
                        rejoin=consumer._coordinator.request_rejoin,
                    )
                    return
                self._wholeness.is_whole()
            starts = await finder.find(wanted, self._out_of_range)
            genesis = {
                partition: Committed(start.offset, start.genesis)
                for partition, start in starts.items()
                if start.why is not Why.COMMITTED
            }
            for partition in genesis:
                start = starts[partition]
                is_gone = start.why is Why.OUT_OF_RANGE
                asked = self._out_of_range[partition] if is_gone else None
                if start.why is not Why.JOURNAL:  # the chain has said why
                    announce_start(partition, start, asked, self._telemetry)
            await self._commit_genesis(epoch, genesis)
        except FencedError as error:
            log.info("epoch %d ended before it began: %s", epoch.number, error)
            return
        if epoch.closing or self._stopping.is_set():
            return
        if not epoch.assigned <= consumer.assignment():
            return  # nothing waits from here on, so it stays as it is until all are sought
        assignment = consumer._subscription.subscription.assignment
        now = time.monotonic()
        for tp in epoch.assigned:
            partition = Partition(tp.topic, tp.partition)
            start = starts[partition]
            consumer.seek(tp, start.offset)
            state = assignment.state_value(tp)
            epoch.owned[partition] = Owned(
                partition=partition,
                tp=tp,
                state=state,
                next_offset=start.offset,
                committed=start.offset,
                genesis=start.genesis,
                is_label_topic=tp.topic in self._kafka.label_topics,
                progressed_at=now,
                told_answer_ms=state.timestamp,
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
        self._on_change()

    async def _commit_genesis(self, epoch: Epoch, genesis: Mapping[Partition, Committed]) -> None:
        """Until the group has taken all of them: after a crash the same starts must be found.

        Raises FencedError when the epoch ends first, SourceError. A topic that was deleted ends it: that
        is seen with the next metadata.
        """
        what = "waiting for the group to take the first offsets"
        try:
            while genesis:
                async with self._commit_lock:
                    refused = await self._commit(epoch, genesis)
                if not refused:
                    break
                some = ", ".join(f"{p.topic}/{p.partition}: {why}" for p, why in refused.items())
                self.waits_for = f"nothing is read yet: first offsets are refused: {some}"
                await until_ended(epoch.ended, asyncio.sleep(self._pace.reconnect_s), what)
        finally:
            self.waits_for = ""

    def _finder(self, epoch: Epoch) -> StartFinder:
        arguments = (self._kafka, self.consumer, epoch.fence, epoch.ended)
        if self._chain is None:
            return StartFinder(
                *arguments, announcer=self._announcer, retry_s=self._pace.reconnect_s
            )
        return LineageStarts(
            *arguments,
            announcer=self._announcer,
            retry_s=self._pace.reconnect_s,
            chain=self._chain,
            epoch=epoch.number,
        )

    # -- commits

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
        async with self._commit_lock:  # two at once could arrive in the other order
            current = self.epoch
            if current is None or current.number != epoch or current.ended.is_set():
                raise UnsentError(f"epoch {epoch} has ended; nothing of it may be committed")
            if current.refused:
                raise UnsentError(f"epoch {epoch} was refused; nothing of it may be committed")
            told = metadata or {}
            wanted = {
                partition: Committed(
                    offset, told.get(partition) or current.owned[partition].genesis
                )
                for partition, offset in offsets.items()
                if partition in current.owned
            }
            return await self._commit(current, wanted)

    async def _commit(
        self, epoch: Epoch, wanted: Mapping[Partition, Committed]
    ) -> dict[Partition, str]:
        consumer = self.consumer
        if consumer is None:
            raise UnsentError(f"epoch {epoch.number} ended: the consumer is gone")
        link = CoordinatorLink(consumer._coordinator)
        epoch.unanswered = True  # until there is an answer: this may be cut off at any time
        try:
            refused = await commit_offsets(link, epoch.fence, wanted, ended=epoch.ended)
            epoch.unanswered = False
        except FencedError as error:
            self._telemetry.add("inferometer.commits", outcome="fenced")
            if not epoch.ended.is_set():
                # The heartbeat will find out, and ask for a new assignment.
                epoch.refused_at = time.monotonic()
            if isinstance(error, InstanceFencedError):
                self._on_failure(
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
        if UNKNOWN_PARTITION in refused.values():
            consumer._client.force_metadata_update()  # when it was deleted, a rebalance takes it away
        if refused and self._announcer.may_say("refused"):
            some = ", ".join(f"{p.topic}/{p.partition}: {why}" for p, why in refused.items())
            log.warning("offsets refused for some partitions, the others are committed: %s", some)
        return refused


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    """aiokafka swallows what a listener raises, so nothing may come out of here unseen."""

    def __init__(self, membership: Membership, consumer: Any) -> None:
        self._membership = membership
        self._consumer = consumer

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        membership = self._membership
        if membership.consumer is not self._consumer:
            return
        try:
            membership._begin(assigned)
        except Exception as error:
            log.exception("the assigned callback failed")
            membership._on_failure(SourceError(f"an assignment could not be taken over: {error!r}"))

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        membership = self._membership
        if membership.consumer is self._consumer and membership.epoch is not None:
            await membership.close(membership.epoch)

"""Reads one shard of the chunk topic, and gives what is to be done to whoever folds.

One task does all of it, so records, heads and verdicts have one order. Everything that one turn of reading
brought about is one `Batch`; the next turn begins when it is done, so a fold that cannot go on stops the
reading, and memory stays bounded.

aiokafka's `getmany` waits for ever beside a fetch task that has ended. So a consumer that is behind, and gets
nothing although there is time for it, is replaced.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import aiokafka.errors as kafka_errors
from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition

from agent.aggregate.accept import Verdict
from agent.aggregate.heads import HeadReader
from agent.aggregate.intake import Fold, Intake, Seek
from agent.config import Kafka
from agent.errors import FencedError, SourceError
from agent.fleet.chunk_topic import ChunkTopic
from agent.ingest.announcer import Announcer
from agent.ingest.consumer import disconnect
from agent.ingest.security import client_security, reread_password_at_connect
from agent.state.heads import Head
from agent.types import Partition

log = logging.getLogger(__name__)

POLL_S: Final = 1.0
#: Records of one turn: a chunk's parts have up to 900 KiB each.
MAX_RECORDS: Final = 64
RETRY_S: Final = 0.5
#: For the connections to close.
STOP_S: Final = 2.0
#: Behind the end, and waiting for records that do not come: the consumer is replaced.
STALLED_S: Final = 60.0
#: Without a turn that was done: said in readiness.
SILENT_S: Final = 30.0


class _StalledError(Exception):
    """The consumer must be replaced."""


Work = list[Fold | Verdict]


@dataclass(slots=True)
class Batch:
    """What one turn brought about: to be done in this order, at once.

    oldest      position of the oldest record still needed when it is done
    is_current  nothing was left to read or to wait for: time may pass for windows, too. Behind an outage
                the rows that wait in the topic come first, or clocks that stood still would pass for idle
    there       partitions that agents read (`heads.Group`); None: they were not asked for
    """

    work: Work = field(default_factory=list)
    oldest: int = 0
    is_current: bool = False
    there: frozenset[Partition] | None = None


class Standing(NamedTuple):
    """How far the shard is read, after the last reading of the group.

    position  next record
    oldest    oldest record that is still needed
    end       of the shard
    waiting   whole chunks that are not decided on
    held_bytes, foreign   as in `Intake`
    """

    position: int
    oldest: int
    end: int
    waiting: int
    held_bytes: int
    foreign: int


class ShardReader:
    """Memory: what `Intake` holds, and one batch. All methods belong to the loop; the intake works in a
    thread, one turn at a time."""

    def __init__(
        self,
        kafka: Kafka,
        topic: ChunkTopic,
        shard: int,
        intake: Intake,
        done: Callable[[Batch], Awaitable[None]],
        *,
        poll_s: float = POLL_S,
    ) -> None:
        """`kafka`: the agents' own configuration: their brokers, their group and their topics.

        `done` acts on a batch; it raises FencedError when that is over.
        """
        self._kafka = kafka
        self._tp = TopicPartition(topic.name, shard)
        self._intake = intake
        self._done = done
        self._poll_s = poll_s
        self._ended = asyncio.Event()
        self._announcer = Announcer(10.0)
        self._trouble = ""
        self._polled_at = time.monotonic()
        self._end = 0
        self._stalled_s = 0.0  # behind the end, waited for records that did not come
        self.has_heads = False  # the group has been heard of
        self.standing: Standing | None = None
        self.n_restarts = 0  # of the consumer

    def stop(self) -> None:
        """`run` returns soon."""
        self._ended.set()

    @property
    def trouble(self) -> str:
        """Why the shard is not read; "" when it is."""
        if self._trouble:
            return self._trouble
        silent_s = time.monotonic() - self._polled_at
        if silent_s > SILENT_S:
            return f"{self._name}: nothing was read or folded for {silent_s:.0f} s"
        return ""

    @property
    def _name(self) -> str:
        return f"{self._tp.topic}/{self._tp.partition}"

    async def run(self) -> None:
        """Until `stop`. Raises SourceError when topic or group may not be read."""
        while not self._ended.is_set():
            consumer = self._consumer()
            try:
                await consumer.start()
                reread_password_at_connect(consumer._client, self._kafka.sasl)
                await self._read(consumer)
            except FencedError:  # `stop`, while a request waited
                return
            except kafka_errors.TopicAuthorizationFailedError:
                raise SourceError(
                    f"delivery.chunk_topic {self._tp.topic!r} is not authorised; grant Read and Describe "
                    "to this user"
                ) from None
            except (kafka_errors.KafkaError, OSError, TimeoutError, _StalledError) as error:
                self.n_restarts += 1
                self._trouble = f"{self._name} cannot be read: {str(error) or type(error).__name__}; trying again"
                if self._announcer.may_say("trouble"):
                    log.warning("%s", self._trouble)
                await asyncio.sleep(RETRY_S)
            finally:
                # Not `stop` alone: it lets a cancellation of the client's own tasks out, which would end this.
                await disconnect(consumer, STOP_S)

    def _consumer(self) -> Any:
        return AIOKafkaConsumer(
            bootstrap_servers=list(self._kafka.bootstrap_servers),
            client_id=f"{self._kafka.client_id}-shard-{self._tp.partition}",
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            max_partition_fetch_bytes=self._kafka.fetch_max_partition_bytes,
            request_timeout_ms=int(self._kafka.request_timeout_s * 1000),
            **client_security(self._kafka),
        )

    async def _read(self, consumer: Any) -> None:
        consumer.assign([self._tp])
        consumer.seek(self._tp, self._intake.oldest)
        self._intake.read_to(self._intake.oldest)
        heads = HeadReader(consumer._client, self._kafka)
        self._stalled_s = 0.0
        next_poll = time.monotonic()
        while not self._ended.is_set():
            if time.monotonic() >= next_poll:
                await self._poll(consumer, heads)
                next_poll = time.monotonic() + self._poll_s
            began, position = time.monotonic(), self._intake.position
            wait_s = max(0.0, next_poll - began)
            found = await consumer.getmany(
                self._tp, timeout_ms=int(wait_s * 1000), max_records=MAX_RECORDS
            )
            waited_s = time.monotonic() - began
            if await self._take(consumer, found.get(self._tp, [])):
                # Behind the last record, and past what retention has deleted.
                self._intake.read_to(await consumer.position(self._tp))
            self._watch(consumer, position, waited_s)

    def _watch(self, consumer: Any, before: int, waited_s: float) -> None:
        """Raises _StalledError for a consumer that will give nothing any more.

        Only the wait for records counts, not the time that a fold or the shard's group took.
        """
        if consumer._fetcher.error_future.done():
            raise _StalledError("its fetch task has ended")
        is_stuck = self._intake.position == before and before < self._end
        self._stalled_s = self._stalled_s + waited_s if is_stuck else 0.0
        if self._stalled_s > STALLED_S:
            raise _StalledError(
                f"no record for {STALLED_S:.0f} s at position {before}, and {self._end} is the end"
            )

    async def _poll(self, consumer: Any, heads: HeadReader) -> None:
        group = await heads.read(ended=self._ended)
        end = self._end = (await consumer.end_offsets([self._tp]))[self._tp]
        self.has_heads = True
        work, seek = await asyncio.to_thread(self._hear, group.heads, end)
        is_current = self._intake.position >= end and self._intake.is_settled
        await self._done(Batch(work, self._intake.oldest, is_current, group.there))
        if is_current:  # as the fold does with the same batch
            self._intake.forget_but(group.there)
        if seek is not None:
            consumer.seek(self._tp, seek.position)
        self._trouble, self._polled_at = "", time.monotonic()
        intake = self._intake
        self.standing = Standing(
            intake.position,
            intake.oldest,
            end,
            intake.n_waiting,
            intake.held_bytes,
            intake.n_foreign,
        )

    async def _take(self, consumer: Any, records: list[Any]) -> bool:
        """False when the shard is to be read again from an older position."""
        if not records:
            return True
        work, seek = await asyncio.to_thread(self._turn, records)
        if work:  # before anything that may fail: it is settled
            await self._done(Batch(work, self._intake.oldest))
        if seek is not None:
            consumer.seek(self._tp, seek.position)
        return seek is None

    # -- off the loop, one at a time: to open a large chunk takes some tenths of a second

    def _hear(self, heads: Mapping[Partition, Head], end: int) -> tuple[Work, Seek | None]:
        self._intake.heads(heads, end, time.monotonic())
        work: Work = []
        return work, self._collect(work)

    def _turn(self, records: list[Any]) -> tuple[Work, Seek | None]:
        work: Work = []
        for record in records:
            self._intake.record(record.offset, record.value, time.monotonic())
            if (seek := self._collect(work)) is not None:
                return work, seek
        return work, None

    def _collect(self, work: Work) -> Seek | None:
        """Everything there is to do now, into `work`, up to a seek."""
        while (what := self._intake.next(time.monotonic())) is not None:
            if isinstance(what, Seek):
                return what
            work.append(what)
            self._intake.settle(what)
        return None

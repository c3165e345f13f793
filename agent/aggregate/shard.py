"""Reads one shard of the chunk topic, and gives chunks that count to whoever folds them.

One task does all of it, so records, heads and verdicts have one order. A chunk is settled when `fold`
returns, so in a mode with a journal that is after its fsync.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import aiokafka.errors as kafka_errors
from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition

from agent.aggregate.accept import UNKNOWN, Fate, Verdict
from agent.aggregate.heads import HeadReader
from agent.aggregate.intake import Fold, Intake, Seek
from agent.config import Kafka
from agent.errors import FencedError
from agent.fleet.chunk_topic import ChunkTopic
from agent.ingest.announcer import Announcer
from agent.ingest.security import client_security, reread_password_at_connect
from agent.telemetry import Telemetry
from agent.types import Chunk

log = logging.getLogger(__name__)

POLL_S: Final = 1.0
#: Records of one turn: a chunk's parts have up to 900 KiB each.
MAX_RECORDS: Final = 64
_RETRY_S = 0.5
#: Names of counters, by what became of a chunk.
_COUNTERS = {
    Fate.ORPHANED: "inferometer.chunks.orphaned",
    Fate.MISSING: "inferometer.chunks.missing",
    Fate.UNCERTAIN: "inferometer.chunks.uncertain",
}


class ShardReader:
    """Memory: what `Intake` holds, and one fetched answer. All methods belong to the loop."""

    def __init__(
        self,
        kafka: Kafka,
        topic: ChunkTopic,
        shard: int,
        intake: Intake,
        telemetry: Telemetry,
        fold: Callable[[Chunk], Awaitable[None]],
        *,
        poll_s: float = POLL_S,
    ) -> None:
        """`kafka`: the agents' own configuration: their brokers, their group and their topics."""
        self._kafka = kafka
        self._tp = TopicPartition(topic.name, shard)
        self._intake = intake
        self._telemetry = telemetry
        self._fold = fold
        self._poll_s = poll_s
        self._ended = asyncio.Event()
        self._announcer = Announcer(10.0)
        self.has_heads = False  # the group has been heard of

    def stop(self) -> None:
        """`run` returns soon."""
        self._ended.set()

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
            except (kafka_errors.KafkaError, OSError, TimeoutError) as error:
                if self._announcer.may_say("trouble"):
                    log.warning(
                        "%s/%d cannot be read: %s; trying again",
                        *self._tp,
                        str(error) or type(error).__name__,
                    )
                await asyncio.sleep(_RETRY_S)
            finally:
                await consumer.stop()

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
        heads = HeadReader(consumer._client, self._kafka.group_id, self._kafka.topics)
        next_poll = time.monotonic()
        while not self._ended.is_set():
            if time.monotonic() >= next_poll:
                await self._poll(consumer, heads)
                next_poll = time.monotonic() + self._poll_s
            wait_s = max(0.0, next_poll - time.monotonic())
            found = await consumer.getmany(
                self._tp, timeout_ms=int(wait_s * 1000), max_records=MAX_RECORDS
            )
            if await self._take(consumer, found.get(self._tp, [])):
                # Behind the last record, and past what retention has deleted.
                self._intake.read_to(await consumer.position(self._tp))

    async def _poll(self, consumer: Any, heads: HeadReader) -> None:
        found = await heads.read(ended=self._ended)
        end = (await consumer.end_offsets([self._tp]))[self._tp]
        self._intake.heads(found, end, time.monotonic())
        self.has_heads = True
        await self._act(consumer)

    async def _take(self, consumer: Any, records: list[Any]) -> bool:
        """False when the shard is to be read again from an older position."""
        for record in records:
            self._intake.record(record.offset, record.value, time.monotonic())
            if not await self._act(consumer):
                return False
        return True

    async def _act(self, consumer: Any) -> bool:
        """Everything there is to do; False after a seek."""
        while (what := self._intake.next(time.monotonic())) is not None:
            match what:
                case Seek():
                    consumer.seek(self._tp, what.position)
                    return False
                case Fold():
                    await self._fold(what.chunk)
                case Verdict():
                    self._announce(what)
            self._intake.settle(what)
        return True

    def _announce(self, verdict: Verdict) -> None:
        self._telemetry.add(_COUNTERS[verdict.fate])
        if verdict.fate is Fate.ORPHANED:
            log.info("chunk %s is an orphan: its rows came again in another", verdict.chunk_id)
            return
        where = ", ".join(
            f"{gap.partition.topic}/{gap.partition.partition} "
            f"[{'?' if gap.from_offset == UNKNOWN else gap.from_offset}, {gap.to_offset})"
            for gap in verdict.gaps
        )
        log.error(
            "chunk %s is %s: in no total: %s",
            verdict.chunk_id,
            verdict.fate,
            where or "unknown rows",
        )

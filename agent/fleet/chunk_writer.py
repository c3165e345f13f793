"""Writes chunks to the chunk topic: durable when every record of all shards is acknowledged.

Invariants
1. `write` returns only when each record was acknowledged by all in-sync replicas (acks=all).
2. After any failure the whole chunk is written again, by another producer: readers ignore what comes
   twice, and a producer that lost a sequence number never says "durable" again.
3. Bounded: the caller's records, and `MAX_IN_FLIGHT_BYTES` of them copied into batches.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import Any, Final

import aiokafka.errors as kafka_errors
from aiokafka import AIOKafkaProducer

from agent.config import Kafka
from agent.errors import ConfigError, SourceError
from agent.fleet.chunk_topic import ChunkTopic
from agent.ingest.announcer import Announcer
from agent.ingest.fence import until_ended
from agent.ingest.security import client_security, reread_password_at_connect
from agent.state.parts import MAX_RECORD_BYTES

log = logging.getLogger(__name__)

MAX_IN_FLIGHT_BYTES: Final = 8 << 20
_RETRY_S = 0.1
_RETRY_MAX_S = 5.0
_END_S = 2.0
#: Of a record beside its value: headers of batch and record, and the key.
_OVERHEAD_BYTES = 2048


class ChunkWriter:
    """One idempotent producer at a time. All methods belong to the loop; one `write` at a time."""

    def __init__(self, kafka: Kafka, topic: ChunkTopic) -> None:
        self._kafka = kafka
        self._topic = topic
        self._producer: Any = None
        self._announcer = Announcer(10.0)
        self.n_restarts = 0  # producers that were given up
        self.trouble = ""  # why the last attempt failed; "" when it did not

    async def write(
        self, chunk_id: str, shards: Sequence[Sequence[bytes]], *, ended: asyncio.Event
    ) -> None:
        """Make a chunk durable: `shards` has the records of each shard (`parts.records_of`).

        Goes on until that is so. Raises FencedError when `ended` is set first (some records may be
        in the topic, or arrive later: an orphan), SourceError when trying again cannot help.
        """
        if len(shards) != self._topic.shards:
            raise ValueError(f"{len(shards)} shards; the topic has {self._topic.shards}")
        what = f"writing chunk {chunk_id} to {self._topic.name!r}"
        pause_s = _RETRY_S
        while True:
            try:
                await until_ended(ended, self._attempt(chunk_id, shards), what)
            except SourceError:  # FencedError is one
                await self._drop_producer()
                raise
            except (kafka_errors.KafkaError, ConfigError, OSError, TimeoutError) as error:
                await self._drop_producer()
                hopeless = self._hopeless(error)
                if hopeless is not None:
                    raise hopeless from None
                self.trouble = f"{what}: {str(error) or type(error).__name__}"
                if self._announcer.may_say("trouble"):
                    log.warning("%s; trying again", self.trouble)
            else:
                self.trouble = ""
                return
            await until_ended(ended, asyncio.sleep(pause_s), what)
            pause_s = min(pause_s * 2, _RETRY_MAX_S)

    async def stop(self) -> None:
        """Close the producer's connections, within seconds."""
        await self._drop_producer()

    async def _attempt(self, chunk_id: str, shards: Sequence[Sequence[bytes]]) -> None:
        producer = await self._started()
        found = await producer.partitions_for(self._topic.name)
        if len(found) != self._topic.shards:
            raise SourceError(
                f"chunk topic {self._topic.name!r} has {len(found)} partitions now; this agent was "
                f"started for {self._topic.shards}: the number of shards must not change"
            )
        in_flight: list[tuple[asyncio.Future[Any], int]] = []
        in_flight_bytes = 0
        try:
            for shard, value in _in_turns(shards):
                future = await producer.send(
                    self._topic.name, value, key=chunk_id.encode(), partition=shard
                )
                in_flight.append((future, len(value)))
                in_flight_bytes += len(value)
                while in_flight_bytes > MAX_IN_FLIGHT_BYTES:
                    await in_flight[0][0]
                    in_flight_bytes -= in_flight.pop(0)[1]
            for future, _ in in_flight:
                await future
        except BaseException:
            # It failed or was cancelled: nobody waits for these any more.
            for future, _ in in_flight:
                future.add_done_callback(_looked_at)
            raise

    async def _started(self) -> Any:
        producer = self._producer
        if producer is not None and not producer._sender.sender_task.done():
            return producer
        await self._drop_producer()
        producer = AIOKafkaProducer(
            bootstrap_servers=list(self._kafka.bootstrap_servers),
            client_id=f"{self._kafka.client_id}-chunks",
            acks="all",
            enable_idempotence=True,
            max_request_size=MAX_RECORD_BYTES + _OVERHEAD_BYTES,
            max_batch_size=MAX_RECORD_BYTES + _OVERHEAD_BYTES,
            request_timeout_ms=int(self._kafka.request_timeout_s * 1000),
            **client_security(self._kafka),
        )
        self._producer = producer
        reread_password_at_connect(producer.client, self._kafka.sasl)
        await producer.start()
        return producer

    async def _drop_producer(self) -> None:
        """The next attempt has another; nothing waits for what this one still has to send."""
        producer, self._producer = self._producer, None
        if producer is None:
            return
        self.n_restarts += 1
        sender = getattr(producer._sender, "sender_task", None)
        if sender is not None and not sender.done():
            sender.cancel()  # `stop` would flush first: bytes of a chunk that may be forgotten
        stop = asyncio.ensure_future(producer.stop())
        await asyncio.wait({stop}, timeout=_END_S)
        stop.add_done_callback(_looked_at)
        stop.cancel()
        with contextlib.suppress(Exception):
            await asyncio.wait_for(producer.client.close(), _END_S)

    def _hopeless(self, error: BaseException) -> SourceError | ConfigError | None:
        """The error for what trying again cannot mend; None for the rest."""
        name = self._topic.name
        match error:
            case ConfigError():
                return error
            case kafka_errors.MessageSizeTooLargeError():
                return SourceError(
                    f"chunk topic {name!r} refuses records of {MAX_RECORD_BYTES} bytes; set its "
                    f"max.message.bytes to at least {MAX_RECORD_BYTES + 2 * _OVERHEAD_BYTES}"
                )
            case kafka_errors.TopicAuthorizationFailedError():
                return SourceError(
                    f"chunk topic {name!r} is not authorised; grant Write and Describe to this user"
                )
            case kafka_errors.ClusterAuthorizationFailedError():
                return SourceError(
                    f"this user may not write to {name!r} idempotently; grant IdempotentWrite"
                )
            case kafka_errors.InvalidTopicError():
                return SourceError(f"chunk topic {name!r} is not a valid name; choose another")
        return None


def _in_turns(shards: Sequence[Sequence[bytes]]) -> Iterator[tuple[int, bytes]]:
    """(shard, record): a record of each shard, then the next; within a shard in order."""
    rows: Iterable[tuple[bytes | None, ...]] = zip_longest(*shards)
    for row in rows:
        for shard, value in enumerate(row):
            if value is not None:
                yield shard, value


def _looked_at(done: asyncio.Future[Any]) -> None:
    if not done.cancelled():
        done.exception()

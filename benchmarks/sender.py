"""Sends a pool of record batches round and round, as they are: what a long run at full rate is fed with.

A pool is made once; a topic that stamps batches with the time of their arrival makes event time go on.
"""

from __future__ import annotations

import asyncio
import ctypes
import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from aiokafka import AIOKafkaConsumer
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.structs import TopicPartition

from agent.decode.kernels.batch_table import BATCH_SOURCE, HEADER_BYTES
from agent.decode.raw_batches import RawBatches
from agent.ingest.raw import RawConsumer
from benchmarks.broker import Topic

#: The sender is at most this many events ahead of what was counted: a few seconds, 250 MB.
AHEAD = 2_000_000
#: Requests on their way: the broker never waits for the sender.
_IN_FLIGHT = 3


async def batches_of(bootstrap: str, topic: Topic) -> list[list[bytes]]:
    """The batches of each partition, with a base offset of 0 as a producer sends them."""
    partitions = [TopicPartition(topic.name, number) for number in range(topic.partitions)]
    consumer: AIOKafkaConsumer = RawConsumer(
        bootstrap_servers=bootstrap, enable_auto_commit=False, auto_offset_reset="none"
    )
    await consumer.start()
    found: list[list[bytes]] = [[] for _ in partitions]
    try:
        consumer.assign(partitions)
        for at in partitions:
            consumer.seek(at, 0)
        n = 0
        while n < topic.n_events:
            for at, batches in (await consumer.getmany(timeout_ms=1000)).items():
                n += sum(batch.n_records for batch in batches)
                for table in batches:
                    found[at.partition] += [_as_sent(table, row) for row in range(len(table))]
    finally:
        await consumer.stop()
    return found


def _as_sent(table: RawBatches, row: int) -> bytes:
    """The whole batch, which lies in front of its records as it was fetched; base offset 0."""
    payload = table.payload(row)
    address = int(table.table[row, BATCH_SOURCE]) - HEADER_BYTES
    return bytes(8) + ctypes.string_at(address + 8, HEADER_BYTES - 8 + len(payload))


class Sender(threading.Thread):
    """Sends the batches of a pool round and round, `AHEAD` events ahead of `done()` at most."""

    def __init__(
        self, bootstrap: str, topic: str, batches: list[list[bytes]], done: Callable[[], int]
    ) -> None:
        super().__init__(name="sender", daemon=True)
        self.sent = 0  # acknowledged
        self.failure: BaseException | None = None
        self._servers = bootstrap
        self._topic = topic
        self._batches = batches
        self._done = done
        self._ended = threading.Event()

    def run(self) -> None:
        try:
            asyncio.run(self._send())
        except BaseException as error:
            self.failure = error

    def stop(self) -> None:
        self._ended.set()
        self.join(60.0)

    async def _send(self) -> None:
        client = AIOKafkaClient(bootstrap_servers=self._servers)
        await client.bootstrap()
        try:
            await client.force_metadata_update()
            (node,) = {broker.nodeId for broker in client.cluster.brokers()}
            rounds = itertools.count()
            async with asyncio.TaskGroup() as group:
                for number in range(_IN_FLIGHT):
                    group.create_task(self._rounds(client, node, rounds), name=f"send-{number}")
        finally:
            await client.close()

    async def _rounds(self, client: AIOKafkaClient, node: int, rounds: Iterator[int]) -> None:
        while not self._ended.is_set():
            if self.sent - self._done() > AHEAD:
                await asyncio.sleep(0.01)
                continue
            at = next(rounds)
            # One batch of a partition in a request: the protocol takes no more.
            parts = [
                (number, batches[at % len(batches)]) for number, batches in enumerate(self._batches)
            ]
            request = ProduceRequest(
                transactional_id=None,
                required_acks=1,
                timeout=30_000,
                topics=[(self._topic, parts)],
            )
            answer = await client.send(node, request)
            for _, partitions in answer.topics:
                for partition, code, *_ in partitions:
                    if code:
                        raise RuntimeError(f"partition {partition}: error {code}")
            self.sent += sum(int.from_bytes(data[57:61], "big") for _, data in parts)


@contextmanager
def sending(
    bootstrap: str, topic: str, batches: list[list[bytes]], done: Callable[[], int]
) -> Iterator[Sender]:
    sender = Sender(bootstrap, topic, batches, done)
    sender.start()
    try:
        yield sender
    finally:
        sender.stop()

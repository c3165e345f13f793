"""A real Kafka broker for benchmarks, and topics filled with reference events.

The broker is the tests' one (`tests/support/kafka_real.py`): one node on loopback ports, its data in a
temporary folder that goes with it. Here it has the whole compiler and a larger, bounded heap.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from confluent_kafka import Producer

from benchmarks.frame import CannotRun, progress
from benchmarks.stream import Stream
from tests.support.kafka_real import KafkaUnavailable, RealKafka
from tests.support.process import StartFailed

_JVM = ("-Xms512m", "-Xmx1g", "-XX:TieredStopAtLevel=4")
#: Events handed to the producer in one call.
CHUNK = 10_000
#: What producers are set to: Java's default of 16 KB, and a tuned one.
BATCH_BYTES = {"16 KB": 16_384, "1 MB": 1_000_000}


@dataclass(frozen=True)
class Topic:
    """A filled topic: `n_events` of `stream`, event i at offset i // partitions of i % partitions."""

    name: str
    partitions: int
    n_events: int
    batch: str
    stream: Stream


@contextlib.contextmanager
def running_kafka(overrides: dict[str, str] | None = None) -> Iterator[RealKafka]:
    """A broker of its own, ended and removed afterwards. Raises CannotRun without Java or Maven."""
    try:
        broker = RealKafka(jvm=_JVM, overrides=overrides)
    except KafkaUnavailable as reason:
        raise CannotRun(str(reason)) from None
    try:
        try:
            broker.start()
        except StartFailed as reason:
            raise CannotRun(f"the broker does not start: {reason}") from None
        yield broker
    finally:
        broker.close()


def fill(
    bootstrap: str,
    topic: Topic,
    *,
    compression: str = "lz4",
    headers: list[tuple[str, bytes]] | None = None,
) -> None:
    """Produce all events of the topic; raises RuntimeError when one is refused."""
    refused: list[str] = []

    def delivered(error: object, _message: object) -> None:
        if error is not None:
            refused.append(str(error))

    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "compression.type": compression,
            "batch.size": BATCH_BYTES[topic.batch],
            "batch.num.messages": 1_000_000,
            "message.max.bytes": 1_000_000,
            # Full batches, whatever the pace at which they are handed over.
            "linger.ms": 500,
            "acks": 1,
            "enable.idempotence": False,
            "max.in.flight.requests.per.connection": 1,
            "queue.buffering.max.messages": 200_000,
            "queue.buffering.max.kbytes": 256_000,
            "delivery.report.only.error": True,
            "log_level": 0,
        }
    )
    progress(f"{topic.name}: {topic.n_events:,} events, producer batches of {topic.batch}")
    for low in range(0, topic.n_events, CHUNK):
        values = list(topic.stream.values(low, min(low + CHUNK, topic.n_events)))
        while len(producer) > 100_000:
            producer.poll(0.01)
        for partition in range(topic.partitions):
            part = values[(partition - low) % topic.partitions :: topic.partitions]
            if headers is None:
                messages = [{"value": value} for value in part]
                producer.produce_batch(topic.name, messages, partition, on_delivery=delivered)
                continue
            for value in part:
                producer.produce(
                    topic.name, value, partition=partition, headers=headers, on_delivery=delivered
                )
        producer.poll(0)
        if refused:
            raise RuntimeError(f"{topic.name}: {refused[0]}")
    if producer.flush(60) or refused:
        raise RuntimeError(f"{topic.name}: not all events were taken {refused[:1]}")

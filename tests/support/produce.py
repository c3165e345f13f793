"""Producing to a broker and reading what a group has committed."""

from collections.abc import Iterable
from typing import Any, Final

from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient

from tests.support.wait import eventually_sync

#: Answers of a broker that is about to coordinate the group, or was.
_COORDINATOR_IS_COMING: Final = (
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.NOT_COORDINATOR,
)


def produce(
    bootstrap: str,
    topic: str,
    values: Iterable[bytes | None],
    *,
    partitions: int = 1,
    compression: str = "lz4",
    headers: list[tuple[str, bytes]] | None = None,
    **settings: object,
) -> int:
    """Produce the values round robin; return how many were acknowledged: all of them."""
    refused: list[object] = []
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "compression.type": compression,
            "linger.ms": 5,
            "log_level": 0,
            **settings,
        }
    )

    def delivered(error: object, message: object) -> None:
        if error is not None:
            refused.append(error)

    n = 0
    for n, value in enumerate(values, 1):
        producer.produce(
            topic, value, partition=(n - 1) % partitions, headers=headers, on_delivery=delivered
        )
        if n % 500 == 0:
            producer.poll(0)
    assert producer.flush(30) == 0
    assert not refused, refused[:3]
    return n


def committed(bootstrap: str, group: str, topic: str, partitions: int) -> list[int]:
    """Committed offset of each partition; -1001 (OFFSET_INVALID) for none."""
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    wanted = [TopicPartition(topic, number) for number in range(partitions)]

    def asked() -> Any:
        try:
            answers = admin.list_consumer_group_offsets(
                [ConsumerGroupTopicPartitions(group, wanted)]
            )
            return answers[group].result(20)
        except KafkaException as error:
            if error.args[0].code() not in _COORDINATOR_IS_COMING:
                raise
            return None

    answer = eventually_sync(asked)
    return [at.offset for at in sorted(answer.topic_partitions, key=lambda at: at.partition)]


def consume_all(bootstrap: str, topic: str, n: int, *, timeout_s: float = 20.0) -> list[object]:
    """The first `n` messages of a topic, from the beginning."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": f"read-{topic}",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "log_level": 0,
        }
    )
    try:
        consumer.subscribe([topic])
        found: list[object] = []
        for _ in range(int(timeout_s * 10)):
            found += [m for m in consumer.consume(n, 0.1) if m.error() is None]
            if len(found) >= n:
                break
        return found
    finally:
        consumer.close()

"""Reads the end of a topic with confluent-kafka: the quickest stock consumer for Python."""

from __future__ import annotations

from collections.abc import Iterator

from confluent_kafka import Consumer, KafkaException, TopicPartition

from benchmarks.peers.meter import Task

_ANSWER_S = 10.0


def consumer_for(task: Task, group: str = "peer") -> Consumer:
    return Consumer(
        {
            "bootstrap.servers": task.bootstrap,
            "group.id": group,
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
            "fetch.wait.max.ms": 10,
            "log_level": 0,
        }
    )


def starts(consumer: Consumer, task: Task) -> list[TopicPartition]:
    """Where the task's rows begin in each partition."""
    found = []
    for number in range(task.partitions):
        at = TopicPartition(task.topic, number)
        _, high = consumer.get_watermark_offsets(at, timeout=_ANSWER_S)
        found.append(TopicPartition(task.topic, number, high - task.rows_each))
    return found


def read(task: Task, at_once: int) -> Iterator[list[bytes]]:
    """All values of the task, at most `at_once` at a time. Raises KafkaException, TimeoutError."""
    consumer = consumer_for(task)
    try:
        consumer.assign(starts(consumer, task))
        left = task.rows
        while left > 0:
            messages = consumer.consume(min(at_once, left), _ANSWER_S)
            if not messages:
                raise TimeoutError(f"{task.topic}: {left} events are missing")
            for message in messages:
                if message.error() is not None:
                    raise KafkaException(message.error())
            left -= len(messages)
            yield [message.value() for message in messages]
    finally:
        consumer.close()

"""Verdicts to a topic: keyed, in order, and again under the same id when a broker was away."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from confluent_kafka import Consumer

from agent.config import Kafka
from agent.config.respond import KafkaTopic
from agent.errors import TransientExportError
from agent.respond.event import event_of
from agent.respond.kafka_topic import KafkaTopicChannel
from agent.types import StreamKey
from agent.verdict import State
from tests.support.kafka_embedded import FaultyBroker
from tests.support.verdicts import verdict


def channel(broker: FaultyBroker, **more: Any) -> KafkaTopicChannel:
    options = KafkaTopic(topic="verdicts", **{"timeout_s": 5.0, **more})
    return KafkaTopicChannel(options, Kafka(bootstrap_servers=[broker.bootstrap]))


def records(broker: FaultyBroker, n: int) -> list[Any]:
    consumer = Consumer(
        {
            "bootstrap.servers": broker.bootstrap,
            "group.id": "reader",
            "auto.offset.reset": "earliest",
            "log_level": 0,
        }
    )
    found: list[Any] = []
    try:
        consumer.subscribe(["verdicts"])
        for _ in range(100):
            message = consumer.poll(0.2)
            if message is not None and message.error() is None:
                found.append(message)
            if len(found) == n:
                break
        return found
    finally:
        consumer.close()


async def test_verdicts_of_a_model_lie_in_one_partition_in_their_order(
    embedded_kafka: FaultyBroker,
) -> None:
    embedded_kafka.create_topic("verdicts", partitions=4)
    sent = channel(embedded_kafka)
    models = [StreamKey(name, "", ()) for name in ("a", "b", "c", "")]
    told = [
        event_of(verdict(state, stream=stream, alarm=stream.model), "/s")
        for state in (State.FIRING, State.RESOLVED)
        for stream in models
    ]
    for event in told:
        await sent.deliver(event)
    await sent.close()
    found = records(embedded_kafka, len(told))
    assert sorted(m.value() for m in found) == sorted(event.body for event in told)
    for stream in models:
        key = stream.model.encode() or b"unknown"
        own = [m for m in found if m.key() == key]
        assert len({m.partition() for m in own}) == 1
        own.sort(key=lambda m: m.offset())
        assert [orjson.loads(m.value())["data"]["state"] for m in own] == ["firing", "resolved"]
        assert dict(own[0].headers())["content-type"].startswith(b"application/cloudevents+json")
        assert own[0].timestamp()[1] == told[0].verdict.window_end_ms


async def test_a_broker_that_is_away_is_a_failure_that_may_be_tried_again(
    embedded_kafka: FaultyBroker,
) -> None:
    embedded_kafka.create_topic("verdicts", partitions=1)
    sent = channel(embedded_kafka, timeout_s=1.5)
    embedded_kafka.broker_down(1)
    event = event_of(verdict(), "/s")
    with pytest.raises(TransientExportError, match="topic verdicts"):
        await sent.deliver(event)
    embedded_kafka.broker_up(1)
    await sent.deliver(event)
    await sent.close()
    assert {orjson.loads(m.value())["id"] for m in records(embedded_kafka, 1)} == {event.id}

"""The source against the embedded broker: what a machine without Java can prove."""

from agent.demo.broker import EmbeddedBroker
from agent.types import Partition
from tests.support.kafka_source import Member, kafka_config, produce
from tests.support.wait import eventually

TOPIC = "events"
P0, P1 = Partition(TOPIC, 0), Partition(TOPIC, 1)


async def test_every_record_arrives_once_and_in_order(embedded_kafka: EmbeddedBroker) -> None:
    embedded_kafka.create_topic(TOPIC, 2)
    sent = [b"%d" % i for i in range(1000)]
    await produce(embedded_kafka.bootstrap, TOPIC, sent, partitions=2)
    member = Member(kafka_config(embedded_kafka.bootstrap, [TOPIC]))
    async with member.running():
        await eventually(lambda: len(member.records) >= 1000)
        assert member.offsets(P0) == list(range(500))
        assert member.offsets(P1) == list(range(500))
        assert sorted(member.values) == sorted(sent)
    assert member.revoked == []

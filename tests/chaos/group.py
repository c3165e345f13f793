"""What the coordinator says of the group that reads the topic, and what a tool may do to it."""

from __future__ import annotations

from collections.abc import Mapping

from confluent_kafka import (
    Consumer,
    ConsumerGroupState,
    ConsumerGroupTopicPartitions,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, ConsumerGroupDescription

from tests.chaos.waiting import within


class Group:
    """By name, over the brokers at `bootstrap`. Asks again when there is no answer; raises Stuck."""

    def __init__(self, bootstrap: str, name: str, topic: str) -> None:
        self.name = name
        self.no_answer = ""  # why there was none, the last time
        self._topic = topic
        self._settings = {
            "bootstrap.servers": bootstrap,
            "log_level": 0,
            "reconnect.backoff.max.ms": 200,
        }
        self._admin = AdminClient(self._settings)
        self._reader = self._new_reader()

    def _new_reader(self) -> Consumer:
        """Asks for offsets and joins nothing. An AdminClient that asks a coordinator which has moved
        ends the process (librdkafka 2.16: OffsetFetch takes for granted that it is a consumer's)."""
        return Consumer(self._settings | {"group.id": self.name, "enable.auto.commit": False})

    def close(self) -> None:
        self._reader.close()

    def committed(self, partitions: int) -> dict[int, int]:
        """Committed offset of each partition that has one. A coordinator that loads is asked again."""
        return within(lambda: self.ask(partitions), 30, "the coordinator answers")[0]

    def ask(self, partitions: int) -> list[dict[int, int]]:
        """The same; nothing when there is no answer."""
        wanted = [TopicPartition(self._topic, n) for n in range(partitions)]
        try:
            found = self._reader.committed(wanted, timeout=3)
        except KafkaException as error:
            self.no_answer = str(error)
            self._reader.close()
            self._reader = self._new_reader()  # one that saw a crash may go on to find nobody
            return []
        return [{at.partition: at.offset for at in found if at.offset >= 0}]

    def coordinator(self) -> int:
        """Id of the broker that has the group's offsets."""
        return int(within(self._describe, 30, "the group is described").coordinator.id)

    def wait_left(self) -> None:
        """Until the group is empty: a tool may not change offsets before."""

        def is_empty() -> bool:
            described = self._describe()
            return described is not None and not described.members

        within(is_empty, 30, "the group is empty")

    def wait_joined(self, n_members: int) -> None:
        """Until so many are in the group, nobody more, and all have their partitions."""

        def is_joined() -> bool:
            found = self._describe()
            if found is None or found.state != ConsumerGroupState.STABLE:
                return False
            return len(found.members) == n_members

        within(is_joined, 30, f"{n_members} are in the group")

    def _describe(self) -> ConsumerGroupDescription | None:
        """None when there is no answer: a request to a broker that went is not repeated by itself."""
        try:
            asked = self._admin.describe_consumer_groups([self.name], request_timeout=3)
            return asked[self.name].result(5)
        except (KafkaException, TimeoutError) as error:
            self.no_answer = repr(error)
            self._admin = AdminClient(self._settings)
            return None

    def set_offsets(self, offsets: Mapping[int, int]) -> None:
        """As a tool does: without metadata."""
        wanted = [TopicPartition(self._topic, n, at) for n, at in offsets.items()]
        groups = [ConsumerGroupTopicPartitions(self.name, wanted)]
        for future in self._admin.alter_consumer_group_offsets(groups).values():
            for at in future.result(20).topic_partitions:
                assert at.error is None, at.error

    def delete(self) -> None:
        for future in self._admin.delete_consumer_groups([self.name]).values():
            future.result(20)

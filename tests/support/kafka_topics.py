"""What tests ask of a Kafka besides reading and writing: topics made, grown, deleted; leaders moved."""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod

from confluent_kafka import ElectionType, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewPartitions, NewTopic, ResourceType

from tests.support.wait import eventually_sync

_NOTHING_TO_DO = (KafkaError.NO_ERROR, KafkaError.ELECTION_NOT_NEEDED)


def unique(prefix: str) -> str:
    """A name for a topic or a group that no other test uses."""
    return f"{prefix}-{uuid.uuid4().hex[:12]}"


class Topics(ABC):
    """The administration of one Kafka, of one broker or several. Synchronous, not thread-safe.

    Raises KafkaException for what the brokers refuse, AssertionError for what does not come about.
    """

    copies = 1  # of each partition of a topic that is made here
    _admin: AdminClient | None = None

    @property
    @abstractmethod
    def bootstrap(self) -> str:
        """Addresses of the brokers, with commas between them; no authentication, no encryption."""

    @property
    def admin(self) -> AdminClient:
        if self._admin is None:
            settings = {
                "bootstrap.servers": self.bootstrap,
                "log_level": 0,
                "reconnect.backoff.max.ms": 200,  # back at once after a restart
            }
            self._admin = AdminClient(settings)
        return self._admin

    def create_topic(
        self, name: str, partitions: int = 1, config: dict[str, str] | None = None
    ) -> str:
        """Create a topic and wait until every partition has a leader; return its name."""
        topic = NewTopic(name, partitions, self.copies, config=config or {})
        self.admin.create_topics([topic], operation_timeout=20)[name].result(30)
        eventually_sync(lambda: self._leaders(name) == partitions)
        return name

    def fresh_topic(self, prefix: str = "events", partitions: int = 1, **config: str) -> str:
        """Create a topic that no other test has; return its name. `config` has `_` for `.`."""
        settings = {key.replace("_", "."): value for key, value in config.items()}
        return self.create_topic(unique(prefix), partitions, settings)

    def add_partitions(self, name: str, total: int) -> None:
        self.admin.create_partitions([NewPartitions(name, total)])[name].result(30)
        eventually_sync(lambda: self._leaders(name) == total)

    def delete_topic(self, name: str) -> None:
        """Delete a topic and wait until the metadata no longer name it."""
        self.admin.delete_topics([name], operation_timeout=20)[name].result(30)
        eventually_sync(lambda: name not in self.admin.list_topics(timeout=10).topics)

    def delete_records(self, name: str, before: dict[int, int]) -> None:
        """As retention does: the logs of these partitions begin at these offsets."""
        wanted = [TopicPartition(name, n, at) for n, at in before.items()]
        for future in self.admin.delete_records(wanted).values():
            future.result(30)

    def topic_config(self, name: str) -> dict[str, str]:
        resource = ConfigResource(ResourceType.TOPIC, name)
        entries = self.admin.describe_configs([resource])[resource].result(30)
        return {key: entry.value for key, entry in entries.items()}

    def elect_preferred(self) -> int:
        """Give every partition back to the first of its brokers; returns how many moved."""
        answers = self.admin.elect_leaders(ElectionType.PREFERRED, None).result(30)
        for error in answers.values():
            if error is not None and error.code() not in _NOTHING_TO_DO:
                raise KafkaException(error)
        return sum(e is None or e.code() == KafkaError.NO_ERROR for e in answers.values())

    def _leaders(self, name: str) -> int:
        """Partitions of a topic that can be read and written, with all of their copies."""
        topic = self.admin.list_topics(name, timeout=10).topics[name]
        return sum(
            p.leader >= 0 and p.error is None and len(p.isrs) == len(p.replicas)
            for p in topic.partitions.values()
        )

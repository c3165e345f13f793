"""Another member of a consumer group, that reads and commits nothing."""

from __future__ import annotations

import threading
from typing import Self

from confluent_kafka import Consumer

CLIENT_ID = "member-of-a-test"


class GroupMember:
    """Joins in a thread of its own with `with`, and leaves."""

    def __init__(self, bootstrap: str, topic: str, group: str) -> None:
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": group,
                "client.id": CLIENT_ID,
                "enable.auto.commit": False,
                "partition.assignment.strategy": "roundrobin",
                "session.timeout.ms": 6000,
                "log_level": 0,
            }
        )
        self._topic = topic
        self.n_assigned = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._poll, daemon=True)

    def _poll(self) -> None:
        while not self._stop.is_set():
            self._consumer.poll(0.1)
            self.n_assigned = len(self._consumer.assignment())
        self._consumer.close()

    def __enter__(self) -> Self:
        self._consumer.subscribe([self._topic])
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)

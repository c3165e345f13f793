"""A real Apache Kafka of several brokers, each broker and controller in one process (KRaft).

Every partition has a copy on each broker up to three, and a record is acknowledged when two have it (one
of two brokers: one). Crashes of single brokers move leaders and coordinators; a crash of the greater part
stops all of them until it is over. A broker takes about 300 MB.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from tests.support.kafka_real import LISTENERS, START_ATTEMPTS, RealKafka, class_archive, random_id
from tests.support.kafka_topics import Topics
from tests.support.process import StartFailed, free_ports

T = TypeVar("T")

_HEAP = "-Xmx256m"
_MOST_COPIES = 3
#: Consumer groups are spread over so many coordinators.
_OFFSETS_PARTITIONS = 3


class KafkaCluster(Topics):
    """`size` brokers. Synchronous; as `RealKafka`, whose faults it has for all brokers at once.

    `folder` holds everything and goes with it; default: a temporary one. `start` raises StartFailed.
    """

    def __init__(self, size: int, folder: Path | None = None) -> None:
        self.copies = min(size, _MOST_COPIES)
        self.folder = folder or Path(tempfile.mkdtemp(prefix="inferometer-cluster-"))
        ports = free_ports(size * len(LISTENERS))
        self._ports = [
            dict(zip(LISTENERS, ports[at : at + len(LISTENERS)], strict=True))
            for at in range(0, len(ports), len(LISTENERS))
        ]
        archive = class_archive()
        jvm = [_HEAP] + ([] if archive is None else [f"-XX:SharedArchiveFile={archive}"])
        self.nodes = [
            RealKafka(self._made(number), overrides=self._settings(number), jvm=jvm)
            for number in range(1, size + 1)
        ]
        self._is_configured = False

    @property
    def bootstrap(self) -> str:
        return ",".join(f"127.0.0.1:{ports['PLAINTEXT']}" for ports in self._ports)

    @property
    def running(self) -> bool:
        return all(node.running for node in self.nodes)

    def start(self) -> KafkaCluster:
        """Start every broker that does not run; the first time format their storage."""
        for attempt in range(START_ATTEMPTS):
            try:
                self._start()
            except StartFailed:
                if self._is_configured or attempt + 1 == START_ATTEMPTS:
                    raise
                self.kill()
            else:
                self._is_configured = True
                return self
        raise AssertionError("unreachable")

    def _start(self) -> None:
        if not self._is_configured:
            quorum, cluster = self._quorum(), random_id()
            _each(
                self.nodes,
                lambda node: node.configure(self._ports[self.nodes.index(node)], [quorum], cluster),
            )
        away = [node for node in self.nodes if not node.running]
        for node in away:
            node.launch()
        for node in away:  # the first is ready when the greater part is there
            node.await_ready()

    def kill(self) -> None:
        """The power of all brokers goes."""
        for node in self.nodes:
            node.kill()

    def pause(self) -> None:
        for node in self.nodes:
            node.pause()

    def resume(self) -> None:
        for node in self.nodes:
            node.resume()

    def close(self) -> None:
        """End all brokers at once and remove their folders."""
        self._admin = None
        for node in self.nodes:
            node.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _made(self, number: int) -> Path:
        folder = self.folder / f"broker-{number}"
        folder.mkdir(parents=True)
        return folder

    def _controllers(self) -> list[str]:
        return [f"127.0.0.1:{ports['CONTROLLER']}" for ports in self._ports]

    def _quorum(self) -> str:
        voters = [
            f"{number}@{address}:{random_id()}"
            for number, address in enumerate(self._controllers(), 1)
        ]
        return f"--initial-controllers={','.join(voters)}"

    def _settings(self, number: int) -> dict[str, str]:
        copies, least = str(self.copies), str(max(1, self.copies - 1))
        internal = {
            f"{topic}.replication.factor": copies
            for topic in ("offsets.topic", "transaction.state.log", "share.coordinator.state.topic")
        }
        return internal | {
            "node.id": str(number),
            "controller.quorum.bootstrap.servers": ",".join(self._controllers()),
            "default.replication.factor": copies,
            "min.insync.replicas": least,
            "transaction.state.log.min.isr": least,
            "share.coordinator.state.topic.min.isr": least,
            "offsets.topic.num.partitions": str(_OFFSETS_PARTITIONS),
            # A follower that is frozen leaves the copies in sync within the time of a round.
            "replica.lag.time.max.ms": "3000",
            # Leaders move when a broker goes, and when a test asks for it.
            "auto.leader.rebalance.enable": "false",
        }


def _each(nodes: Sequence[RealKafka], work: Callable[[RealKafka], T]) -> list[T]:
    """At once: formatting is a start of Java for each."""
    with ThreadPoolExecutor(len(nodes)) as pool:
        return list(pool.map(work, nodes))

"""A fleet as processes: agents that write chunks, and one aggregator for each shard."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from tests.support.agent_process import AgentProcess, Json, merged
from tests.support.kafka_real import RealKafka, unique
from tests.support.otlp_receiver import OtlpReceiver
from tests.support.produce import committed, produce

AGENT = ("-m", "agent")


class FleetProcesses:
    """One topic, one group, one chunk topic, one receiver; agents and aggregators come and go."""

    def __init__(
        self,
        kafka: RealKafka,
        receiver: OtlpReceiver,
        folder: Path,
        *,
        partitions: int = 3,
        shards: int = 1,
    ) -> None:
        self.kafka, self.receiver, self.folder = kafka, receiver, folder
        self.partitions = partitions
        self.topic = kafka.fresh_topic(partitions=partitions)
        self.group = unique("fleet")
        self.chunk_topic = unique("chunks")
        self.config: Json = {
            "kafka": {
                "bootstrap_servers": [kafka.bootstrap],
                "topics": [self.topic],
                "group_id": self.group,
                "session_timeout_s": 10.0,
            },
            "delivery": {"mode": "fleet", "chunk_topic": self.chunk_topic, "shards": shards},
            "aggregate": {"missing_timeout_s": 10.0},
            "export": {"otlp": {"endpoint": receiver.grpc_endpoint}},
            # Declared: the first chunk may hold one row.
            "features": {"amount": {"kind": "numeric"}, "balance": {"kind": "numeric"}},
        }

    def agent(self, name: str, *, program: Sequence[str] = AGENT, **more: Any) -> AgentProcess:
        """A static member of that name."""
        own: Json = {"kafka": {"group_instance_id": name, "client_id": name}}
        return self._process(name, program, "run", merged(own, more))

    def aggregator(
        self, shard: int = 0, *, program: Sequence[str] = AGENT, **more: Any
    ) -> AgentProcess:
        volume = self.folder / f"volume-{shard}"
        own: Json = {"aggregate": {"shard": shard, "volume_path": str(volume)}}
        return self._process(f"shard-{shard}", program, "aggregate", merged(own, more))

    def _process(self, name: str, program: Sequence[str], command: str, more: Json) -> AgentProcess:
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        config = merged(self.config, more)
        return AgentProcess(folder, config, program=program, command=command)

    def produce(self, values: list[bytes]) -> None:
        produce(self.kafka.bootstrap, self.topic, values, partitions=self.partitions)

    def offsets(self) -> list[int]:
        """Committed by the agents' group."""
        return committed(self.kafka.bootstrap, self.group, self.topic, self.partitions)

    def rows(self) -> float:
        """Of the newest points, over all streams."""
        latest = self.receiver.points("inference.rows").latest()
        return sum(point.value for point in latest)


class Running:
    """Processes that are killed at the end: `with Running() as running: running(fleet.agent("a"))`."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    def __call__(self, process: AgentProcess) -> AgentProcess:
        return self._stack.enter_context(process)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

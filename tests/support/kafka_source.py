"""A stand-in for the pipeline behind `KafkaSource`: keeps what it is given, counts what was committed.

`Ledger` counts a record when the commit that covers it was accepted, and forgets what its epoch had
read when the group has moved on: the rule by which rows become chunks that count.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from aiokafka import AIOKafkaProducer

from agent.config import Config
from agent.decode.arena import RecordArena
from agent.errors import FencedError
from agent.ingest.consumer import Pace
from agent.ingest.kafka import KafkaSource
from agent.telemetry import Telemetry
from agent.types import Fetch, Partition, RawFetch, Record
from tests.support.raw_batches import opened_fetch, warm_fetch_kernels

#: Short, so that tests are; the defaults are for production.
QUICK = Pace(
    poll_s=0.05,
    heartbeat_s=0.3,
    house_s=0.1,
    metadata_max_age_s=0.5,
    announce_s=0.2,
    reconnect_s=0.1,
    reconnect_max_s=0.5,
    stop_consumer_s=2.0,
)


def kafka_config(bootstrap: str, topics: Sequence[str] = (), **options: Any) -> Config:
    """A configuration that reads from the earliest offset in short sessions."""
    kafka: dict[str, Any] = {
        "bootstrap_servers": bootstrap.split(","),
        "topics": list(topics),
        "auto_offset_reset": "earliest",
        "session_timeout_s": 6.0,
        "heartbeat_interval_s": 0.3,
        "rebalance_timeout_s": 6.0,
        "request_timeout_s": 5.0,
        "fetch_max_wait_s": 0.1,
    }
    document = {"kafka": kafka | options, "delivery": {"drain_timeout_s": 0.5}}
    return msgspec.convert(document, Config)


class Member:
    """One agent: a source, and the pipeline's part of the contract in its simplest form."""

    def __init__(
        self,
        config: Config,
        *,
        pace: Pace = QUICK,
        release_at_once: bool = True,
        ledger: "Ledger | None" = None,
        telemetry: Telemetry | None = None,
    ) -> None:
        warm_fetch_kernels()
        self.telemetry = telemetry or Telemetry()
        self.ledger = ledger or Ledger()
        self.release_at_once = release_at_once
        self.assigned: list[tuple[int, dict[Partition, int]]] = []
        self.revoked: list[int] = []
        self.fetches: list[Fetch] = []  # opened, when they came as raw batches
        self.n_raw = self.raw_bytes = 0
        self._arena = RecordArena()
        self.pending: dict[Partition, list[int]] = defaultdict(list)
        self.reached: dict[Partition, int] = {}
        self.hold_revoke: asyncio.Event | None = None
        self.source = KafkaSource(
            config,
            on_assigned=self._on_assigned,
            on_fetch=self._on_fetch,
            on_revoked=self._on_revoked,
            telemetry=self.telemetry,
            pace=pace,
        )

    @property
    def records(self) -> list[tuple[Partition, Record]]:
        return [(f.partition, record) for f in self.fetches for record in f.records]

    @property
    def values(self) -> list[bytes | None]:
        return [record.value for _, record in self.records]

    def offsets(self, partition: Partition) -> list[int]:
        return [record.offset for where, record in self.records if where == partition]

    def owned(self) -> set[Partition]:
        return set(self.assigned[-1][1]) if self.assigned else set()

    async def commit(self) -> None:
        """Commit all that was read in this epoch; it counts when the group accepts it."""
        epoch, rows, reached = self.source.epoch, self.pending, dict(self.reached)
        self.pending = defaultdict(list)
        try:
            refused = await self.source.commit(epoch, reached)
        except FencedError:
            self.ledger.forgotten += sum(len(offsets) for offsets in rows.values())
            return
        for partition, offsets in rows.items():
            if partition not in refused:
                self.ledger.count(partition, offsets)

    def _on_assigned(self, epoch: int, offsets: dict[Partition, int]) -> None:
        self.assigned.append((epoch, dict(offsets)))
        self.pending = defaultdict(list)
        self.reached = dict(offsets)

    def _on_fetch(self, given: Fetch | RawFetch) -> None:
        if isinstance(given, RawFetch):
            self.n_raw += 1
            self.raw_bytes += given.batches.sizes[0]
        fetch = opened_fetch(given, self._arena)
        assert fetch.epoch == self.source.epoch == self.assigned[-1][0]
        assert fetch.epoch not in self.revoked
        assert fetch.from_offset == self.reached[fetch.partition], "ranges of a partition abut"
        assert all(fetch.from_offset <= r.offset < fetch.to_offset for r in fetch.records)
        self.fetches.append(fetch)
        self.pending[fetch.partition] += [record.offset for record in fetch.records]
        self.reached[fetch.partition] = fetch.to_offset
        if self.release_at_once:
            asyncio.get_running_loop().call_soon(self.source.release, fetch.size_bytes)

    async def _on_revoked(self, epoch: int, budget_s: float) -> None:
        assert budget_s > 0
        self.revoked.append(epoch)
        if self.hold_revoke is not None:
            await self.hold_revoke.wait()
        if self.reached:
            await self.commit()
        self.pending = defaultdict(list)

    @asynccontextmanager
    async def running(self, *, commit_at_end: bool = True) -> AsyncIterator["Member"]:
        """Start, run in the background, stop as the pipeline does: fetch, commit, leave."""
        async with asyncio.TaskGroup() as tasks:
            await self.source.start()
            tasks.create_task(self.source.run(), name="source")
            try:
                yield self
            finally:
                self.source.stop_fetching()
                if commit_at_end and self.reached:
                    await self.commit()
                await self.source.stop(5.0)


class Ledger:
    """What all members together have counted, by (partition, offset)."""

    def __init__(self) -> None:
        self.counted: Counter[tuple[Partition, int]] = Counter()
        self.forgotten = 0

    def count(self, partition: Partition, offsets: Iterable[int]) -> None:
        self.counted.update((partition, offset) for offset in offsets)


async def produce(
    bootstrap: str, topic: str, values: Iterable[bytes | None], **options: Any
) -> None:
    """Send values round robin over `partitions` (default 1), in order; waits for all of them."""
    partitions = options.pop("partitions", 1)
    keys = options.pop("keys", None)
    headers = options.pop("headers", None)
    settings: dict[str, Any] = {"linger_ms": 5, "acks": "all"} | options
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, **settings) as producer:
        sent = [
            await producer.send(
                topic,
                value,
                partition=i % partitions,
                key=keys[i] if keys else None,
                headers=headers[i] if headers else None,
            )
            for i, value in enumerate(values)
        ]
        for future in sent:
            await future

"""What one assignment owns: its epoch, its partitions and where each stands, and the byte budget.

Invariants
1. An epoch's number, fence and set of partitions never change; the next assignment is a new epoch.
2. `next_offset` is the end of what was handed on; whatever the consumer's position says, the next
   range begins there.
3. After `closing` nothing of the epoch is handed on; after `ended` nothing of it is committed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiokafka.structs import TopicPartition

from agent.decode.raw_batches import RawBatches
from agent.ingest.fence import NOTHING_COMMITTED, Fence
from agent.types import Partition, Record

#: Memory of a record beside its bytes: the tuple, two bytes objects and their headers, a small int. An
#: unopened batch takes less: a row of a table.
RECORD_OVERHEAD_BYTES = 200
_OPENED_BYTES = 1 << 20


@dataclass(slots=True)
class Owned:
    """One partition of an epoch."""

    partition: Partition
    tp: TopicPartition
    state: Any  # aiokafka's TopicPartitionState of this assignment
    next_offset: int
    committed: int
    genesis: str  # metadata that says that this generation chose the start; "" otherwise
    is_label_topic: bool
    progressed_at: float  # monotonic; when it last moved or its broker said that it is at the end, or was resumed
    high_watermark: int = -1
    told_watermark: bool = False  # the pipeline knows a high watermark of this epoch
    told_at: float = 0.0  # monotonic; when a range was last handed on
    told_answer_ms: int | None = None  # `answered_ms` at that time, or when the epoch began
    watched_at: float = 0.0  # monotonic; when the watchdog last asked why it does not move
    paused: str = ""  # why, "" when it is read

    def position(self) -> int:
        """Where the consumer will read next; beyond `next_offset` only past what holds no records."""
        return int(self.state.position) if self.state.has_valid_position else self.next_offset

    @property
    def answered_ms(self) -> int | None:
        """Wall clock when a broker last answered a fetch of this partition without an error."""
        answered_ms: int | None = self.state.timestamp
        return answered_ms

    def lag(self) -> int:
        """Records between `next_offset` and the end of the log; -1 while the end is not known."""
        return max(0, self.high_watermark - self.next_offset) if self.high_watermark >= 0 else -1


@dataclass(slots=True)
class Epoch:
    """One assignment, from the assigned callback to the end of the revoked one."""

    number: int
    fence: Fence
    assigned: frozenset[TopicPartition]
    owned: dict[Partition, Owned] = field(default_factory=dict)
    positioned: bool = False  # the pipeline has been told the start offsets
    refused_at: float | None = None  # monotonic; when the group said that this fence is old
    unanswered: bool = False  # what the last commit came to is not known: it may arrive yet
    closing: bool = False
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def refused(self) -> bool:
        """Nothing of it can be committed any more; the group is to give another assignment."""
        return self.refused_at is not None

    @property
    def admits(self) -> bool:
        """Whether records of this epoch may be handed on."""
        return self.positioned and not (self.closing or self.refused)


class ByteBudget:
    """Bytes handed on and not given back. Full above the limit, until less than half of it is used."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self.used = 0
        self.full = False

    def reserve(self, size_bytes: int) -> None:
        self.used += size_bytes
        if self.used > self._limit:
            self.full = True

    def release(self, size_bytes: int) -> None:
        self.used -= size_bytes
        if self.full and self.used < self._limit // 2:
            self.full = False


def size_of(records: Sequence[Record]) -> tuple[int, int]:
    """Bytes of the values, and bytes of memory of the whole records."""
    values = sum([len(record.value) for record in records if record.value])
    rest = sum([len(record.key) for record in records if record.key])
    for record in records:
        if record.headers:
            rest += sum(len(name) + len(value or b"") for name, value in record.headers)
    return values, values + rest + RECORD_OVERHEAD_BYTES * len(records)


def size_of_batches(batches: RawBatches) -> tuple[int, int]:
    """Bytes of the batches as they lie in the log, and bytes of memory to reserve for them.

    To reserve is also what opening them takes. A kernel thread opens about a mebibyte at a time, into
    memory that it uses again, so a range is charged four times its compressed bytes, but no more than
    that mebibyte.
    """
    size_bytes, compressed_bytes = batches.sizes
    opened_bytes = min(4 * compressed_bytes, _OPENED_BYTES)
    return size_bytes, size_bytes + opened_bytes + RECORD_OVERHEAD_BYTES * len(batches)


def describe(owned: Iterable[Owned]) -> list[dict[str, Any]]:
    """One entry a partition, as `/v1/state` shows it; what is not known is null."""
    return [
        {
            "topic": one.partition.topic,
            "partition": one.partition.partition,
            "position": one.next_offset,
            "high_watermark": None if one.high_watermark < 0 else one.high_watermark,
            "lag": None if one.high_watermark < 0 else one.lag(),
            "committed": None if one.committed == NOTHING_COMMITTED else one.committed,
            "paused": one.paused or None,
        }
        for one in sorted(owned, key=lambda one: one.partition)
    ]

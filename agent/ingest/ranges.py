"""Turns what a poll returned into ranges that abut: records, damaged batches, and offsets without records.

With `kafka.fetch: raw` a range is a `RawFetch`, a table of unopened batches, else a `Fetch` of records.

Invariants
1. The ranges of one partition in one epoch abut, from its start on; a record lies in one of them.
2. A damaged batch is read again before it is given up, with everything behind it.
3. Offsets that hold no record (transaction markers, compacted ones) extend a range, or are one.
4. A range without offsets says that a broker has answered since the last range, and that nothing is
   behind `high_watermark`: the first once an epoch, then every `heartbeat_s`. A partition whose broker
   is silent gets none, so that its reader can tell a log that is idle from one that is out of reach.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import Any

from agent.config import Kafka
from agent.decode.raw_batches import RawBatches, joined
from agent.ingest.assignment import (
    RECORD_OVERHEAD_BYTES,
    ByteBudget,
    Epoch,
    Owned,
    size_of,
    size_of_batches,
)
from agent.ingest.batches import CorruptRange
from agent.telemetry import Telemetry
from agent.types import Drop, Fetch, Partition, RawFetch

log = logging.getLogger(__name__)


class RangeMaker:
    """Hands ranges on, and reserves their bytes. One per source."""

    def __init__(
        self,
        kafka: Kafka,
        on_fetch: Callable[[Any], None],
        budget: ByteBudget,
        telemetry: Telemetry,
        *,
        corrupt_attempts: int,
        heartbeat_s: float,
    ) -> None:
        self._group = kafka.group_id
        self._raw = kafka.fetch == "raw"
        self._committed_only = kafka.isolation_level == "read_committed"
        self._on_fetch = on_fetch
        self._budget = budget
        self._telemetry = telemetry
        self._corrupt_attempts = corrupt_attempts
        self._heartbeat_s = heartbeat_s
        self._corrupt_seen: dict[tuple[Partition, int], int] = {}

    def hand_on(self, consumer: Any, epoch: Epoch, owned: Owned, items: list[Any]) -> None:
        """Records, or tables of batches, of one partition, in offset order, with damaged ranges in their
        places.

        The consumer must still be assigned the partition: it may be told to seek.
        """
        corrupt = [i for i, item in enumerate(items) if type(item) is CorruptRange]
        n_corrupt = 0
        for index in corrupt:
            damage: CorruptRange = items[index]
            if self._try_again(owned.partition, damage.offset):
                # It may be the wire and not the disk.
                self._put(epoch, owned, _sound(items[:index]), damage.offset, n_corrupt)
                consumer.seek(owned.tp, damage.offset)
                return
            n_corrupt += self._give_up(owned, damage)
        to_offset = owned.position()
        end = self.end_of(owned)
        if corrupt and type(items[-1]) is CorruptRange and 0 <= end < to_offset:
            # A damaged header may claim anything; the log ends where the broker says it does.
            to_offset = max(end, items[-1].offset + 1)
            consumer.seek(owned.tp, to_offset)
        sound = _sound(items) if corrupt else items
        if sound:
            last = sound[-1]
            to_offset = max(
                to_offset, last.next_offset if type(last) is RawBatches else last.offset + 1
            )
        self._put(epoch, owned, sound, to_offset, n_corrupt)

    def hand_on_progress(self, epoch: Epoch, owned: Owned) -> None:
        """A range without records, when the position moved past such offsets; and the end of a log that
        has nothing new: only so can its reader know that it has caught up, and still is."""
        position = owned.position()
        if position > owned.next_offset or self._is_heartbeat_due(owned, position):
            self._put(epoch, owned, [], max(position, owned.next_offset), 0)

    def _is_heartbeat_due(self, owned: Owned, position: int) -> bool:
        if owned.answered_ms in (None, owned.told_answer_ms):
            return False
        end = self.end_of(owned)
        if not owned.told_watermark:
            return end >= 0
        if owned.paused or not 0 <= end <= position:
            return False
        return time.monotonic() - owned.told_at >= self._heartbeat_s

    def end_of(self, owned: Owned) -> int:
        """End of what may be read: the high watermark, or the last stable offset; -1 unknown."""
        end = owned.state.highwater
        if end is None:
            return owned.high_watermark
        stable = owned.state.lso
        if self._committed_only and stable is not None and stable >= 0:
            end = min(end, stable)
        return int(end)

    def _try_again(self, partition: Partition, offset: int) -> bool:
        seen = self._corrupt_seen.get((partition, offset), 0) + 1
        if seen >= self._corrupt_attempts:
            self._corrupt_seen.pop((partition, offset), None)
            return False
        self._corrupt_seen[partition, offset] = seen
        return True

    def _give_up(self, owned: Owned, damage: CorruptRange) -> int:
        to_offset = damage.to_offset
        if (end := self.end_of(owned)) >= 0:
            to_offset = max(min(to_offset, end), damage.offset + 1)
        n = to_offset - damage.offset
        log.warning(
            "%s/%d: offsets %d to %d cannot be read (%s): at most %d records dropped as %s",
            *owned.partition,
            damage.offset,
            to_offset - 1,
            damage.why,
            n,
            Drop.CORRUPT_BATCH,
        )
        return n

    def _put(
        self, epoch: Epoch, owned: Owned, items: list[Any], to_offset: int, n_corrupt: int
    ) -> None:
        held: Any = joined(items) if self._raw else items
        data_bytes, size_bytes = (size_of_batches if self._raw else size_of)(held)
        size_bytes = size_bytes or RECORD_OVERHEAD_BYTES  # heartbeats that wait are bounded as well
        owned.high_watermark = self.end_of(owned)
        owned.told_watermark = owned.high_watermark >= 0
        fetch = (RawFetch if self._raw else Fetch)(
            epoch.number,
            owned.partition,
            owned.next_offset,
            to_offset,
            held,
            owned.high_watermark,
            size_bytes,
            owned.is_label_topic,
            n_corrupt,
        )
        owned.next_offset = to_offset
        owned.progressed_at = owned.told_at = time.monotonic()
        owned.told_answer_ms = owned.answered_ms
        self._budget.reserve(size_bytes)
        if items:
            topic, partition = owned.partition
            self._telemetry.add("inferometer.fetch.bytes", data_bytes)
            self._telemetry.add(
                "messaging.client.consumed.messages",
                held.n_records if self._raw else len(items),
                topic=topic,
                partition=partition,
                group=self._group,
            )
        self._on_fetch(fetch)


def _sound(items: Iterable[Any]) -> list[Any]:
    return [item for item in items if type(item) is not CorruptRange]

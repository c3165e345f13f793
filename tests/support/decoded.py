"""Reading blocks back into plain values, and short ways to decode what a test writes down."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import orjson

from agent.config import Config, Decode
from agent.decode.events import Decoded, JsonDecoder
from agent.decode.lanes import StreamTable
from agent.sketch.cells import ABSENT_BITS, HASH_ABSENT, HASH_NULL, NULL_BITS
from agent.sketch.hash import merge_hash
from agent.types import Column, Drop, Fetch, JsonType, Partition, Record, StreamKey, Tally

PARTITION = Partition("events", 0)
NULL = "<null>"


@dataclass
class Row:
    """One row as a reader of the block sees it: values by (column, type); nulls are NULL."""

    stream: StreamKey
    time_ms: int
    window: int
    is_error: bool
    values: dict[tuple[Column, JsonType], Any] = field(default_factory=dict)

    def value(self, column: Column) -> Any:
        """The one value of this column, of whatever type; KeyError when absent."""
        found = [value for (name, _), value in self.values.items() if name == column]
        if not found:
            raise KeyError(column)
        assert len(found) == 1, f"{column} has two values"
        return found[0]


@dataclass
class Result:
    """Everything that one decode gave, slices joined."""

    rows: list[Row]
    tally: Tally
    dead: list[tuple[Record, Drop]]
    parts: list[Decoded]

    @property
    def max_event_time_ms(self) -> int:
        return max((part.max_event_time_ms for part in self.parts), default=-1)


def read_rows(table: StreamTable, decoded: Decoded) -> list[Row]:
    """Rows of all blocks. Checks on the way that hashes are those of the text they stand beside."""
    rows = []
    for block in decoded.blocks:
        bits = block.numbers.view(np.uint64)
        assert block.numbers.flags.c_contiguous
        for starts, values in (
            (block.number_start, block.numbers),
            (block.string_first, block.string_hash),
        ):
            assert len(starts) == block.n + 1
            assert starts[0] >= 0
            assert starts[-1] <= len(values)
            assert (np.diff(starts) >= 0).all()
        assert len(block.stream) == block.n == len(block.window) == len(block.is_error)
        for i in range(block.n):
            stream = int(block.stream[i])
            if stream < 0:
                continue
            row = Row(
                table.keys[stream],
                int(block.event_time_ms[i]),
                int(block.window[i]),
                bool(block.is_error[i]),
            )
            first, end = block.number_start[i : i + 2].tolist()
            for lane, at in enumerate(range(first, end)):
                if bits[at] == ABSENT_BITS:
                    continue
                is_null = bits[at] == NULL_BITS
                value = NULL if is_null else float(block.numbers[at])
                row.values[table.numeric_lanes[stream][lane]] = value
            first, end = block.string_first[i : i + 2].tolist()
            for lane, at in enumerate(range(first, end)):
                if block.string_hash[at] == HASH_ABSENT:
                    continue
                key = (table.string_lanes[stream][lane], JsonType.STRING)
                if block.string_hash[at] == HASH_NULL:
                    row.values[key] = NULL
                    continue
                start, length = int(block.string_start[at]), int(block.string_length[at])
                raw = block.text[start : start + length].tobytes()
                assert block.string_hash[at] == merge_hash(raw)
                row.values[key] = raw.decode()
            rows.append(row)
    return rows


def records_of(
    values: Iterable[bytes | None], timestamp_ms: int = 1_767_225_600_000
) -> list[Record]:
    return [Record(i, timestamp_ms, None, value, ()) for i, value in enumerate(values)]


def fetch_of(records: list[Record], *, is_label_topic: bool = False) -> Fetch:
    end = records[-1].offset + 1 if records else 0
    size = sum(len(record.value or b"") for record in records)
    return Fetch(1, PARTITION, 0, end, records, -1, size, is_label_topic)


def run(decoder: JsonDecoder, table: StreamTable, fetch: Fetch) -> Result:
    """Decode the whole fetch."""
    result = Result([], Tally(), [], [])
    for part in decoder.decode(fetch, "lineage"):
        result.rows += read_rows(table, part)
        result.tally.add(part.tally)
        result.dead += part.dead
        result.parts.append(part)
    return result


def decode(
    *events: Any,
    config: Config | None = None,
    is_label_topic: bool = False,
    sampler: Any = None,
    **decode_options: Any,
) -> Result:
    """Decode events given as JSON values, bytes (taken as they are), None (tombstones) or Records."""
    if config is None:
        config = Config(decode=Decode(**decode_options))
    table = StreamTable()
    records = []
    for i, event in enumerate(events):
        if isinstance(event, Record):
            records.append(event)
            continue
        value = event if event is None or isinstance(event, bytes) else orjson.dumps(event)
        records += records_of([value])[:1]
        records[-1] = records[-1]._replace(offset=i)
    decoder = JsonDecoder(config, table, sampler)
    return run(decoder, table, fetch_of(records, is_label_topic=is_label_topic))


def with_options(config: Config, **options: Any) -> Config:
    return msgspec.structs.replace(config, **options)

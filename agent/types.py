"""The words shared by all stages: stream keys, columns, blocks, chunks, points.

Everything that crosses a stage boundary is defined here; behaviour lives in the stages.
Times are epoch milliseconds (`_ms`) for events and epoch nanoseconds (`_ns`) for exports.
"""

from __future__ import annotations

import enum
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from agent.decode.raw_batches import RawBatches
    from agent.sketch.packed import PackedCells

# ---------------------------------------------------------------- identity


class StreamKey(NamedTuple):
    """What is observed: one model, one version, one combination of segment values."""

    model: str
    version: str  # "" when the producer gives none
    segment: tuple[tuple[str, str], ...] = ()  # sorted by name


#: Value that stands for "folded because the budget was used up", in any part of a stream key.
OVERFLOW = "_overflow"


class Role(enum.StrEnum):
    """Which part of an event a column comes from."""

    FEATURE = "feature"
    PREDICTION = "prediction"  # names: value, label, score, probabilities.<class>, vector, or the object's keys
    LATENCY = "latency"  # one column, name "latency", seconds
    USAGE = "usage"  # input_tokens, output_tokens ({token}); ttft (s)


class Column(NamedTuple):
    role: Role
    name: str  # nested objects are flattened with dots


class JsonType(enum.IntEnum):
    """What a value was on the wire. A delta keeps one sub-sketch for each type it sees."""

    NUMBER = 0
    BOOLEAN = 1  # a numeric lane holding 0.0 or 1.0
    STRING = 2
    VECTOR = (
        3  # a numeric lane holding the Euclidean norm; an array with anything but numbers is OTHER
    )
    OTHER = 4  # arrays of non-numbers: a numeric lane, always non-finite; only ever a violation


class Kind(enum.StrEnum):
    """What the fold decided a column is; then held. Values of another type are violations."""

    NUMERIC = "numeric"
    CATEGORICAL = "categorical"
    BOOLEAN = "boolean"
    TEXT = "text"
    VECTOR = "vector"


# ---------------------------------------------------------------- accounting


class Drop(enum.StrEnum):
    """Why a record, or an event inside one, was not counted as rows. The unit is the record or event."""

    TOMBSTONE = "tombstone"  # null value
    EMPTY = "empty"  # zero bytes, or an empty array
    TOO_LARGE = "too_large"  # value above decode.max_record_bytes
    INVALID_JSON = "invalid_json"  # not JSON, not UTF-8, truncated
    TOO_DEEP = "too_deep"  # nesting above decode.max_depth
    NOT_AN_EVENT = "not_an_event"  # JSON, but not an object (or an array of them)
    NO_MODEL = "no_model"  # no model name, and no default
    NO_CONTENT = "no_content"  # none of features, prediction, usage, label
    BAD_FIELD = (
        "bad_field"  # a field of the event model has the wrong type (ts, model, features ...)
    )
    TOO_WIDE = "too_wide"  # more values than decode.max_features
    CORRUPT_BATCH = "corrupt_batch"  # checksum or framing of a Kafka batch
    SHED = "shed"  # left out under overload (`overload.mode: shed`): never opened


class Irregular(enum.StrEnum):
    """What was odd about a row that was counted all the same."""

    LATE = "late"  # its window is sealed: in the totals, not in a window
    FUTURE = "future"  # event time beyond the skew allowed: in the totals, not in a window
    DUPLICATE_KEY = "duplicate_key"  # the last value won, as in orjson
    BAD_TRACE_CONTEXT = "bad_trace_context"  # traceparent present, not valid W3C
    BAD_LATENCY = "bad_latency"  # negative or not a number: latency left out
    LONG_NAME = (
        "long_name"  # a model, version, segment or feature name was cut to decode.max_name_bytes
    )
    TOO_MANY_COLUMNS = (
        "too_many_columns"  # the stream has all the columns it may have: value left out
    )


class Tier(enum.StrEnum):
    """Which decoder produced a row."""

    TEMPLATE = "template"  # compiled: a layout of JSON text that was seen before
    SCAN = "scan"  # compiled: keys that were seen before, in any order
    ORJSON = "orjson"
    TABLE = "table"  # CSV and Parquet: typed columns, no JSON text


def _no_counts() -> Counter[str]:
    """An empty counter, without the cost of `Counter()`: four for each slice."""
    return Counter.__new__(Counter)


@dataclass(slots=True)
class Tally:
    """Counts made while decoding; summed, never sampled. Travels in the chunk."""

    records: int = 0
    events: int = 0
    rows: int = 0
    labels: int = 0
    size_bytes: int = 0  # record values
    rows_by_tier: Counter[str] = field(default_factory=_no_counts)
    dropped: Counter[str] = field(default_factory=_no_counts)  # by Drop
    # by Irregular: events (duplicate_key in the text: records); late and future: rows, by the fold
    irregular: Counter[str] = field(default_factory=_no_counts)
    labels_by_model: Counter[str] = field(
        default_factory=_no_counts
    )  # "" = label without model; bounded

    def add(self, other: Tally) -> None:
        """Add `other`, in place."""
        self.records += other.records
        self.events += other.events
        self.rows += other.rows
        self.labels += other.labels
        self.size_bytes += other.size_bytes
        # Once a slice, where mostly there is nothing to add.
        for name, n in other.rows_by_tier.items():
            self.rows_by_tier[name] += n
        if other.dropped:
            self.dropped.update(other.dropped)
        if other.irregular:
            self.irregular.update(other.irregular)
        if other.labels_by_model:
            self.labels_by_model.update(other.labels_by_model)


# ---------------------------------------------------------------- source -> decode


class Partition(NamedTuple):
    """One partition of a topic; a file is partition 0 of its path."""

    topic: str
    partition: int


class Record(NamedTuple):
    """One record as the stock consumer hands it over (files make them too)."""

    offset: int
    timestamp_ms: int  # Kafka timestamp; files: -1
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]


@dataclass(slots=True)
class Fetch:
    """Records of one partition under one epoch: what the loop hands to a kernel thread."""

    epoch: int
    partition: Partition
    from_offset: int  # half-open range [from, to) that these records cover, gaps included
    to_offset: int
    records: list[Record]
    high_watermark: int  # end of the log as last seen; -1 unknown
    size_bytes: int  # reserved from the byte budget; given back when sketched
    is_label_topic: bool = False
    n_corrupt: int = 0  # offsets inside the range that could not be read: Drop.CORRUPT_BATCH


@dataclass(slots=True)
class RawBatch:
    """One record batch as it lies in the log (format version 2, checksum right), not decompressed.

    Batches of older formats are written again in this one, so that there is one kind. Such single
    batches are made for what is odd only; a range is a table (`RawBatches`).
    """

    data: memoryview  # the whole batch, header included
    base_offset: int
    next_offset: int  # behind the last record; says nothing about gaps
    attributes: int  # codec & 7, LogAppendTime & 8
    first_timestamp: int  # ms; record deltas count from it
    max_timestamp: int  # ms; of all records, when LogAppendTime is set
    n_records: int  # as the header claims
    min_offset: int  # records below it are skipped: the position lay inside the batch


@dataclass(slots=True)
class RawFetch:
    """Like `Fetch`, with batches instead of records: one table of them."""

    epoch: int
    partition: Partition
    from_offset: int
    to_offset: int
    batches: RawBatches
    high_watermark: int
    size_bytes: int
    is_label_topic: bool = False
    n_corrupt: int = 0


@dataclass(slots=True)
class TableFetch:
    """Rows of a table (CSV, Parquet): what a reader hands to the decoder instead of a Fetch.

    `is_text`: cells are text as written (CSV), typed by the decoder; else typed values.
    """

    partition: Partition
    from_offset: int  # number of the first row
    columns: tuple[str, ...]  # dots nest
    rows: list[Any]  # sequences of cells, in the order of `columns`
    is_text: bool
    default_model: str  # when neither a column nor the configuration names the model
    size_bytes: int


# ---------------------------------------------------------------- decode -> sketch


class BlockAddresses(NamedTuple):
    """Where the arrays of a block lie, as kernels are told; whoever says so has checked them.

    rows     of stream, window, event_time_ms, is_error, numbers, number_start; length of numbers
    strings  of string_hash, string_start, string_length, text; length of text; of string_first;
             length of string_hash
    """

    rows: tuple[int, int, int, int, int, int, int]
    strings: tuple[int, int, int, int, int, int, int]


@dataclass(slots=True)
class Block:
    """Rows of one partition, in offset order, column values row by row. The unit of work from decode to sketch.

    A row's lanes mean what its stream's lanes say (`decode/lanes.py`): lane j of a numeric row is the
    (column, type) that stream put there first. Rows are as wide as they need to be: row r's numbers are
    numbers[number_start[r] : number_start[r + 1]], its strings lie at string_first[r] to string_first[r + 1].
    A row may have fewer lanes than its stream (lanes learned later), never more.

    n                rows
    stream           int32[n], index into the kernel thread's stream table; -1: a row that is not to be
                     counted here
    event_time_ms    int64[n]
    window           int64[n], event_time_ms // width, or WINDOW_LATE / WINDOW_FUTURE
    is_error         uint8[n], 1 when status says so
    numbers          float64[...]. ABSENT and NULL are NaNs with a payload (`sketch.cells.ABSENT_BITS`,
                     `NULL_BITS`); any other NaN or infinity is non-finite
    number_start     int64[n + 1], ascending
    string_hash      uint64[...]; 0 absent, 1 null, else merge_hash of the text
    string_start     int64[...], byte position in `text`
    string_length    int32[...], bytes
    string_first     int64[n + 1], ascending
    text             uint8[...], UTF-8 of all strings, 64 readable bytes before and behind each
    """

    n: int
    stream: NDArray[np.int32]
    event_time_ms: NDArray[np.int64]
    window: NDArray[np.int64]
    is_error: NDArray[np.uint8]
    numbers: NDArray[np.float64]
    number_start: NDArray[np.int64]
    string_hash: NDArray[np.uint64]
    string_start: NDArray[np.int64]
    string_length: NDArray[np.int32]
    string_first: NDArray[np.int64]
    text: NDArray[np.uint8]
    at: BlockAddresses | None = None  # of these arrays, from a maker that knows them


WINDOW_LATE = -(1 << 62)
WINDOW_FUTURE = 1 << 62


class SpanWhy(enum.StrEnum):
    """Why a request span was kept."""

    ERROR = "error"
    SLOW = "slow"
    OUT_OF_RANGE = "out_of_range"
    BASE_RATE = "base_rate"


@dataclass(slots=True)
class RequestSpan:
    """A request rebuilt from an event (state.md, "Spans rebuilt from events"). No feature values."""

    trace_id: bytes  # 16
    span_id: bytes  # 8, fixed hash of (lineage, topic, partition, offset, row)
    parent_span_id: bytes  # 8, or b"" (batch rows and context-free rows have none)
    link: tuple[bytes, bytes] | None  # (trace id, span id) instead of a parent, for rows of a batch
    trace_state: str
    start_ns: int
    end_ns: int
    stream: StreamKey
    why: SpanWhy
    status: str  # "" when ok, else the producer's status text, cut
    request_id: str
    partition: Partition
    offset: int
    row: int
    sampling_threshold: int | None  # 56-bit rejection threshold for `ot=th:`, None when always kept
    out_of_range: tuple[Column, ...] = ()


@dataclass(slots=True)
class Exemplar:
    """A measured value with the kept request span behind it."""

    stream: StreamKey
    column: Column
    value: float
    time_ns: int
    trace_id: bytes
    span_id: bytes


# ---------------------------------------------------------------- delta -> fold


@dataclass(slots=True)
class PartitionRange:
    """What a chunk covers of one partition: the half-open offset range and its clock."""

    partition: Partition
    from_offset: int
    to_offset: int
    lineage: str
    prev: str  # chunk id before this one in the lineage, "" at genesis
    max_event_time_ms: int  # largest admissible event time seen in the lineage; -1 none yet
    high_watermark: int
    caught_up: bool
    last_row_ns: int  # wall clock when a row last arrived; 0 never


@dataclass(slots=True)
class CellRef:
    """Where one (column, type) of a group lies in the chunk's cell arrays."""

    column: Column
    type: JsonType
    cell: int  # row of Chunk.numeric or Chunk.strings, by type


@dataclass(slots=True)
class Group:
    """All rows of one stream in one window of one chunk."""

    stream: StreamKey
    window: int
    rows: int
    errors: int
    min_event_time_ms: int
    max_event_time_ms: int
    cells: list[CellRef]


@dataclass(slots=True)
class Chunk:
    """A frozen delta: the unit of delivery. Id = run id and number. Read-only once made.

    numeric, strings   packed cells (`sketch.packed`)
    shed_bits          of 2^shed_bits records of events one was decoded (`decode.shed`); counts are raw
    """

    run_id: str
    number: int
    epoch: int
    digest: str  # merge digest: window width, hash version, sketch parameters
    ranges: list[PartitionRange]
    groups: list[Group]
    numeric: PackedCells
    strings: PackedCells
    tally: Tally
    spans: list[RequestSpan]
    exemplars: list[Exemplar]
    shed_bits: int = 0


# ---------------------------------------------------------------- fold -> emit

Attributes = tuple[tuple[str, str | int | float | bool], ...]  # sorted by key


class NumberPoint(msgspec.Struct, gc=False):
    """A sum's or gauge's point. `start_ns` is 0 for gauges. `ended` sends a no-recorded-value point.

    Points are in no cycle, and an export has 100,000: the cyclic collector does not look at them.
    """

    attributes: Attributes
    value: int | float
    start_ns: int
    time_ns: int
    ended: bool = False


class HistogramPoint(msgspec.Struct, gc=False):
    """An exponential histogram's point; counts are copies owned by the point (uint64)."""

    attributes: Attributes
    start_ns: int
    time_ns: int
    count: int
    sum: float | None  # None for columns that may be negative
    scale: int
    zero_count: int
    zero_threshold: float
    positive_offset: int
    positive: NDArray[np.uint64]
    negative_offset: int
    negative: NDArray[np.uint64]
    exemplars: tuple[Exemplar, ...] = ()
    ended: bool = False


@dataclass(slots=True)
class Metric:
    """All points of one metric; the name is a key of the registry in `emit.registry`."""

    name: str
    points: list[NumberPoint] | list[HistogramPoint]


@dataclass(slots=True)
class Snapshot:
    """Copies of folded state at one entry: what exporters, scrapes and pages read."""

    time_ns: int
    metrics: list[Metric]
    covers: dict[Partition, int]  # offset up to which folded rows are in it, exclusive


Json = dict[str, Any]

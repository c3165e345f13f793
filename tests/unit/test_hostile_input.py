"""Input that somebody made to hurt: what it costs the decoder and the sketches, in processor time and memory.

Costs are ratios within one run: against the same number of harmless rows, or the plain decoder.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import cramjam
import numpy as np
import orjson
import pytest

from agent.config import Config, Traces
from agent.decode.arena import LOAD_BYTES, MAX_BATCH_BYTES
from agent.decode.events import JsonDecoder
from agent.decode.fast import FastDecoder
from agent.decode.lanes import StreamTable
from agent.decode.raw_batches import table_of
from agent.decode.spans import SpanSampler
from agent.sketch.delta import Delta
from agent.types import Drop, Fetch, RawFetch, Record, Tally
from tests.support.blocks import LaneTable, Row, StreamKey, block_of, feature
from tests.support.built import REPOSITORY
from tests.support.decoded import PARTITION, fetch_of
from tests.support.raw_batches import CODECS, ZSTD, batches_of, body_of, built, encoded

MS = 1_767_225_600_000
TRACE = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
MIB = 1 << 20


def used_s(work: Callable[[], object]) -> float:
    """Processor time of this thread."""
    began = time.thread_time()
    work()
    return time.thread_time() - began


class Path:
    """A decoder and the delta behind it, as a kernel thread has them."""

    def __init__(self, kind: Any = FastDecoder, config: Config | None = None) -> None:
        config = config or Config()
        self.table = StreamTable()
        sampler = SpanSampler(Traces(base_rate=0.001), {}, clock=lambda: 0.0)
        self.decoder = kind(config, self.table, sampler)
        self.delta = Delta(self.table)
        self.tally = Tally()
        self.spans: list[Any] = []

    def take(self, fetch: Fetch | RawFetch) -> None:
        self.decoder.now_ms = MS + 10_000_000
        for part in self.decoder.decode(fetch, "lineage"):
            for block in part.blocks:
                self.delta.add(block)
            self.tally.add(part.tally)
            self.spans += part.spans


def records_of(values: list[bytes]) -> list[Record]:
    return [Record(i, MS + i, None, value, ()) for i, value in enumerate(values)]


def raw_of(records: list[Record], a_batch: int = 200, codec: int = 0) -> RawFetch:
    batches = []
    for at in range(0, len(records), a_batch):
        data = built(records[at : at + a_batch], codec=codec)
        batches += batches_of(bytes(data), records[at].offset)[0]
    end = records[-1].offset + 1
    return RawFetch(1, PARTITION, records[0].offset, end, table_of(batches), end, 0)


# ---------------------------------------------------------------- text made to defeat what was learned


def shuffled(rng: random.Random, i: int) -> bytes:
    """Ten features in an order, with white space and number formats, that were never seen before."""
    names = [f"f{j}" for j in range(10)]
    rng.shuffle(names)
    blank = rng.choice([" ", "\t", "\n"]) * rng.randrange(1, 5)
    parts = [f'"{n}"{blank}:{rng.uniform(-1, 1):.{rng.randrange(1, 17)}e}' for n in names]
    fields = [
        '"model":"m"',
        f'"id":"{i}"',
        f'"ts":{MS + i}',
        '"features":{' + ",".join(parts) + "}",
    ]
    rng.shuffle(fields)
    return ("{" + f",{blank}".join(fields) + "}").encode()


def unknown_keys(rng: random.Random, i: int) -> bytes:
    """A key of its own in every record: nothing that is learned of one helps with the next."""
    return orjson.dumps(
        {
            "model": "m",
            "ts": MS + i,
            "features": {"a": rng.random()},
            f"x{rng.random()}": {f"y{rng.random()}": [i]},
        }
    )


@pytest.mark.parametrize("make", [shuffled, unknown_keys])
def test_layouts_that_never_return_cost_little_more_than_without_learning(make: Any) -> None:
    rng = random.Random(3)
    fetch = fetch_of(records_of([make(rng, i) for i in range(3000)]))
    fast, plain = Path(FastDecoder), Path(JsonDecoder)
    cost, least = used_s(lambda: fast.take(fetch)), used_s(lambda: plain.take(fetch))
    assert fast.tally.rows == plain.tally.rows == 3000
    assert cost < 3 * least


def test_models_with_ever_new_columns_cost_the_same_from_the_first_to_the_last() -> None:
    rng = random.Random(4)
    path = Path()

    def fetch(first: int) -> Fetch:
        values = [
            orjson.dumps(
                {"model": "m", "features": {f"f{first + i}-{j}": rng.random() for j in range(20)}}
            )
            for i in range(150)
        ]
        return fetch_of(records_of(values))

    fetches = [fetch(150 * i) for i in range(8)]
    costs = [used_s(lambda fetch=fetch: path.take(fetch)) for fetch in fetches]  # type: ignore[misc]
    assert path.tally.rows == 1200
    assert min(costs[4:]) < 3 * max(costs[:4])


# ---------------------------------------------------------------- values and hashes


def test_labels_without_end_take_no_memory_and_no_more_time() -> None:
    """As many as there are rows; a sketch has one size."""
    path = Path()

    def fetch(first: int) -> RawFetch:
        values = [
            b'{"model":"m","ts":%d,"features":{"c":"category %d"},"prediction":{"label":"l%d"}}'
            % (MS, i, i)
            for i in range(first, first + 20_000)
        ]
        return raw_of(records_of(values), a_batch=2000)

    fetches = [fetch(20_000 * i) for i in range(6)]
    path.take(fetches[0])
    size = path.delta.size_bytes
    costs = [used_s(lambda fetch=fetch: path.take(fetch)) for fetch in fetches[1:]]  # type: ignore[misc]
    assert path.tally.rows == 120_000
    assert path.delta.size_bytes == size
    assert min(costs[3:]) < 2 * max(costs[:2])


def test_texts_whose_public_hashes_collide_cost_no_more_than_others() -> None:
    """`merge_hash` is public, so they can be made; sketches look at one place a hash, whatever it is."""
    rng = np.random.default_rng(5)
    n = 20_000
    table = LaneTable()
    key = StreamKey("m", "", ())
    block = block_of(table, [Row(key, MS, {feature("c"): f"t{i}"}) for i in range(n)])
    honest = rng.integers(2, 1 << 63, n).astype(np.uint64)
    same_low = (honest & ~np.uint64(0xFFFFF)) | np.uint64(7)
    same_high = (honest & np.uint64(0xFFFFF)) | np.uint64(0xABC << 50)
    same = np.full(n, 99, np.uint64)
    costs = []
    for hashes in (honest, honest, same_low, same_high, same):
        given = replace(block, string_hash=hashes)
        delta = Delta(table)
        delta.add(given)
        costs.append(min(used_s(lambda b=given, d=delta: d.add(b)) for _ in range(5)))  # type: ignore[misc]
    assert max(costs[2:]) < 3 * max(costs[:2])


def test_tables_that_producers_name_things_in_have_a_key_of_their_own_in_every_process() -> None:
    script = (
        "import sys, json; sys.modules['numba'] = None; from agent.compiled import mode; mode.use_files(); "
        "from agent.decode.kernels.hashing import PROCESS_KEY; print(json.dumps(PROCESS_KEY.tolist()))"
    )
    keys = [
        subprocess.run(
            [sys.executable, "-c", script],
            cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=True,
        ).stdout
        for _ in range(2)
    ]  # fmt: skip
    assert len(set(keys)) == 2
    assert all(len(set(orjson.loads(key))) == 4 for key in keys)


def test_python_tables_are_keyed_too() -> None:
    """Streams and names live in dicts: their hash is SipHash under a key of the process, unless turned off."""
    assert sys.hash_info.algorithm.startswith("siphash")
    assert sys.flags.hash_randomization == 1


# ---------------------------------------------------------------- records


def test_headers_in_the_thousands_cost_their_bytes_and_the_last_trace_context_is_found() -> None:
    value = b'{"model":"m","features":{"a":1},"status":"500"}'
    many = (*((f"h{i}", b"v") for i in range(5000)), ("traceparent", TRACE))
    records = [Record(i, MS, None, value, many) for i in range(100)]
    fetch = raw_of(records, a_batch=10, codec=CODECS["lz4"])
    path = Path()
    cost_s = used_s(lambda: path.take(fetch))
    assert path.tally.rows == 100
    assert len(path.spans) > 0
    assert {span.parent_span_id.hex() for span in path.spans} == {"00f067aa0ba902b7"}
    assert cost_s / (100 * 5001) < 2e-6, "a header costs less than 2 us"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"[" * 1_000_000, Drop.TOO_DEEP),
        (b'{"a":' * 200_000 + b"1" + b"}" * 200_000, Drop.TOO_DEEP),
        (b'{"model":"m","features":{' + b'"a":1,' * 150_000 + b'"b":2}}', None),
        (b'{"model":"m","features":{"a":"' + b"\\u0041" * 170_000 + b'"}}', None),
        (b'{"model":"m","features":{"a":[' + b"1," * 500_000 + b"1]}}", None),
        (b'{"model":"m","features":{"a":' + b"9" * 1_000_000 + b"}}", None),
        (b" " * 1_000_000, Drop.INVALID_JSON),
    ],
    ids=["open", "deep", "one key", "escapes", "vector", "digits", "blank"],
)
def test_a_megabyte_of_json_made_to_be_slow_costs_its_bytes(
    value: bytes, reason: Drop | None
) -> None:
    """A record at the broker's limit: at most 200 ns a byte, however it is written."""
    path = Path()
    harmless = orjson.dumps({"model": "m", "features": {"a": 1}})
    records = records_of([value, harmless, value])
    cost_s = used_s(lambda: path.take(raw_of(records, a_batch=1)))
    assert path.tally.records == 3
    assert path.tally.events + sum(path.tally.dropped.values()) == 3
    if reason is not None:
        assert path.tally.dropped == {reason: 2}
    assert cost_s < 200e-9 * 2 * len(value)


def bomb(size_bytes: int) -> bytes:
    """A batch of one record that zstd opens from some kilobytes to this size."""
    body = body_of(Record(0, MS, None, bytes(size_bytes), ()), 0, MS)
    packed = bytes(cramjam.zstd.compress(body, level=1))
    assert len(packed) < size_bytes / 5000
    return bytes(
        encoded(packed, attributes=ZSTD, n_records=1, first_timestamp=MS, max_timestamp=MS)
    )


def fetch_of_bombs(data: bytes, n: int) -> RawFetch:
    batches = []
    for i in range(n):
        batches += batches_of(i.to_bytes(8, "big") + data[8:], i)[0]
    return RawFetch(1, PARTITION, 0, n, table_of(batches), n, 0)


@pytest.mark.parametrize("size_bytes", [MAX_BATCH_BYTES - 4096, 4 * MAX_BATCH_BYTES])
def test_bombs_are_opened_to_the_limit_and_no_further(size_bytes: int) -> None:
    """What a byte on the wire can make an agent do is bounded by that limit, whatever it claims to hold."""
    path = Path()
    n = 4
    cost_s = used_s(lambda: path.take(fetch_of_bombs(bomb(size_bytes), n)))
    reason = Drop.TOO_LARGE if size_bytes < MAX_BATCH_BYTES else Drop.CORRUPT_BATCH
    assert path.tally.dropped == {reason: n}
    arena = path.decoder._arena
    assert arena is not None
    assert arena.size_bytes < MAX_BATCH_BYTES + 4 * LOAD_BYTES
    assert cost_s / n < 0.5

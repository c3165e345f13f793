"""What judging adds to sketching: sums for pairs of columns, and vectors looked at as a whole.

Processor time of the whole process, since products of matrices may run on threads of their own; cases take
turns, and ratios are of the least of their passes.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
import orjson

from agent.config import Config
from agent.decode.fast import FastDecoder
from agent.decode.lanes import StreamTable
from agent.fold.base import Fold
from agent.fold.profile import Profile
from agent.judge.score_tables import score_table
from agent.kernel_thread import PAIRED_ROWS, Part
from agent.sketch.delta import Delta, concat
from agent.sketch.pair_sums import ScoreTable
from agent.state.chunk import merge_digest
from agent.types import Block, Fetch, Partition, PartitionRange, Record, Tally
from benchmarks.blocks import BLOCK_ROWS, Table, make_blocks

FEATURES = 10
#: Elements of an embedding, as small models of text have.
DIMENSIONS = 384


def sketching(n_blocks: int, passes: int, seed: int) -> dict[str, float]:
    """Nanoseconds a row at FEATURES features from a block to the end of a cut: `plain`, and with `pairs`."""
    blocks = make_blocks(n_blocks, seed=seed, n_streams=16, n_numbers=FEATURES)
    profile = profile_of(make_blocks(8, seed=seed + 1, n_streams=1, n_numbers=FEATURES))
    table = score_table(profile)
    assert table is not None
    cases: dict[str, Callable[[], object]] = {}
    for name in ("plain", "pairs"):
        streams = Table(16, FEATURES, 0)
        delta = Delta(streams)
        if name == "pairs":
            tables: dict[tuple[str, str | None], ScoreTable] = {
                (key.model, None): table for key in streams.keys
            }
            delta.score(tables, 1 << 26, PAIRED_ROWS)
        cases[name] = _cut(delta, blocks)
    return _least(cases, passes, n_blocks * BLOCK_ROWS)


def vectors(n_rows: int, passes: int, seed: int) -> dict[str, float]:
    """Nanoseconds a row from JSON to sketches, of events with one embedding: `off`, and with vectors on (`auto`)."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n_rows, DIMENSIONS)).round(5).tolist()
    records = [
        Record(i, 0, None, orjson.dumps({"model": "m", "ts": 1.7e9, "features": {"v": row}}), ())
        for i, row in enumerate(rows)
    ]
    size = sum(len(record.value or b"") for record in records)
    fetch = Fetch(1, Partition("t", 0), 0, n_rows, records, -1, size)
    cases: dict[str, Callable[[], object]] = {}
    for name in ("off", "auto"):
        judge = msgspec.structs.replace(Config().judge, vectors=name)
        streams = StreamTable()
        decoder = FastDecoder(Config(judge=judge), streams, None)
        cases[name] = _reader(decoder, Delta(streams), fetch)
    return _least(cases, passes, n_rows)


def profile_of(blocks: Sequence[Block]) -> Profile:
    """One sealed window of all rows."""
    for block in blocks:
        block.window[:] = 0
    delta = Delta(Table(1, FEATURES, 0))
    for block in blocks:
        delta.add(block)
    groups, numeric, strings = delta.freeze()
    at = PartitionRange(Partition("t", 0), 0, 1, "lineage", "", 0, -1, True, 0)
    part = Part(groups, numeric, strings, [at], Tally(), [], [], Counter())
    digest = merge_digest(Config())
    fold = Fold(Config(), start_ns=0)
    chunk = concat([part], run_id="run", number=1, epoch=1, digest=digest)
    sealed = [*fold.apply(chunk, 0).sealed, *fold.seal_all(0).sealed]
    return sealed[0]


def _cut(delta: Delta, blocks: Sequence[Block]) -> Callable[[], None]:
    def add() -> None:
        for block in blocks:
            delta.add(block)
        delta.freeze()

    return add


def _reader(decoder: FastDecoder, delta: Delta, fetch: Fetch) -> Callable[[], None]:
    def read() -> None:
        for part in decoder.decode(fetch, "lineage"):
            for block in part.blocks:
                delta.add(block)

    return read


def _least(cases: dict[str, Callable[[], object]], passes: int, rows: int) -> dict[str, float]:
    """Nanoseconds a row, the least of some passes in turn; one pass of each goes first."""
    least = dict.fromkeys(cases, float("inf"))
    for at in range(passes + 1):
        for name, case in cases.items():
            began = time.process_time_ns()
            case()
            spent = (time.process_time_ns() - began) / rows
            if at:
                least[name] = min(least[name], spent)
    return least

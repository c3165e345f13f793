"""Profiles of tables given as numpy arrays: thousands of windows without a decoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from agent.config import Config
from agent.fold.base import Fold
from agent.fold.profile import Profile
from agent.sketch.cells import ABSENT_BITS
from agent.sketch.delta import Delta, concat
from agent.sketch.hash import merge_hash
from agent.sketch.pair_scorer import Tables
from agent.state.chunk import merge_digest
from agent.types import Block, JsonType, StreamKey, Tally
from tests.support.blocks import PartOfChunk, feature, range_of

STREAM = StreamKey("m", "1")
_BLOCK_ROWS = 4096


class _Lanes:
    def __init__(self, names: Sequence[str], columns: Mapping[str, Any]) -> None:
        self.keys = [STREAM]
        of = {"f": JsonType.NUMBER, "b": JsonType.BOOLEAN}
        self.numbers = [name for name in names if columns[name].dtype.kind in of]
        self.texts = [name for name in names if columns[name].dtype.kind not in of]
        self.numeric_lanes = [[(feature(n), of[columns[n].dtype.kind]) for n in self.numbers]]
        self.string_lanes = [[feature(name) for name in self.texts]]


def profiles_of(
    columns: Mapping[str, np.ndarray], rows: int, tables: Tables | None = None
) -> list[Profile]:
    """A profile for each `rows` rows, in order. float64 columns are numbers (NaN: absent), bool booleans, texts
    ("": absent) categories."""
    n = len(next(iter(columns.values())))
    fold = Fold(Config(), start_ns=1)
    lanes = _Lanes(list(columns), columns)
    delta = Delta(lanes)
    if tables:
        delta.score(tables, 1 << 26)
    found: list[Profile] = []
    for number, start in enumerate(range(0, n, rows)):
        end = min(n, start + rows)
        for at in range(start, end, _BLOCK_ROWS):
            delta.add(_block(columns, lanes, at, min(end, at + _BLOCK_ROWS), number))
        groups, numeric, strings = delta.freeze()
        part = PartOfChunk(groups, numeric, strings, [range_of(0)], Tally())
        digest = merge_digest(Config())
        fold.apply(concat([part], run_id="r", number=number, epoch=1, digest=digest), 2)
        found += fold.seal_all(3).sealed
        fold = Fold(Config(), start_ns=1)
    return found


def _block(
    columns: Mapping[str, np.ndarray], lanes: _Lanes, start: int, end: int, window: int
) -> Block:
    n = end - start
    wide = np.zeros((n, len(lanes.numbers)))
    for i, name in enumerate(lanes.numbers):
        wide[:, i] = columns[name][start:end]
    numbers = wide.ravel()
    numbers.view(np.uint64)[np.isnan(numbers)] = ABSENT_BITS
    hashes = np.zeros((n, len(lanes.texts)), np.uint64)
    starts = np.zeros((n, len(lanes.texts)), np.int64)
    lengths = np.zeros((n, len(lanes.texts)), np.int32)
    text = bytearray(64)
    for i, name in enumerate(lanes.texts):
        values, which = np.unique(columns[name][start:end], return_inverse=True)
        known = [str(value).encode() for value in values]
        places = []
        for data in known:
            places.append(len(text))
            text += data
        hashes[:, i] = np.array([int(merge_hash(d)) if d else 0 for d in known], np.uint64)[which]
        starts[:, i] = np.array(places)[which]
        lengths[:, i] = np.array([len(d) for d in known])[which]
    text += bytes(64)
    return Block(
        n=n,
        stream=np.zeros(n, np.int32),
        event_time_ms=np.full(n, window * 60_000, np.int64),
        window=np.full(n, window, np.int64),
        is_error=np.zeros(n, np.uint8),
        numbers=numbers,
        number_start=np.arange(n + 1) * len(lanes.numbers),
        string_hash=hashes.ravel(),
        string_start=starts.ravel(),
        string_length=lengths.ravel(),
        string_first=np.arange(n + 1) * len(lanes.texts),
        text=np.frombuffer(bytes(text), np.uint8).copy(),
    )

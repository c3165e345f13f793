"""Pair sums from events as they arrive: the real decoder, a kernel thread, a cut."""

from __future__ import annotations

import numpy as np
import orjson

from agent.config import Config
from agent.decode.fast import FastDecoder
from agent.sketch.pair_sums import PairSums, pairs_of
from agent.types import Partition, StreamKey
from tests.unit.test_kernel_thread import P, fetch_of, running
from tests.unit.test_pair_sums import TABLE, rows_of, scores_by_hand

WINDOW = 1_767_225_600_000 // 60_000


async def test_a_kernel_thread_scores_what_it_decodes() -> None:
    rows = rows_of(1500, 9)
    values = [
        orjson.dumps(
            {
                "model": "m" if row.stream.model == "m" else "other",
                "version": "1",
                "features": {column.name: value for column, value in row.values.items()},
            }
        )
        for row in rows
    ]
    scores = np.array([scores_by_hand(row) for row in rows if row.stream.model == "m"])
    async with running(Config(), FastDecoder, {("m", None): TABLE}) as (thread, _):
        thread.open(1, {P: 0}, {P: "l"})
        for first in range(0, len(values), 500):
            thread.put(fetch_of(values[first : first + 500], first))
        sums: list[PairSums] = []
        while sum(part.rows for part in sums) < len(scores):
            part = await thread.cut()
            for group in part.groups:
                if pairs_of(group):  # of two groups for one stream the first has all
                    assert (group.stream, group.window) == (StreamKey("m", "1"), WINDOW)
                    sums.append(PairSums.from_bytes(pairs_of(group)))
        whole = sums[0]
        for more in sums[1:]:
            whole += more
    wanted = scores.T @ scores
    assert whole.triangle.tolist() == wanted[np.triu_indices(6)].tolist()


async def test_without_tables_groups_are_as_they_were() -> None:
    async with running(Config()) as (thread, _):
        thread.open(1, {Partition("t", 0): 0}, {Partition("t", 0): "l"})
        thread.put(fetch_of([b'{"model":"m","features":{"x":1.0}}'] * 3))
        rows = 0
        while rows < 3:
            part = await thread.cut()
            rows += sum(group.rows for group in part.groups)
            assert all(type(group).__name__ == "Group" for group in part.groups)

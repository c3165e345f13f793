"""Record batches to packed cells, through the kernels: the same digest however they were compiled.

    python -m tests.support.whole_path files|numba

prints one JSON line: whether numba was imported, what was decoded by which tier, and a digest of every cell.
With `files`, numba cannot be imported at all.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import random
import sys
from typing import Any

import orjson

from agent.compiled import mode

N_RECORDS = 6000
PER_BATCH = 200
START_MS = 1_767_225_600_000


def events(seed: int) -> list[bytes]:
    """Most of a few shapes, as templates want them; some escaped, of mixed types, or cut off."""
    rng = random.Random(seed)
    found = []
    for i in range(N_RECORDS):
        features: dict[str, Any] = {f"f{j}": rng.gauss(0, 3) for j in range(6)}
        for j in range(6, 10):
            text = rng.choice(["a", "b", "\u00e9\n"])
            number = rng.gauss(0, 10 ** rng.randrange(-5, 9))
            features[f"f{j}"] = rng.choice([number, None, True, text, rng.randrange(1 << 60)])
        event: dict[str, Any] = {
            "model": f"m{rng.randrange(6)}",
            "ts": START_MS + i * 37,
            "features": features,
            "prediction": {"score": rng.random(), "label": f"x{rng.randrange(40)}"},
            "latency_ms": rng.random() * 50,
        }
        if rng.random() < 0.1:
            event["extra"] = {"k": [1, {"z": "\u2028"}]}
        value = orjson.dumps(event)
        found.append(value[: rng.randrange(len(value))] if rng.random() < 0.02 else value)
    return found


def run() -> dict[str, Any]:
    from agent.config import Config
    from agent.decode.fast import FastDecoder
    from agent.decode.lanes import StreamTable
    from agent.decode.raw_batches import RawBatches
    from agent.sketch.delta import Delta
    from agent.types import Partition, RawFetch, Record, Tally
    from tests.support.raw_batches import CODECS, built, tables_of

    records = [Record(i, START_MS + i * 37, None, v, ()) for i, v in enumerate(events(5))]
    codecs = list(CODECS.values())
    buffer = b"".join(
        bytes(built(records[at : at + PER_BATCH], codec=codecs[at // PER_BATCH % len(codecs)]))
        for at in range(0, N_RECORDS, PER_BATCH)
    )
    (batches,), _ = tables_of(buffer)
    assert isinstance(batches, RawBatches)
    streams = StreamTable()
    decoder = FastDecoder(Config(), streams, None, learning_clock=lambda: 0.0)
    decoder.now_ms = START_MS + 10**9
    delta, tally = Delta(streams), Tally()
    fetch = RawFetch(1, Partition("events", 0), 0, N_RECORDS, batches, N_RECORDS, 0, False)
    for part in decoder.decode(fetch, "kernel-0"):
        for block in part.blocks:
            delta.add(block)
        tally.add(part.tally)
    groups, *packed = delta.freeze()
    digest = hashlib.sha256()
    n_cells = 0
    for group in groups:
        cells = [(cell.column, cell.type, cell.cell) for cell in group.cells]
        times = (group.min_event_time_ms, group.max_event_time_ms)
        digest.update(repr((group.stream, group.window, group.rows, group.errors, times)).encode())
        digest.update(repr(cells).encode())
        n_cells += len(cells)
    n_bytes = 0
    for cells_of in packed:
        for address, length in zip(
            cells_of.address.tolist(), cells_of.length.tolist(), strict=True
        ):
            digest.update(ctypes.string_at(address, length))
            n_bytes += length
    return {
        "rows": tally.rows,
        "dropped": {str(reason): n for reason, n in tally.dropped.items() if n},
        "tiers": {tier.value: n for tier, n in tally.rows_by_tier.items()},
        "cells": n_cells,
        "bytes": n_bytes,
        "digest": digest.hexdigest(),
    }


def main(how: str) -> None:
    if how == "files":
        absent: Any = None
        sys.modules["numba"] = absent
        mode.use_files()
    found = run()
    print(json.dumps({**found, "numba": sys.modules.get("numba") is not None}))


if __name__ == "__main__":
    main(sys.argv[1])

"""Vectors of one row in 16, from the record to a group's sums: the same rows and sums in every tier."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest

from agent.config import Config
from agent.decode.events import JsonDecoder
from agent.decode.fast import FastDecoder
from agent.decode.lanes import StreamTable
from agent.decode.vector_sample import RowSample
from agent.sketch.delta import Delta
from agent.sketch.pair_sums import vectors_of
from agent.sketch.sampled_block import SampledBlock
from agent.sketch.vector_sums import from_bytes
from agent.types import Column, Partition, Role, StreamKey, Tier
from tests.support.decoded import PARTITION, fetch_of, records_of

Sums = dict[tuple[StreamKey, int], bytes]
Decoder = type[JsonDecoder] | type[FastDecoder]


def events(n: int) -> list[dict[str, object]]:
    rng = np.random.default_rng(7)
    made = []
    for i in range(n):
        features: dict[str, object] = {"a": float(i), "emb": rng.normal(size=8).tolist()}
        if i % 5 == 0:
            features["inner"] = {"small": [1, 2.5, -3]}
        event: dict[str, object] = {"model": f"m{i % 2}", "features": features}
        if i % 3 == 0:
            event["prediction"] = [0.25, 0.75]
        made.append(event)
    return made


def sums_of(decoder: Decoder, lines: list[bytes], config: Config | None = None) -> Sums:
    table = StreamTable()
    decode = decoder(config or Config(), table, None)
    delta = Delta(table)
    for part in decode.decode(fetch_of(records_of(lines)), "lineage"):
        for block in part.blocks:
            delta.add(block)
    return {(g.stream, g.window): vectors_of(g) for g in delta.freeze()[0]}


def test_one_row_in_16_is_taken_and_every_tier_takes_the_same() -> None:
    sample = RowSample(PARTITION)
    offsets = np.arange(40_000)
    taken = sample.taken(offsets)
    assert taken.tolist() == [sample.takes(offset, 0) for offset in range(40_000)]
    assert abs(int(taken.sum()) - 2_500) < 5 * 2_500**0.5
    rows = [sample.takes(5, row) for row in range(16_000)]
    assert abs(sum(rows) - 1_000) < 5 * 1_000**0.5
    assert RowSample(Partition("events", 1)).taken(offsets).tolist() != taken.tolist()


@pytest.mark.parametrize("spelling", ["compact", "spaced", "shuffled"])
def test_sums_are_the_same_whichever_tier_decodes(spelling: str) -> None:
    lines = []
    for i, event in enumerate(events(1_500)):
        if spelling == "shuffled" and i % 2:
            event = dict(reversed(event.items()))
        text = json.dumps(event, separators=(", ", ": ") if spelling == "spaced" else (",", ":"))
        lines.append(text.encode())
    by_orjson = sums_of(JsonDecoder, lines)
    assert sums_of(FastDecoder, lines) == by_orjson
    columns = {
        (part.column.name, part.dimension)
        for data in by_orjson.values()
        for part in from_bytes(data)
    }
    assert columns == {("emb", 8), ("inner.small", 3), ("vector", 2)}


def test_sums_are_those_of_the_rows_that_the_hash_takes() -> None:
    made = events(800)
    sample = RowSample(PARTITION)
    found = sums_of(FastDecoder, [json.dumps(event).encode() for event in made])
    column = Column(Role.FEATURE, "emb")
    for (stream, _), data in found.items():
        mine = [
            np.array(event["features"]["emb"])  # type: ignore[index]
            for i, event in enumerate(made)
            if event["model"] == stream.model and sample.takes(i, 0)
        ]
        (part,) = [p for p in from_bytes(data) if p.column == column]
        assert part.rows == len(mine)
        assert part.sums is not None
        expected = sum(x / np.linalg.norm(x) for x in mine)
        assert np.abs(part.sums / (1 << 15) - expected).max() < len(mine) / (1 << 15)


def test_rows_of_a_batch_are_taken_each_by_itself() -> None:
    event = {"model": "m", "features": [{"v": [float(i), 1.0]} for i in range(3_000)]}
    ((_, data),) = sums_of(FastDecoder, [json.dumps(event).encode()]).items()
    (part,) = from_bytes(data)
    assert part.rows == sum(RowSample(PARTITION).takes(0, row) for row in range(3_000))


def test_streams_without_vectors_and_vectors_that_are_off_have_plain_blocks() -> None:
    plain = [b'{"model":"m","features":{"a":1.5}}'] * 200
    vectors = [b'{"model":"m","features":{"a":[1.5,2]}}'] * 200
    off = Config(judge=msgspec.structs.replace(Config().judge, vectors="off"))
    for lines, config in ((plain, Config()), (vectors, off)):
        decoder = FastDecoder(config, StreamTable(), None)
        parts = list(decoder.decode(fetch_of(records_of(lines)), "lineage"))
        assert not any(isinstance(b, SampledBlock) for part in parts for b in part.blocks)
        assert set().union(*(part.tally.rows_by_tier for part in parts)) >= {Tier.ORJSON}

"""What benchmarks feed the agent: the same each time, and what it says it is."""

from __future__ import annotations

import numpy as np
import orjson
import pytest
from aiokafka.record.memory_records import MemoryRecords

from benchmarks import baseline
from benchmarks.blocks import lane, make_blocks, string_lane
from benchmarks.events import SHAPES, START_MS, batches, values


@pytest.mark.parametrize("name", SHAPES)
def test_the_same_seed_gives_the_same_events(name: str) -> None:
    shape = SHAPES[name]
    assert values(shape, 300, 7) == values(shape, 300, 7)
    assert values(shape, 300, 7) != values(shape, 300, 8)


def test_the_reference_event_is_419_bytes_with_12_numbers_and_4_texts() -> None:
    events = values(SHAPES["reference"], 5_000, 1)
    assert sum(map(len, events)) / len(events) == pytest.approx(419, abs=1)
    numbers, texts = baseline.flat(orjson.loads(events[0]))
    assert len(numbers) == 12 + 1  # and the time
    assert len(texts) == 4


def test_off_template_events_are_sound_and_broken_ones_are_half_of_five_percent() -> None:
    sound = values(SHAPES["off_template_5"], 4_000, 1)
    assert all("model" in orjson.loads(event) for event in sound)
    plain = values(SHAPES["reference"], 4_000, 1)
    changed = sum(a != b for a, b in zip(plain, sound, strict=True))
    assert 0.04 < changed / len(plain) < 0.06


def test_batches_are_what_a_broker_keeps() -> None:
    events = values(SHAPES["reference"], 250, 1)
    made = batches(events, 100, "lz4")
    assert [batch.n_records for batch in made] == [100, 100, 50]
    found = []
    log = MemoryRecords(b"".join(batch.data for batch in made))
    while log.has_next():
        batch = log.next_batch()
        assert batch.validate_crc()
        found += list(batch)
    assert [record.value for record in found] == events
    assert [record.offset for record in found] == list(range(250))
    assert [record.timestamp for record in found] == [START_MS + i for i in range(250)]


def test_the_baseline_reads_every_row() -> None:
    for name, shape in SHAPES.items():
        events = values(shape, 100, 3)
        assert baseline.discovered(events, baseline.reader(name)) >= 95


def test_blocks_hold_the_columns_they_were_asked_for() -> None:
    (block,) = make_blocks(1, seed=1, n_streams=4, n_numbers=3, cardinalities=(5, 1000), rows=500)
    assert block.number_start.tolist() == [3 * i for i in range(501)]
    assert set(block.stream.tolist()) == {0, 1, 2, 3}
    assert len(set(string_lane(block, 2, 0))) == 5
    assert np.isfinite(lane(block, 3, 2)).all()

"""What an aggregator remembers of chains and holds of chunks is bounded, and is counted."""

from __future__ import annotations

import tracemalloc

import pytest

from agent.aggregate.assembly import Assembly
from agent.aggregate.chains import MAX_GONE, MAX_LINEAGES, Chains, End, Tip
from agent.state.parts import read_record, records_of
from agent.types import Chunk, Partition
from tests.support.fleet import bare_chunk, range_at

RUN = "a" * 16


def partition(number: int) -> Partition:
    return Partition("events", number)


def line(number: int) -> str:
    return f"{number:016x}"


def decide(chains: Chains, number: int, *ends: tuple[int, int]) -> None:
    """A chunk that ends in these (partition, lineage)."""
    chains.decide(f"{RUN};{number}", [End(partition(p), line(of), number) for p, of in ends])


def test_of_a_partition_that_is_gone_the_newest_tip_stays_until_it_comes_back() -> None:
    chains = Chains()
    for number in range(1, 4):
        decide(chains, number, (0, number), (1, 7))
    chains.forget_but({partition(1)})
    kept = Chains.from_bytes(chains.to_bytes())
    for one in (chains, kept):
        assert one.newest_tip(partition(0)) == one.tip(partition(0), line(3)) == Tip(f"{RUN};3", 3)
        assert one.tip(partition(0), line(2)) is None
        assert one.tip(partition(1), line(7)) == Tip(f"{RUN};3", 3)
        decide(one, 4, (0, 4))  # its topic was made anew
        one.forget_but({partition(0), partition(1)})
        assert one.newest_tip(partition(0)) == Tip(f"{RUN};4", 4)
        assert one.tip(partition(0), line(3)) is not None, "known again, with what was kept"
        assert one._gone == {}


def test_memory_of_partitions_and_lineages_that_are_over_is_bounded() -> None:
    chains = Chains()
    for number in range(1, MAX_GONE + 102):
        for lineage in range(MAX_LINEAGES + 3):
            decide(chains, number, (number, lineage))
        chains.forget([partition(number)])
    assert chains._tips == {}
    assert len(chains._gone) == MAX_GONE
    assert chains.newest_tip(partition(101)) is None
    assert chains.newest_tip(partition(102)) == Tip(f"{RUN};102", 102)
    assert len(chains.to_bytes()) < 100 * MAX_GONE


def chunk(number: int, n_partitions: int, *, has_body: bool = True) -> Chunk:
    at = [range_at(partition(p), line(p), number, number + 1, "") for p in range(n_partitions)]
    return bare_chunk(RUN, number, at, has_body=has_body)


@pytest.mark.parametrize("n_partitions", [1, 50, 1000])
def test_manifests_are_counted_about_as_what_they_take(n_partitions: int) -> None:
    values = [
        value
        for number in range(1, 9)
        for value in records_of(chunk(number, n_partitions, has_body=False), 0, 1, ())
    ]
    read_record(values[0])
    made = Assembly(0, 1, max_bytes=1 << 30, is_decided=lambda _: False, is_named=lambda _: False)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for position, value in enumerate(values):
        made.add(position, value)
    taken_bytes = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert taken_bytes == pytest.approx(made.held_bytes, rel=0.35)
    made.drop(f"{RUN};1")
    assert made.held_bytes == pytest.approx(taken_bytes * 7 / 8, rel=0.35)


def test_what_is_held_has_its_limit_and_the_manifests_of_what_was_left_are_counted() -> None:
    limit = 20_000
    named: set[str] = set()
    made = Assembly(0, 1, max_bytes=limit, is_decided=lambda _: False, is_named=named.__contains__)
    small, large = chunk(1, 30), chunk(2, 1)
    for position, value in enumerate(records_of(small, 0, 1, ())):
        made.add(position, value)
    alone = made.held_bytes
    assert made.has(f"{RUN};1") and alone < limit
    named.add(f"{RUN};2")
    part, manifest = records_of(large, 0, 1, ())
    made._max_bytes = alone  # no room for both
    made.add(2, part)
    made.add(3, manifest)
    assert made.has(f"{RUN};2") and made.is_left(f"{RUN};1")
    assert made.oldest == 0
    without_parts = 3200 + 400 * 30  # somebody waits for its turn, and holds its manifest
    assert alone > without_parts
    made.drop(f"{RUN};2")
    assert made.held_bytes == without_parts
    made.drop(f"{RUN};1")
    assert made.held_bytes == 0

"""Who waits for whom in event time: never for one that cannot be read, and never everybody."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.delivery.alignment import ahead_of
from agent.types import Partition, PartitionRange

SPAN_MS = 100


def at(number: int, clock_ms: int, *, caught_up: bool = False) -> PartitionRange:
    return PartitionRange(Partition("t", number), 0, 1, "l", "", clock_ms, 9, caught_up, 0)


@st.composite
def parts(draw: st.DrawFn) -> tuple[list[PartitionRange], set[Partition]]:
    """Partitions, some without an event, some caught up; and those that nothing was heard of."""
    asked = draw(
        st.lists(st.tuples(st.integers(-1, 400), st.booleans(), st.booleans()), max_size=8)
    )
    ranges = [at(i, clock, caught_up=is_up) for i, (clock, is_up, _) in enumerate(asked)]
    return ranges, {
        one.partition for one, (*_, is_out) in zip(ranges, asked, strict=True) if is_out
    }


@given(parts())
def test_who_waits_is_too_far_ahead_of_one_that_is_read(
    given_parts: tuple[list[PartitionRange], set[Partition]],
) -> None:
    ranges, unheard = given_parts
    asked = [
        one
        for one in ranges
        if one.max_event_time_ms >= 0 and not one.caught_up and one.partition not in unheard
    ]
    waits = {
        one.partition
        for one in asked
        if any(one.max_event_time_ms - other.max_event_time_ms > SPAN_MS for other in asked)
    }
    assert ahead_of(ranges, unheard, SPAN_MS) == waits
    if asked:
        assert waits < {one.partition for one in asked}, "somebody goes on"


def test_a_partition_that_nothing_is_heard_of_stops_nobody() -> None:
    slow, fast = at(0, 10), at(1, 10_000)
    assert ahead_of([slow, fast], set(), SPAN_MS) == {fast.partition}
    assert ahead_of([slow, fast], {slow.partition}, SPAN_MS) == set()

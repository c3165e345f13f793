"""Which partitions run ahead of the others in event time, and wait.

Windows seal by the slowest partition, so what a fast one reads meanwhile would pile up in open windows.
The slowest is looked for among those that can be read: one that nothing was heard of for longer than
`windows.owner_timeout_s` (its leader is away) is waited for no more, or it would stop all the others with
it. The watermarks leave it out by the same rule, and what it brings when it is back may be late.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from agent.types import Partition, PartitionRange


def ahead_of(
    ranges: Iterable[PartitionRange], unheard: Collection[Partition], span_ms: float
) -> set[Partition]:
    """Partitions whose clock is more than `span_ms` ahead of the slowest one. Pure.

    Not asked: what is caught up, what has had no event yet, and `unheard`, those that nothing has been
    heard of for long although they are not paused.
    """
    clocks = {
        at.partition: at.max_event_time_ms
        for at in ranges
        if at.max_event_time_ms >= 0 and not at.caught_up and at.partition not in unheard
    }
    if not clocks:
        return set()
    limit_ms = min(clocks.values()) + span_ms
    return {partition for partition, clock in clocks.items() if clock > limit_ms}

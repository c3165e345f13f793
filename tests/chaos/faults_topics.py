"""What a tool, or retention, does to the offsets of the group and to the topic.

What is lost or repeated by their nature is taken out of the account, or put into it; and where
docs/guarantees.md promises that it is counted and said, it must be.
"""

from __future__ import annotations

import random

from tests.chaos.fault import pause
from tests.chaos.life import Life
from tests.chaos.waiting import within

LOST = "inferometer.offset.lost"
GAP, OVERLAP = "inferometer.chunks.misplaced;gap", "inferometer.chunks.misplaced;overlap"
MOVED = "inferometer.state.fallbacks;moved"
ROLLED_BACK = "inferometer.state.fallbacks;rolled_back"


def _alone(life: Life) -> dict[int, int]:
    """Every agent stopped, the group empty; the committed offsets: there are some.

    Aggregators go on: what the last offsets name is folded before a tool takes their word away.
    """
    within(life.committed, 30, "offsets are committed")
    life.ledger.hold()
    if life.mode == "fleet":
        life.wait_quiet(out_of_order=False)
    for agent in life.members:
        agent.stop()
    life.group.wait_left()
    return life.committed()


def _again(life: Life) -> None:
    for agent in life.members:
        agent.start()
    life.ledger.go()


def _told(life: Life, **of_mode: tuple[str, int]) -> None:
    """Memory mode has nothing to compare a tool's offset with, and follows it without a word."""
    if life.mode in of_mode:
        life.must_tell(*of_mode[life.mode])


def offsets_back(life: Life, rnd: random.Random) -> str:
    at = _alone(life)
    to = {n: rnd.randint(max(0, offset - 300), offset) for n, offset in at.items()}
    n_rows = sum(at.values()) - sum(to.values())
    life.group.set_offsets(to)
    life.ledger.again([(n, to[n], at[n]) for n in at], 1)
    _told(life, volume=(MOVED, len(at)), fleet=(OVERLAP, n_rows))
    _again(life)
    return f"{n_rows} rows"


def _ahead(life: Life, rnd: random.Random, at: dict[int, int]) -> tuple[dict[int, int], int]:
    """Some way into rows that nobody has read, which nobody will; how many."""
    life.ledger.add_rows(300)
    ends = life.ledger.ends()
    to = {n: rnd.randint(offset, ends[n]) for n, offset in at.items()}
    life.ledger.again([(n, at[n], to[n]) for n in at], -1)
    return to, sum(to.values()) - sum(at.values())


def offsets_forward(life: Life, rnd: random.Random) -> str:
    to, n_rows = _ahead(life, rnd, _alone(life))
    life.group.set_offsets(to)
    _told(life, volume=(LOST, n_rows), fleet=(GAP, n_rows))
    _again(life)
    return f"{n_rows} rows"


def records_deleted(life: Life, rnd: random.Random) -> str:
    """As retention does that does not wait for the agents."""
    to, n_rows = _ahead(life, rnd, _alone(life))
    life.kafka.delete_records(life.topic, to)
    life.ledger.first = to
    life.must_tell(LOST, n_rows)
    _told(life, fleet=(GAP, n_rows))
    _again(life)
    return f"{n_rows} rows"


def group_deleted(life: Life, rnd: random.Random) -> str:
    """The volume knows where it stood; agents of other modes begin again at the start of the log."""
    at = _alone(life)
    life.group.delete()
    if life.mode != "volume":
        first = life.ledger.first
        life.ledger.again([(n, first.get(n, 0), offset) for n, offset in at.items()], 1)
    n_rows = sum(at.values()) - sum(life.ledger.first.get(n, 0) for n in at)
    _told(life, volume=(ROLLED_BACK, len(at)), fleet=(OVERLAP, n_rows))
    _again(life)
    return ""


def partitions_added(life: Life, rnd: random.Random) -> str:
    life.ledger.hold()
    total = life.ledger.partitions + rnd.randint(1, 2)
    life.kafka.add_partitions(life.topic, total)
    life.ledger.partitions = total
    life.ledger.go()
    return f"{total} now"


def topic_made_anew(life: Life, rnd: random.Random) -> str:
    """Under the agents, at times under one that is down. What was not read yet goes with the topic."""
    life.ledger.hold()
    is_quiet = rnd.random() < 0.5
    if is_quiet:
        life.wait_quiet(out_of_order=False)
    else:
        life.may_lose(life.committed())
    life.kafka.delete_topic(life.topic)
    pause(rnd, 0.0, 4.0)
    life.kafka.create_topic(life.topic, life.ledger.partitions)
    life.topic_is_new()
    life.may_repeat({})
    life.ledger.go()
    return "all of it was read" if is_quiet else ""

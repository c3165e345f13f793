"""The group's offsets against the journal: every row of the table in `assign.py`."""

from __future__ import annotations

import logging

import pytest

from agent.delivery.assign import (
    MAX_GONE,
    OffsetAndMetadata,
    Plan,
    Step,
    Verdict,
    announce,
    judge,
    oldest_of_gone,
    plan,
)
from agent.state.heads import Head, head_of, new_id
from agent.telemetry import Telemetry
from agent.types import Chunk, Partition
from tests.support.fold_inputs import LINEAGE, chunk

P0, P1 = Partition("t", 0), Partition("t", 1)
OLD, OURS, OTHER = "0" * 15 + "1", "0" * 15 + "2", "0" * 15 + "9"
RUNS = [OLD, OURS]
LAST = Head(LINEAGE, 100, OURS, 5)


def at(head: Head, offset: int | None = None) -> OffsetAndMetadata:
    return OffsetAndMetadata(head.offset if offset is None else offset, head.metadata)


def planned(committed: OffsetAndMetadata | None, known: Head | None = LAST) -> Plan:
    return plan(
        [P0],
        {} if known is None else {P0: known},
        RUNS,
        {} if committed is None else {P0: committed},
    )


def test_metadata_are_short_and_come_back_as_they_were() -> None:
    head = Head(new_id(), 7, new_id(), 10**17)
    assert head.metadata.startswith("1;")
    assert len(head.metadata) < 100
    assert head_of(7, head.metadata) == head
    assert head.chunk_id == f"{head.run_id};{head.number}"
    assert Head(LINEAGE, 7, OURS, 0).chunk_id == ""


@pytest.mark.parametrize(
    "metadata",
    [
        "",
        "genesis;3",
        "2;0123456789abcdef;0123456789abcdef;1",
        "1;0123456789abcdef;0123456789abcdef;01",
        "1;0123456789abcdef;0123456789abcdef;-1",
        "1;0123456789ABCDEF;0123456789abcdef;1",
        "1;0123456789abcdef;0123456789abcdef;1\n",
        "1;0123456789abcdef;0123456789abcdef;1;2",
        "x" * 4096,
    ],
)
def test_metadata_of_another_form_are_no_head(metadata: str) -> None:
    assert head_of(7, metadata) is None


# ---------------------------------------------------------------- where partitions go on


def test_the_last_chunk_is_gone_on_from() -> None:
    made = planned(at(LAST))
    assert made == Plan(heads={P0: LAST}, committed={P0})


def test_an_offset_without_our_metadata_begins_a_lineage_there() -> None:
    for offset in (40, 100, 170):
        made = planned(OffsetAndMetadata(offset, ""))
        assert made == Plan(fresh={P0: offset}, moved=[Step(P0, 100, offset)])
    made = planned(OffsetAndMetadata(40, "genesis;1"), known=None)
    assert made == Plan(fresh={P0: 40})


def test_our_metadata_beside_another_offset_are_a_tools_work() -> None:
    made = planned(at(LAST, 60))
    assert made == Plan(fresh={P0: 60}, moved=[Step(P0, 100, 60)])


def test_an_older_head_leaves_the_word_to_the_journal() -> None:
    for head in (Head(LINEAGE, 90, OURS, 4), Head(LINEAGE, 10, OLD, 77)):
        made = planned(at(head))
        assert made == Plan(heads={P0: LAST}, rolled_back=[Step(P0, head.offset, 100)])


def test_a_genesis_that_the_group_never_took_leaves_the_word_to_the_journal() -> None:
    genesis = Head("0" * 16, 300, OURS, 0)
    made = planned(at(LAST), known=genesis)
    assert made == Plan(heads={P0: genesis}, rolled_back=[Step(P0, 100, 300)])


def test_no_offset_leaves_the_word_to_the_journal() -> None:
    assert planned(None) == Plan(heads={P0: LAST}, rolled_back=[Step(P0, 100, 100)])


def test_a_head_beyond_the_journal_is_gone_on_from_and_its_rows_are_missing() -> None:
    head = Head(LINEAGE, 150, OURS, 8)
    made = planned(at(head))
    assert made == Plan(
        heads={P0: head}, committed={P0}, missing=[Step(P0, 100, 150)], n_missing_chunks=3
    )


def test_a_head_of_another_run_is_gone_on_from() -> None:
    head = Head(LINEAGE, 150, OTHER, 1)
    made = planned(at(head))
    assert made.heads == {P0: head} and made.missing == [Step(P0, 100, 150)]


def test_a_lost_volume_goes_on_where_the_group_stands() -> None:
    made = planned(at(LAST), known=None)
    assert made.heads == {P0: LAST} and made.missing == [Step(P0, 100, 100)]
    genesis = Head(LINEAGE, 3, OTHER, 0)
    assert planned(at(genesis), known=None).missing == []


def test_what_nobody_knows_is_left_to_the_start_policy() -> None:
    assert planned(None, known=None) == Plan()


# ---------------------------------------------------------------- the unanswered chunk


def waiting() -> Chunk:
    made = chunk(OURS, 6, 100, 120)
    made.ranges += chunk(OURS, 6, 10, 15, partition=1).ranges
    return made


KNOWN = {P0: LAST, P1: Head(LINEAGE, 10, OURS, 5)}


def test_one_head_that_names_it_makes_the_chunk_count() -> None:
    head = at(Head(LINEAGE, 120, OURS, 6))
    assert judge(waiting(), KNOWN, {P0: head}) is Verdict.ACCEPTED
    # The topic of the other was deleted, or its offset refused alone.
    assert judge(waiting(), KNOWN, {P0: head, P1: at(KNOWN[P1])}) is Verdict.ACCEPTED
    assert judge(waiting(), KNOWN, {P1: at(KNOWN[P1]), P0: head}) is Verdict.ACCEPTED


def test_heads_as_before_make_it_an_orphan() -> None:
    assert judge(waiting(), KNOWN, {P0: at(LAST), P1: at(KNOWN[P1])}) is Verdict.ORPHANED


def test_heads_elsewhere_leave_it_uncertain() -> None:
    for committed in ({}, {P0: OffsetAndMetadata(5, "")}, {P0: at(Head(LINEAGE, 7, OTHER, 9))}):
        assert judge(waiting(), KNOWN, committed) is Verdict.UNCERTAIN


# ---------------------------------------------------------------- what is said


def test_what_moved_is_counted_and_said(caplog: pytest.LogCaptureFixture) -> None:
    telemetry = Telemetry()
    made = Plan(
        moved=[Step(P0, 100, 130), Step(P1, 100, 60)],
        missing=[Step(P0, 130, 150)],
        n_missing_chunks=2,
        rolled_back=[Step(P1, 5, 9)],
    )
    with caplog.at_level(logging.WARNING):
        announce(made, telemetry, is_new=False)
    assert telemetry.value("inferometer.offset.lost") == 50
    assert telemetry.value("inferometer.chunks.missing") == 2
    assert telemetry.value("inferometer.state.fallbacks", reason="moved") == 2
    for text in (
        "30 rows in between are not counted",
        "40 rows are counted again",
        "20 rows in between are in no window",
        "what is folded is not counted again",
    ):
        assert text in caplog.text


def test_heads_of_partitions_that_are_gone_are_bounded_and_the_oldest_go_first() -> None:
    known = {
        Partition("t", n): Head(LINEAGE, 7, OLD if n % 2 else OURS, n) for n in range(MAX_GONE + 9)
    }
    assigned, committed = Partition("t", 1), Partition("t", 3)
    offsets = {committed: at(known[committed])}
    assert oldest_of_gone(known, RUNS, [assigned], offsets) == [
        Partition("t", n) for n in (5, 7, 9, 11, 13, 15, 17)
    ]
    few = {p: head for p, head in known.items() if p.partition < MAX_GONE}
    assert oldest_of_gone(few, RUNS, [], {}) == []

"""Which chunks count: one case for each rule, by hand."""

from __future__ import annotations

import pytest

from agent.aggregate.accept import UNKNOWN, Fate, Gap, Verdict
from agent.aggregate.chains import Chains, End
from agent.aggregate.decided import MAX_INTERVALS, MAX_RUNS, Decided
from agent.aggregate.intake import Fold, Intake
from agent.aggregate.joints import Joint, joints_of, report
from agent.errors import DecodeError
from agent.state.heads import Head
from agent.state.parts import records_of
from agent.telemetry import Telemetry
from agent.types import Chunk, Partition, PartitionRange
from tests.support.fleet import bare_chunk, range_at

P0, P1 = Partition("events", 0), Partition("events", 1)
A, B = "a" * 16, "b" * 16
LINE, OTHER_LINE = "1" * 16, "2" * 16
TIMEOUT_S = 30.0


class Topic:
    """A shard's records, and an aggregator that has read them."""

    def __init__(self, intake: Intake | None = None) -> None:
        self.intake = intake or Intake(0, 1, max_bytes=1 << 20, missing_timeout_s=TIMEOUT_S)
        self.end = 0
        self.now_s = 0.0

    def put(
        self, chunk: Chunk, confirms: tuple[str, ...] = (), *, without: int | None = None
    ) -> None:
        """All records of a chunk, but for one."""
        for index, value in enumerate(records_of(chunk, 0, 1, confirms)):
            self.intake.record(self.end, None if index == without else value, self.now_s)
            self.end += 1

    def heads(self, **heads: Head) -> None:
        named = {Partition("events", int(name[1:])): head for name, head in heads.items()}
        self.intake.heads(named, self.end, self.now_s)

    def outcomes(self) -> list[tuple[Fate, str]]:
        """Everything that is to be done now, done."""
        done = []
        while (what := self.intake.next(self.now_s)) is not None:
            assert isinstance(what, Fold | Verdict)
            verdict = what.verdict if isinstance(what, Fold) else what
            done.append((verdict.fate, verdict.chunk_id))
            self.intake.settle(what)
        return done


def chunk(run: str, number: int, start: int, end: int, prev: str, line: str = LINE) -> Chunk:
    return bare_chunk(run, number, [range_at(P0, line, start, end, prev)])


def head(run: str, number: int, offset: int, line: str = LINE) -> Head:
    return Head(line, offset, run, number)


def test_nothing_is_folded_before_it_is_known_to_count() -> None:
    topic = Topic()
    topic.put(chunk(A, 1, 0, 5, ""))
    assert topic.outcomes() == []
    topic.heads(p0=head(A, 0, 0))
    assert topic.outcomes() == []
    topic.heads(p0=head(A, 1, 5))
    assert topic.outcomes() == [(Fate.FOLDED, f"{A};1")]


def test_a_successor_confirms_what_it_follows_even_an_orphan() -> None:
    topic = Topic()
    topic.put(chunk(A, 1, 0, 5, ""))
    topic.put(chunk(A, 2, 5, 9, f"{A};1"))
    assert topic.outcomes() == [(Fate.FOLDED, f"{A};1")]
    topic.put(chunk(B, 1, 5, 7, f"{A};1"))
    topic.heads(p0=head(B, 1, 7))
    assert topic.outcomes() == [(Fate.FOLDED, f"{B};1")], "these heads may be older than the chunk"
    topic.heads(p0=head(B, 1, 7))
    assert topic.outcomes() == [(Fate.ORPHANED, f"{A};2")]


def test_a_later_chunk_of_the_run_confirms_where_no_successor_does() -> None:
    topic = Topic()
    topic.put(chunk(A, 1, 0, 5, ""))
    topic.put(bare_chunk(A, 2, [range_at(P1, LINE, 0, 3, "")]), confirms=(f"{A};1",))
    assert topic.outcomes() == [(Fate.FOLDED, f"{A};1")]


def test_order_follows_prev_over_all_partitions() -> None:
    topic = Topic()
    both = bare_chunk(
        B, 1, [range_at(P0, LINE, 5, 6, f"{A};1"), range_at(P1, LINE, 3, 4, f"{A};2")]
    )
    topic.put(both)
    topic.put(bare_chunk(A, 2, [range_at(P1, LINE, 0, 3, "")]))
    topic.heads(p0=head(B, 1, 6), p1=head(B, 1, 4))
    assert topic.outcomes() == [(Fate.FOLDED, f"{A};2")]
    topic.put(chunk(A, 1, 0, 5, ""))
    assert topic.outcomes() == [(Fate.FOLDED, f"{A};1"), (Fate.FOLDED, f"{B};1")]


@pytest.mark.parametrize("heads_come_first", [False, True])
def test_rows_of_a_partition_that_was_refused_alone_count_again_and_it_is_said(
    heads_come_first: bool,
) -> None:
    topic = Topic()
    topic.put(bare_chunk(A, 1, [range_at(P0, LINE, 0, 5, ""), range_at(P1, LINE, 0, 3, "")]))
    topic.put(
        bare_chunk(A, 2, [range_at(P0, LINE, 5, 9, f"{A};1"), range_at(P1, LINE, 3, 7, f"{A};1")])
    )
    topic.heads(p0=head(A, 2, 9), p1=head(A, 1, 3))
    assert topic.outcomes() == [(Fate.FOLDED, f"{A};1"), (Fate.FOLDED, f"{A};2")]
    topic.heads(p0=head(A, 2, 9), p1=head(A, 1, 3))
    if heads_come_first:
        topic.heads(p0=head(B, 1, 10), p1=head(B, 1, 8))
    again = bare_chunk(
        B, 1, [range_at(P0, LINE, 9, 10, f"{A};2"), range_at(P1, LINE, 3, 8, f"{A};1")]
    )
    topic.put(again)
    if not heads_come_first:
        for _ in range(3):  # its commit is on its way
            topic.heads(p0=head(A, 2, 9), p1=head(A, 1, 3))
            topic.now_s += TIMEOUT_S
            assert topic.outcomes() == []
        topic.heads(p0=head(B, 1, 10), p1=head(B, 1, 8))
    folded = topic.intake.next(topic.now_s)
    assert isinstance(folded, Fold)
    assert folded.verdict.joints == (Joint(P1, 7, 3, is_new_lineage=False),)
    assert folded.verdict.joints[0].reason == "overlap"
    assert topic.outcomes() == [(Fate.FOLDED, f"{B};1")]
    topic.put(chunk(B, 2, 10, 12, f"{B};1"))
    topic.heads(p0=head(B, 2, 12), p1=head(B, 1, 8))
    after = topic.intake.next(topic.now_s)
    assert isinstance(after, Fold)
    assert after.verdict.joints == ()


def test_offsets_rolled_back_with_their_metadata_orphan_nothing_that_counts() -> None:
    topic = Topic()
    topic.put(chunk(A, 1, 0, 5, ""))
    topic.put(chunk(A, 2, 5, 9, f"{A};1"))
    topic.heads(p0=head(A, 2, 9))
    assert topic.outcomes() == [(Fate.FOLDED, f"{A};1"), (Fate.FOLDED, f"{A};2")]
    for number, start, prev in [(1, 5, f"{A};1"), (2, 8, f"{B};1"), (3, 11, f"{B};2")]:
        topic.put(chunk(B, number, start, start + 3, prev))
        topic.heads(p0=head(A, 1, 5) if number == 1 else head(B, number - 1, start))
        topic.heads(p0=head(B, number, start + 3))
        assert topic.outcomes() == [(Fate.FOLDED, f"{B};{number}")]


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (0, Joint(P0, 9, 0, is_new_lineage=True)),
        (9, None),
        (12, Joint(P0, 9, 12, is_new_lineage=True)),
    ],
    ids=["again", "where it ended", "further on"],
)
def test_a_new_lineage_that_begins_elsewhere_is_said(start: int, expected: Joint | None) -> None:
    topic = Topic()
    topic.put(chunk(A, 1, 0, 9, ""))
    topic.heads(p0=head(A, 1, 9))
    topic.outcomes()
    topic.put(chunk(B, 1, start, 15, "", OTHER_LINE))
    topic.heads(p0=head(B, 1, 15, OTHER_LINE))
    folded = topic.intake.next(topic.now_s)
    assert isinstance(folded, Fold)
    assert folded.verdict.joints == (() if expected is None else (expected,))


def test_a_gap_in_one_lineage_is_said() -> None:
    chains = Chains()
    chains.decide(f"{A};1", [End(P0, LINE, 5)])
    (joint,) = joints_of(chains, [range_at(P0, LINE, 7, 9, f"{A};1")])
    assert (joint.reason, joint.n_records) == ("gap", 2)


def test_a_joint_is_counted_and_said(caplog: pytest.LogCaptureFixture) -> None:
    telemetry = Telemetry()
    report(f"{B};1", [Joint(P0, 9, 5, False), Joint(P1, 9, 12, True)], telemetry)
    assert telemetry.value("inferometer.chunks.misplaced", reason="overlap") == 4
    assert telemetry.value("inferometer.chunks.misplaced", reason="gap") == 3
    overlap, gap = (record.getMessage() for record in caplog.records)
    assert "events/0: rows were counted up to offset 9" in overlap
    assert "up to 4 records are counted again" in overlap
    assert "up to 3 records are in no total" in gap


@pytest.mark.parametrize("lost", [0, 1], ids=["a part", "the manifest"])
def test_a_missing_chunk_is_announced_with_its_offsets_and_the_chain_goes_on(lost: int) -> None:
    topic = Topic()
    topic.put(chunk(A, 1, 0, 5, ""))
    topic.put(chunk(A, 2, 5, 9, f"{A};1"), without=lost)
    topic.put(chunk(A, 3, 9, 12, f"{A};2"), confirms=(f"{A};1", f"{A};2"))
    topic.heads(p0=head(A, 3, 12))
    assert topic.outcomes() == [(Fate.FOLDED, f"{A};1")]
    topic.now_s += TIMEOUT_S
    missing = topic.intake.next(topic.now_s)
    assert missing == Verdict(Fate.MISSING, f"{A};2", (Gap(P0, 5, 9),), (End(P0, LINE, 9),))
    assert topic.outcomes() == [(Fate.MISSING, f"{A};2"), (Fate.FOLDED, f"{A};3")]


def test_nothing_is_missing_that_may_not_have_been_read_yet() -> None:
    topic = Topic()
    topic.intake.heads({P0: head(A, 1, 5)}, 100, topic.now_s)
    topic.now_s += 10 * TIMEOUT_S
    assert topic.outcomes() == []
    topic.intake.read_to(100)
    assert topic.intake.next(topic.now_s) == Verdict(
        Fate.MISSING, f"{A};1", (Gap(P0, UNKNOWN, 5),), (End(P0, LINE, 5),)
    )


def test_what_a_reset_left_without_a_word_is_uncertain_not_orphaned() -> None:
    topic = Topic()
    topic.put(chunk(A, 1, 0, 5, ""))
    topic.heads(p0=head(B, 0, 0, OTHER_LINE))
    topic.heads(p0=head(B, 0, 0, OTHER_LINE))
    assert topic.outcomes() == []
    topic.now_s += TIMEOUT_S
    topic.heads(p0=head(B, 0, 0, OTHER_LINE))
    assert topic.intake.next(topic.now_s) == Verdict(Fate.UNCERTAIN, f"{A};1", (Gap(P0, 0, 5),))


def test_a_chunk_of_a_lineage_that_the_heads_do_not_show_yet_is_waited_for() -> None:
    topic = Topic()
    topic.heads(p0=head(A, 0, 0))
    topic.put(chunk(B, 1, 3, 5, "", OTHER_LINE))  # its genesis came after those heads were read
    topic.heads(p0=head(A, 0, 0))
    topic.now_s += 10 * TIMEOUT_S
    assert topic.outcomes() == []
    topic.heads(p0=head(B, 1, 5, OTHER_LINE))
    assert topic.outcomes() == [(Fate.FOLDED, f"{B};1")]


def test_what_a_lost_volume_had_is_not_missing_and_not_waited_for() -> None:
    intake = Intake(0, 1, max_bytes=1 << 20, missing_timeout_s=TIMEOUT_S, begins_late=True)
    topic = Topic(intake)
    topic.put(chunk(A, 7, 50, 60, f"{A};6"), confirms=(f"{A};5", f"{A};6"))
    assert topic.outcomes() == [(Fate.BEFORE, f"{A};6"), (Fate.BEFORE, f"{A};5")]
    topic.put(chunk(A, 8, 60, 70, f"{A};7"), confirms=(f"{A};6", f"{A};7"))
    assert topic.outcomes() == [(Fate.FOLDED, f"{A};7")]
    topic.put(chunk(A, 9, 70, 80, f"{A};8"), without=0)
    topic.put(chunk(A, 10, 80, 90, f"{A};9"))
    assert topic.outcomes() == [(Fate.FOLDED, f"{A};8")], "of what comes later a loss is a loss"
    topic.now_s += TIMEOUT_S
    assert topic.outcomes() == [(Fate.MISSING, f"{A};9")]


def test_records_that_come_again_change_nothing_also_after_a_restart() -> None:
    topic = Topic()
    one, two = chunk(A, 1, 0, 5, ""), chunk(A, 2, 5, 9, f"{A};1")
    for each in (one, one, two):
        topic.put(each)
    assert topic.outcomes() == [(Fate.FOLDED, f"{A};1")]
    chains = Chains()
    chains.decide(f"{A};1", [End(P0, LINE, 5)])
    again = Topic(
        Intake(
            0,
            1,
            max_bytes=1 << 20,
            missing_timeout_s=TIMEOUT_S,
            chains=Chains.from_bytes(chains.to_bytes()),
            position=topic.intake.oldest,
        )
    )
    again.end = topic.intake.oldest
    for each in (two, one, one):
        again.put(each)
    again.heads(p0=head(A, 2, 9))
    assert again.outcomes() == [(Fate.FOLDED, f"{A};2")]


def test_the_oldest_position_still_needed_is_that_of_the_oldest_undecided_record() -> None:
    topic = Topic()
    topic.put(chunk(A, 1, 0, 5, ""))
    first_end = topic.end
    topic.put(chunk(A, 2, 5, 9, f"{A};1"))
    assert topic.intake.oldest == 0
    topic.outcomes()
    assert topic.intake.oldest == first_end
    topic.heads(p0=head(A, 2, 9))
    topic.outcomes()
    assert topic.intake.oldest == topic.end


@pytest.mark.parametrize(
    ("ranges", "confirms"),
    [
        ([range_at(P0, LINE, 0, 1, "junk")], ()),
        ([range_at(P0, LINE, 0, 1, f"{A};x")], ()),
        ([range_at(P0, LINE, 0, 1, f"{A};0")], ()),
        ([range_at(P0, LINE, 0, 1, f"{A};1\n")], ()),
        ([range_at(P0, LINE, 0, 1, "")], ("zz",)),
        ([range_at(P0, "not a lineage", 0, 1, "")], ()),
        ([range_at(P0, LINE, 5, 4, "")], ()),
        ([range_at(P0, LINE, -1, 4, "")], ()),
    ],
)
def test_a_record_that_no_agent_writes_is_left_out_and_counted(
    ranges: list[PartitionRange], confirms: tuple[str, ...]
) -> None:
    topic = Topic()
    topic.put(bare_chunk(A, 9, ranges), confirms)
    assert topic.outcomes() == []
    assert topic.intake.n_foreign == 1, "the manifest; the part is one of ours"
    topic.put(chunk(B, 1, 0, 5, ""))
    topic.heads(p0=head(B, 1, 5))
    assert topic.outcomes() == [(Fate.FOLDED, f"{B};1")]


@pytest.mark.parametrize(("run", "number"), [("run", 1), (A, 0), (A, -1), (A, 10**18)])
def test_a_chunk_whose_id_is_none_is_left_out_and_counted(run: str, number: int) -> None:
    topic = Topic()
    topic.put(chunk(run, number, 0, 5, ""))
    assert topic.intake.n_foreign == 2


@pytest.mark.parametrize("state", [b"x", b"\x93\x07\x90\x90", b"\x93\x01\x90"])
def test_state_that_is_not_ours_is_refused(state: bytes) -> None:
    with pytest.raises(DecodeError, match="state of the aggregator"):
        Chains.from_bytes(state)


def test_decided_ids_are_remembered_exactly_over_gaps() -> None:
    decided = Decided()
    numbers = [5, 1, 2, 9, 4, 8, 7]
    for number in numbers:
        decided.add(f"{A};{number}")
        decided.add(f"{A};{number}")
    assert [n for n in range(12) if f"{A};{n}" in decided] == sorted(numbers)
    assert f"{B};1" not in decided
    assert decided.runs() == [(A, [[1, 2], [4, 5], [7, 9]])]
    assert Decided(decided.runs()).runs() == decided.runs()


def test_memory_of_decided_ids_is_bounded() -> None:
    decided = Decided()
    for number in range(0, 10 * MAX_INTERVALS, 2):
        decided.add(f"{A};{number}")
    ((_, intervals),) = decided.runs()
    assert len(intervals) == MAX_INTERVALS
    assert f"{A};{10 * MAX_INTERVALS - 3}" not in decided
    for run in range(MAX_RUNS):
        decided.add(f"{run:x};1")
    assert len(decided.runs()) == MAX_RUNS
    assert f"{A};0" not in decided

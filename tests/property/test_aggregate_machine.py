"""Agents that write, die between any two steps, are evicted, wake and hand over, against an oracle:
the list of chunks whose commit the coordinator accepted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from agent.aggregate.accept import UNKNOWN, Fate, Verdict
from agent.aggregate.intake import Fold, Intake, Seek
from agent.aggregate.joints import Joint
from agent.aggregate.shard_log import ShardLog, judged, read_to
from agent.state import parts
from agent.state.heads import chunk_id
from agent.types import Chunk, Partition
from tests.support.fleet import Agent, Group

PARTITIONS = [Partition("events", n) for n in range(3)]
MISSING_TIMEOUT_S = 30.0
SLICE_BYTES = 100


class Aggregator:
    """`Intake` with a list for the topic, another for the journal, and `ShardLog` made of it."""

    def __init__(self, topic: list[bytes | None]) -> None:
        self.topic = topic
        self.journal: list[Chunk | bytes] = []  # what counts, and notes
        self.said: list[Verdict] = []
        self.joints: list[Joint] = []
        self.kept = ShardLog().to_bytes()
        self.n_kept = 0  # entries before that snapshot
        self.start(10_000)

    @property
    def folded(self) -> list[Chunk]:
        return [entry for entry in self.journal if isinstance(entry, Chunk)]

    def _log(self) -> ShardLog:
        """Snapshot and journal, as a restart finds them."""
        log = ShardLog()
        log.restore(self.kept)
        for entry in self.journal[self.n_kept :]:
            if isinstance(entry, Chunk):
                log.counted(entry)
            else:
                log.noted(entry)
        return log

    def start(self, max_bytes: int) -> None:
        log = self._log()
        self.intake = Intake(
            0,
            1,
            max_bytes=max_bytes,
            missing_timeout_s=MISSING_TIMEOUT_S,
            chains=log.chains,
            position=log.position,
        )

    def snapshot(self) -> None:
        self.kept = self._log().to_bytes()
        self.n_kept = len(self.journal)

    @property
    def is_at_end(self) -> bool:
        return self.intake.position >= len(self.topic)

    def read(self, n: int, now_s: float) -> None:
        for _ in range(n):
            if self.is_at_end:
                break
            at = self.intake.position
            self.intake.record(at, self.topic[at], now_s)
            self.act(now_s)

    def act(self, now_s: float) -> None:
        while (what := self.intake.next(now_s)) is not None:
            match what:
                case Seek():
                    break
                case Fold():
                    self.intake.settle(what)
                    self.journal.append(what.chunk)
                    self.joints += what.verdict.joints
                case Verdict():
                    self.said.append(what)
                    self.intake.settle(what)
                    self.journal.append(judged(what))
        self.journal.append(read_to(self.intake.oldest))


class Fleet(RuleBasedStateMachine):
    """No record is lost: exactly the effective chunks are folded."""

    loses_records = False

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(parts, "_SLICE_BYTES", SLICE_BYTES)
        self.now_s = 0.0
        self.topic: list[bytes | None] = []
        self.group = Group(PARTITIONS)
        self.agents: list[Agent] = []
        self.n_runs = 0
        self.ends = dict.fromkeys(PARTITIONS, 0)
        self.reset_lineages: set[str] = set()
        self.aggregator = Aggregator(self.topic)

    # -- rows and agents

    @rule(n=st.integers(1, 3), at=st.sampled_from(PARTITIONS))
    def produce(self, n: int, at: Partition) -> None:
        self.ends[at] += n

    @rule(turn=st.integers(0, 2))
    @precondition(lambda self: len(self.agents) < 3)
    def start_agent(self, turn: int) -> None:
        self.n_runs += 1
        self.agents.append(Agent(f"{self.n_runs:016x}"))
        self.group.rebalance(self.agents, turn)

    @rule(turn=st.integers(0, 2))
    def rebalance(self, turn: int) -> None:
        """A session ended, or somebody left: whoever does not answer is out, and does not know."""
        self.group.rebalance(self.agents, turn)

    def pick(self, which: int) -> Agent:
        return self.agents[which % len(self.agents)]

    @rule(which=st.integers(0, 2))
    @precondition(lambda self: self.agents)
    def die(self, which: int) -> None:
        self.agents.remove(self.pick(which))

    @rule(which=st.integers(0, 2))
    @precondition(lambda self: self.agents)
    def pause_or_wake(self, which: int) -> None:
        agent = self.pick(which)
        agent.is_paused = not agent.is_paused

    @rule(which=st.integers(0, 2), n=st.integers(1, 4))
    @precondition(lambda self: self.agents)
    def read_rows(self, which: int, n: int) -> None:
        agent = self.pick(which)
        for partition in agent.owned:
            at = agent.read_to[partition]
            agent.read_to[partition] = max(at, min(at + n, self.ends[partition]))

    @rule(which=st.integers(0, 2), has_body=st.booleans())
    @precondition(lambda self: self.agents)
    def cut(self, which: int, has_body: bool) -> None:
        agent = self.pick(which)
        if agent.chunk is None and agent.owned:
            agent.cut(has_body=has_body)

    @rule(which=st.integers(0, 2), n=st.integers(1, 6))
    @precondition(lambda self: self.agents)
    def write(self, which: int, n: int) -> None:
        agent = self.pick(which)
        for _ in range(min(n, len(agent.unwritten))):
            self.topic.append(agent.unwritten.pop(0))

    @rule(which=st.integers(0, 2))
    @precondition(lambda self: self.agents)
    def write_again(self, which: int) -> None:
        """The producer was poisoned: another one writes the chunk from its beginning."""
        agent = self.pick(which)
        if agent.chunk is not None:
            agent.unwritten = list(agent.records)

    @rule(which=st.integers(0, 2))
    @precondition(lambda self: self.agents)
    def arrive_late(self, which: int) -> None:
        agent = self.pick(which)
        self.topic += agent.late
        agent.late = []

    @rule(which=st.integers(0, 2), is_answer_lost=st.booleans())
    @precondition(lambda self: self.agents)
    def commit(self, which: int, is_answer_lost: bool) -> None:
        agent = self.pick(which)
        if agent.chunk is None or agent.unwritten:
            return
        accepted = self.group.commit(agent, agent.chunk)
        if is_answer_lost:
            return
        if accepted:
            agent.answered()
        else:
            agent.forget()

    @rule(which=st.integers(0, 2), n=st.integers(1, 20))
    @precondition(lambda self: self.agents)
    def cycle_and_aggregate(self, which: int, n: int) -> None:
        self.cycle(which)
        self.aggregate(n, 0.1)

    @rule(which=st.integers(0, 2), turn=st.integers(0, 2))
    @precondition(lambda self: self.agents)
    def lose_an_answer_with_the_partitions(self, which: int, turn: int) -> None:
        """The commit is accepted, the epoch ends before its answer, and all go on elsewhere."""
        self.cut(which, True)
        self.write(which, 100)
        self.commit(which, True)
        self.rebalance(turn)

    @rule(which=st.integers(0, 2))
    @precondition(lambda self: self.agents)
    def cycle(self, which: int) -> None:
        """All of it, as it mostly goes."""
        self.read_rows(which, 2)
        self.cut(which, True)
        self.write(which, 100)
        self.commit(which, False)

    # -- the aggregator

    @rule(n=st.integers(1, 20), after_s=st.sampled_from([0.1, 1.0, 10.0]))
    def aggregate(self, n: int, after_s: float) -> None:
        self.now_s += after_s
        self.aggregator.read(n, self.now_s)
        self.aggregator.act(self.now_s)

    @rule()
    def poll_heads(self) -> None:
        self.now_s += 1.0
        self.aggregator.intake.heads(self.group.heads(), len(self.topic), self.now_s)
        self.aggregator.act(self.now_s)

    @rule()
    def snapshot(self) -> None:
        self.aggregator.snapshot()

    @rule(max_bytes=st.sampled_from([50, 500, 100_000]))
    def restart(self, max_bytes: int) -> None:
        self.aggregator.start(max_bytes)

    # -- the oracle

    def drain(self) -> None:
        for _ in range(4):
            self.poll_heads()
            self.aggregator.read(2000 + 20 * len(self.topic), self.now_s)  # some are read again
            assert self.aggregator.is_at_end
            self.aggregator.act(self.now_s)
            self.now_s += MISSING_TIMEOUT_S + 1

    def check(self) -> None:
        folded = ids(self.aggregator.folded)
        effective = ids(self.group.effective)
        assert sorted(folded) == sorted(effective)
        assert [v for v in self.aggregator.said if v.fate is not Fate.ORPHANED] == []
        assert self.aggregator.joints == []
        orphans = [v.chunk_id for v in self.aggregator.said]
        assert not set(orphans) & set(effective)

    def teardown(self) -> None:
        try:
            self.drain()
            assert len(set(ids(self.aggregator.folded))) == len(self.aggregator.folded)
            self.check_order()
            self.check()
        finally:
            self.patch.undo()

    def check_order(self) -> None:
        """In each lineage of a partition, chunks are folded in the order of their commits."""
        place = {one: n for n, one in enumerate(ids(self.group.effective))}
        last: dict[Any, int] = {}
        for chunk, one in zip(self.aggregator.folded, ids(self.aggregator.folded), strict=True):
            assert one in place, f"{one} does not count"
            for at in chunk.ranges:
                if self.loses_records and at.from_offset == at.to_offset:
                    continue  # nothing tells in which order two empty ranges came
                key = (at.partition, at.lineage)
                assert last.get(key, -1) < place[one]
                last[key] = place[one]


def ids(chunks: list[Chunk]) -> list[str]:
    return [chunk_id(chunk.run_id, chunk.number) for chunk in chunks]


class LossyFleet(Fleet):
    """Records vanish from the topic: what is not folded has been announced, with its offsets."""

    loses_records = True

    @rule(data=st.data())
    @precondition(lambda self: self.topic)
    def lose(self, data: st.DataObject) -> None:
        self.topic[data.draw(st.integers(0, len(self.topic) - 1))] = None

    def check(self) -> None:
        folded = set(ids(self.aggregator.folded))
        announced = list(self.gaps())
        for chunk in self.group.effective:
            if chunk_id(chunk.run_id, chunk.number) in folded:
                continue
            for at in chunk.ranges:
                assert at.from_offset == at.to_offset or any(
                    partition == at.partition
                    and (start == UNKNOWN or start <= at.from_offset)
                    and at.to_offset <= end
                    for partition, start, end in announced
                ), f"{at} vanished"

    def gaps(self) -> Iterator[tuple[Partition, int, int]]:
        for verdict in self.aggregator.said:
            assert verdict.fate is not Fate.ORPHANED or not verdict.gaps
            yield from verdict.gaps


class ResettingFleet(LossyFleet):
    """Lineages end (offsets reset, topic made anew): what nobody can confirm any more is announced."""

    @rule(at=st.sampled_from(PARTITIONS), turn=st.integers(0, 2), offset=st.integers(0, 5))
    def reset(self, at: Partition, turn: int, offset: int) -> None:
        self.group.begin_lineage(at, offset)
        self.group.rebalance(self.agents, turn)

    @rule()
    def lose(self) -> None:
        """Nothing is lost here."""


class RefusingFleet(Fleet):
    """Commits are refused for one partition alone, offsets are rolled back with their metadata: no row
    that the group's offsets hold is left out, none is counted again without a word."""

    @rule(which=st.integers(0, 2), at=st.sampled_from(PARTITIONS))
    @precondition(lambda self: self.agents)
    def commit_all_but_one(self, which: int, at: Partition) -> None:
        """The agent goes on trying, with the same bytes, until its epoch ends."""
        agent = self.pick(which)
        if agent.chunk is not None and not agent.unwritten:
            self.group.commit(agent, agent.chunk, refused={at})

    @rule(which=st.integers(0, 2), at=st.sampled_from(PARTITIONS), turn=st.integers(0, 2))
    @precondition(lambda self: self.agents)
    def lose_the_partitions_while_one_is_refused(
        self, which: int, at: Partition, turn: int
    ) -> None:
        self.read_rows(which, 2)
        self.cut(which, True)
        self.write(which, 100)
        self.commit_all_but_one(which, at)
        self.rebalance(turn)

    @rule(at=st.sampled_from(PARTITIONS), n=st.integers(1, 4), turn=st.integers(0, 2))
    def roll_back(self, at: Partition, n: int, turn: int) -> None:
        self.group.roll_back(at, n)
        self.group.rebalance(self.agents, turn)

    def check(self) -> None:
        assert {v.fate for v in self.aggregator.said} <= {Fate.ORPHANED}
        n_folded: Counter[tuple[Partition, int]] = Counter(
            (at.partition, row)
            for chunk in self.aggregator.folded
            for at in chunk.ranges
            for row in range(at.from_offset, at.to_offset)
        )
        for partition, (offset, _) in self.group.committed.items():
            left_out = [row for row in range(offset) if not n_folded[partition, row]]
            assert left_out == []
        again = {
            (joint.partition, row)
            for joint in self.aggregator.joints
            for row in range(joint.begins, joint.ended)
        }
        assert {row for row, n in n_folded.items() if n > 1} <= again
        assert all(joint.reason == "overlap" for joint in self.aggregator.joints)

    def check_order(self) -> None:
        """What is begun again has no order."""


_SETTINGS = settings(
    max_examples=120,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


class TestFleet(Fleet.TestCase):  # type: ignore[name-defined,misc]
    settings = _SETTINGS


class TestLossyFleet(LossyFleet.TestCase):  # type: ignore[name-defined,misc]
    settings = _SETTINGS


class TestRefusingFleet(RefusingFleet.TestCase):  # type: ignore[name-defined,misc]
    settings = _SETTINGS


class TestResettingFleet(ResettingFleet.TestCase):  # type: ignore[name-defined,misc]
    settings = _SETTINGS

"""Fleet mode beside the broker: what it writes, when it may cut, and where partitions begin."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from agent.config import Config, Delivery
from agent.delivery import chained
from agent.delivery.chained import GONE_ANSWERS
from agent.errors import FencedError, SourceError, UnsentError
from agent.fleet.mode import CONFIRMS, FleetMode
from agent.ingest.fence import UNKNOWN_PARTITION as GONE
from agent.state.heads import Head, head_of
from agent.state.parts import Manifest, read_record
from agent.types import Chunk, Partition
from tests.support.fleet import bare_chunk, range_at

P0, P1 = Partition("events", 0), Partition("events", 1)
CONFIG = Config(delivery=Delivery(mode="fleet", chunk_topic="chunks", shards=2))


class Writer:
    """Remembers what was durable."""

    n_restarts = 0

    def __init__(self) -> None:
        self.trouble = ""
        self.written: list[tuple[str, Sequence[Sequence[bytes]]]] = []
        self.error: Exception | None = None

    async def write(
        self, chunk_id: str, shards: Sequence[Sequence[bytes]], *, ended: asyncio.Event
    ) -> None:
        if self.error is not None:
            raise self.error
        self.written.append((chunk_id, shards))

    def manifests(self) -> list[Manifest]:
        found = [read_record(shards[0][-1]) for _, shards in self.written]
        return [one for one in found if isinstance(one, Manifest)]


class Group:
    """Takes commits, or answers with what it is told to."""

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self.committed: dict[Partition, tuple[int, str]] = {}
        self.answers: list[Exception | dict[Partition, str]] = []

    async def commit(
        self, epoch: int, offsets: Mapping[Partition, int], metadata: Mapping[Partition, str]
    ) -> Mapping[Partition, str]:
        assert self.writer.written, "committed before it was durable"
        answer = self.answers.pop(0) if self.answers else {}
        if isinstance(answer, Exception):
            raise answer
        self.committed |= {p: (at, metadata[p]) for p, at in offsets.items() if p not in answer}
        return answer


class Agent:
    def __init__(self) -> None:
        self.writer = Writer()
        self.group = Group(self.writer)
        self.mode = FleetMode(
            CONFIG,
            self.writer,  # type: ignore[arg-type]
            self.group.commit,
            prepare=lambda: asyncio.sleep(0),
        )

    async def begin(self, epoch: int, *partitions: Partition) -> dict[Partition, int]:
        """An epoch begins as `LineageStarts` has it; returns the offsets."""
        places = await self.mode.settle(partitions, self.group.committed)
        offsets = {p: places[p].offset if p in places else 0 for p in partitions}
        metadata = await self.mode.place(epoch, offsets)
        for partition in partitions:
            if partition not in places or not places[partition].is_committed:
                self.group.committed[partition] = (offsets[partition], metadata[partition])
        self.mode.begin(epoch)
        return offsets

    def chunk(self, epoch: int, **ends: tuple[int, int]) -> Chunk:
        """As the cutter makes it: no `prev`, a number of its own."""
        wanted = {Partition("events", int(name[1:])): ends[name] for name in ends}
        lineages = self.mode.lineages(wanted)
        at = [range_at(p, lineages[p], start, end, "") for p, (start, end) in wanted.items()]
        return replace(bare_chunk("f" * 16, 77, at), epoch=epoch)


async def test_chunks_form_a_chain_and_confirm_those_before() -> None:
    agent = Agent()
    assert await agent.begin(1, P0) == {P0: 0}
    for n in range(CONFIRMS + 2):
        assert await agent.mode.deliver(agent.chunk(1, p0=(n, n + 1))) is not None
    ids = [f"{agent.mode.run_id};{n}" for n in range(1, CONFIRMS + 3)]
    manifests = agent.writer.manifests()
    assert [one.chunk_id for one in manifests] == ids
    assert [one.ranges[0].prev for one in manifests] == ["", *ids[:-1]]
    assert manifests[-1].confirms == tuple(ids[-CONFIRMS - 1 : -1])
    offset, metadata = agent.group.committed[P0]
    head = head_of(offset, metadata)
    assert head is not None
    assert (head.offset, head.chunk_id) == (CONFIRMS + 2, ids[-1])


async def test_every_shard_gets_a_manifest_also_of_a_chunk_without_rows() -> None:
    agent = Agent()
    await agent.begin(1, P0)
    assert await agent.mode.deliver(agent.chunk(1, p0=(0, 0))) is not None
    ((_, shards),) = agent.writer.written
    found = [read_record(records[-1]) for records in shards]
    assert [one.shard for one in found if isinstance(one, Manifest)] == [0, 1]


async def test_quiet_partitions_are_spoken_of_now_and_then_only() -> None:
    agent = Agent()
    await agent.begin(1, P0)
    for _ in range(5):
        outcome = await agent.mode.deliver(agent.chunk(1, p0=(0, 0)))
        assert outcome is not None
    assert len(agent.writer.written) == 1
    assert not outcome.is_folded
    assert (await agent.mode.deliver(agent.chunk(1, p0=(0, 1)))).is_folded  # type: ignore[union-attr]
    assert [one.number for one in agent.writer.manifests()] == [1, 2]


@pytest.mark.parametrize("error", [FencedError("moved on"), UnsentError("ended")])
async def test_chunk_whose_commit_is_refused_is_forgotten_and_named_by_nobody(
    error: Exception,
) -> None:
    agent = Agent()
    await agent.begin(1, P0)
    agent.group.answers = [error]
    assert await agent.mode.deliver(agent.chunk(1, p0=(0, 5))) is None
    assert await agent.begin(2, P0) == {P0: 0}
    assert agent.mode.may_cut()
    assert await agent.mode.deliver(agent.chunk(2, p0=(0, 5))) is not None
    second = agent.writer.manifests()[1]
    assert (second.number, second.ranges[0].prev, second.confirms) == (2, "", ())


async def test_nothing_is_cut_after_an_answer_that_is_not_clear_until_the_epoch_ends() -> None:
    agent = Agent()
    await agent.begin(1, P0)
    agent.group.answers = [FencedError("no answer")]
    assert await agent.mode.deliver(agent.chunk(1, p0=(0, 5))) is None
    assert not agent.mode.may_cut()


async def test_commit_that_was_accepted_without_an_answer_is_found_in_the_offsets() -> None:
    agent = Agent()
    await agent.begin(1, P0)
    assert await agent.mode.deliver(agent.chunk(1, p0=(0, 5))) is not None
    head = Head(agent.mode.lineages([P0])[P0], 9, agent.mode.run_id, 2)
    agent.group.answers = [FencedError("the connection broke")]
    assert await agent.mode.deliver(agent.chunk(1, p0=(5, 9))) is None
    agent.group.committed[P0] = (9, head.metadata)
    assert await agent.begin(2, P0) == {P0: 9}
    assert await agent.mode.deliver(agent.chunk(2, p0=(9, 10))) is not None
    assert agent.writer.manifests()[-1].ranges[0].prev == head.chunk_id


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chained, "RETRY_S", 0.01)


@pytest.mark.usefixtures("impatient")
async def test_deleted_partition_is_asked_for_a_few_times_and_the_others_go_on() -> None:
    agent = Agent()
    await agent.begin(1, P0, P1)
    agent.group.answers = [{P1: GONE}] * GONE_ANSWERS
    assert await agent.mode.deliver(agent.chunk(1, p0=(0, 5), p1=(0, 3))) is not None
    assert agent.group.answers == []
    assert await agent.mode.deliver(agent.chunk(1, p0=(5, 6), p1=(3, 4))) is not None
    first = f"{agent.mode.run_id};1"
    assert [at.prev for at in agent.writer.manifests()[1].ranges] == [first, first]


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    "refused",
    [{P1: "TOPIC_AUTHORIZATION_FAILED"}, {P0: "denied", P1: "denied"}, {P0: GONE, P1: GONE}],
    ids=["one alone", "all", "all, as if deleted"],
)
async def test_refused_partitions_are_committed_again_until_they_are_accepted(
    refused: dict[Partition, str],
) -> None:
    agent = Agent()
    await agent.begin(1, P0, P1)
    agent.group.answers = [refused] * (GONE_ANSWERS + 2)
    requests: list[Any] = []
    commit = agent.group.commit

    async def watched(*arguments: Any) -> Mapping[Partition, str]:
        requests.append((*arguments, agent.mode.reasons()))
        return await commit(*arguments)

    agent.mode._commit = watched
    assert await agent.mode.deliver(agent.chunk(1, p0=(0, 5), p1=(0, 3))) is not None
    assert len(requests) == GONE_ANSWERS + 3
    assert all(request[:3] == requests[0][:3] for request in requests)
    assert requests[0][3] == []
    for request in requests[1:]:
        (reason,) = request[3]
        assert all(f"{p.topic}/{p.partition}: {why}" in reason for p, why in refused.items())
    assert agent.mode.reasons() == []
    assert agent.mode.may_cut()
    assert {offset for offset, _ in agent.group.committed.values()} == {5, 3}
    assert {head_of(*at).chunk_id for at in agent.group.committed.values()} == {  # type: ignore[union-attr]
        f"{agent.mode.run_id};1"
    }


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("refused", [{P1: "denied"}, {P0: "denied", P1: "denied"}])
async def test_refused_until_the_epoch_ends_leaves_the_word_to_the_offsets(
    refused: dict[Partition, str],
) -> None:
    agent = Agent()
    await agent.begin(1, P0, P1)
    agent.group.answers = [refused, refused, UnsentError("epoch 1 has ended")]
    assert await agent.mode.deliver(agent.chunk(1, p0=(0, 5), p1=(0, 3))) is None
    assert not agent.mode.may_cut()
    assert await agent.begin(2, P0, P1) == {P0: 0 if P0 in refused else 5, P1: 0}
    assert agent.mode.may_cut()
    assert agent.mode.reasons() == []


async def test_offset_set_by_a_tool_begins_a_new_lineage() -> None:
    agent = Agent()
    await agent.begin(1, P0)
    before = agent.mode.lineages([P0])[P0]
    assert await agent.mode.deliver(agent.chunk(1, p0=(0, 5))) is not None
    agent.group.committed[P0] = (2, "")
    assert await agent.begin(2, P0) == {P0: 2}
    assert agent.mode.lineages([P0])[P0] != before
    assert await agent.mode.deliver(agent.chunk(2, p0=(2, 6))) is not None
    last = agent.writer.manifests()[-1]
    assert last.ranges[0].prev == ""
    assert last.confirms == (f"{agent.mode.run_id};1",)  # what nobody else can say any more


@pytest.mark.usefixtures("impatient")
async def test_group_that_may_not_be_used_is_asked_again_and_said_in_readiness() -> None:
    agent = Agent()
    await agent.begin(1, P0)
    seen: list[list[str]] = []
    commit = agent.group.commit

    async def watched(*arguments: Any) -> Mapping[Partition, str]:
        seen.append(agent.mode.reasons())
        return await commit(*arguments)

    agent.mode._commit = watched
    agent.group.answers = [SourceError("group is not authorised")]
    assert await agent.mode.deliver(agent.chunk(1, p0=(0, 5))) is not None
    assert seen == [[], ["group is not authorised"]]
    assert agent.mode.reasons() == []


async def test_topic_that_cannot_be_written_ends_the_agent() -> None:
    agent = Agent()
    await agent.begin(1, P0)
    agent.writer.error = SourceError("chunk topic is not authorised")
    with pytest.raises(SourceError, match="not authorised"):
        await agent.mode.deliver(agent.chunk(1, p0=(0, 5)))


async def test_trouble_of_the_writer_is_said_in_readiness() -> None:
    agent = Agent()
    agent.writer.trouble = "writing chunk 1 to 'chunks': not enough replicas"
    assert agent.mode.reasons() == [agent.writer.trouble]
    assert agent.mode.describe()["fleet"]["trouble"] == agent.writer.trouble

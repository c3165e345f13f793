"""A fleet in miniature, without a broker: a group coordinator, agents that can stop between any two
steps, and the chunk topic's one shard. What counts is kept by the coordinator alone."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from agent.sketch.packed import no_cells
from agent.state.heads import Head, chunk_id, head_of
from agent.state.parts import records_of
from agent.types import Chunk, Column, Exemplar, Partition, PartitionRange, Role, StreamKey, Tally

STREAM = StreamKey("m", "1")


def bare_chunk(
    run_id: str, number: int, ranges: Iterable[PartitionRange], *, has_body: bool = True
) -> Chunk:
    """A chunk without cells; an exemplar makes that it has a body, and so parts."""
    ranges = list(ranges)
    exemplar = Exemplar(STREAM, Column(Role.FEATURE, "x"), 1.0, number, b"t" * 16, b"s" * 8)
    return Chunk(
        run_id=run_id,
        number=number,
        epoch=1,
        digest="d",
        ranges=ranges,
        groups=[],
        numeric=no_cells(is_string=False),
        strings=no_cells(is_string=True),
        tally=Tally(records=sum(at.to_offset - at.from_offset for at in ranges)),
        spans=[],
        exemplars=[exemplar] if has_body else [],
    )


def range_at(
    partition: Partition, lineage: str, from_offset: int, to_offset: int, prev: str
) -> PartitionRange:
    return PartitionRange(partition, from_offset, to_offset, lineage, prev, -1, -1, False, 0)


class Group:
    """The agents' group: who is in it, and what is committed."""

    def __init__(self, partitions: Iterable[Partition]) -> None:
        self.generation = 0
        self.owner: dict[Partition, Agent] = {}
        self.members: set[int] = set()
        self.committed: dict[Partition, tuple[int, str]] = {}
        self.effective: list[Chunk] = []  # in the order of their commits
        self.history: dict[Partition, list[tuple[int, str]]] = {}  # all that was committed
        self.n_lineages = 0
        self.partitions = list(partitions)
        for partition in self.partitions:
            self.begin_lineage(partition, 0)

    def begin_lineage(self, partition: Partition, offset: int) -> None:
        """The genesis commit of whoever owns the partition."""
        self.n_lineages += 1
        head = Head(f"{self.n_lineages:016x}", offset, "0" * 16, 0)
        self.committed[partition] = (offset, head.metadata)
        self.history[partition] = [self.committed[partition]]  # of this lineage

    def roll_back(self, partition: Partition, n: int) -> None:
        """A tool restores what was committed so many commits ago, metadata included."""
        history = self.history[partition]
        self.committed[partition] = history[max(0, len(history) - 1 - n)]

    def heads(self) -> dict[Partition, Head]:
        found = {p: head_of(offset, metadata) for p, (offset, metadata) in self.committed.items()}
        return {p: head for p, head in found.items() if head is not None}

    def rebalance(self, agents: list[Agent], turn: int) -> None:
        """A new generation with the agents that answer, each with its share."""
        self.generation += 1
        answering = [agent for agent in agents if not agent.is_paused]
        self.members = {id(agent) for agent in answering}
        self.owner = {}
        for agent in answering:
            agent.forget()
            agent.generation = self.generation
        if answering:
            for index, partition in enumerate(self.partitions):
                agent = answering[(index + turn) % len(answering)]
                self.owner[partition] = agent
                head = head_of(*self.committed[partition])
                assert head is not None
                agent.owned[partition] = head
                agent.read_to[partition] = head.offset

    def commit(
        self, agent: Agent, chunk: Chunk, *, refused: Collection[Partition] = frozenset()
    ) -> bool:
        """OffsetCommit: refused unless generation and member are right; `refused` are so alone."""
        if id(agent) not in self.members or agent.generation != self.generation:
            return False
        accepted = [at for at in chunk.ranges if at.partition not in refused]
        for at in accepted:
            head = Head(at.lineage, at.to_offset, chunk.run_id, chunk.number)
            self.committed[at.partition] = (at.to_offset, head.metadata)
            self.history[at.partition].append(self.committed[at.partition])
        if not accepted:
            return True
        if not self.effective or all(one is not chunk for one in self.effective):
            self.effective.append(chunk)  # the same bytes again change nothing
        return True


@dataclass(eq=False)
class Agent:
    """A process: what it owns, its delta, and at most one chunk that is not answered."""

    run_id: str
    generation: int = 0
    is_paused: bool = False
    number: int = 0
    confirms: list[str] = field(default_factory=list)
    owned: dict[Partition, Head] = field(default_factory=dict)
    read_to: dict[Partition, int] = field(default_factory=dict)
    chunk: Chunk | None = None
    unwritten: list[bytes] = field(default_factory=list)
    records: list[bytes] = field(default_factory=list)
    late: list[bytes] = field(default_factory=list)  # of a forgotten chunk, still in flight

    def forget(self) -> None:
        """The epoch ended: delta and unanswered chunk leave memory, what was sent may still arrive."""
        self.late = self.unwritten
        self.owned, self.read_to = {}, {}
        self.chunk, self.unwritten, self.records = None, [], []

    def cut(self, *, has_body: bool) -> None:
        assert self.chunk is None
        self.number += 1
        ranges = [
            range_at(p, head.lineage, head.offset, self.read_to[p], head.chunk_id)
            for p, head in self.owned.items()
        ]
        self.chunk = bare_chunk(self.run_id, self.number, ranges, has_body=has_body)
        self.records = records_of(self.chunk, 0, 1, self.confirms)
        self.unwritten = list(self.records)

    def answered(self) -> None:
        """The commit was accepted, and the answer arrived."""
        chunk = self.chunk
        assert chunk is not None
        for at in chunk.ranges:
            self.owned[at.partition] = Head(at.lineage, at.to_offset, chunk.run_id, chunk.number)
        self.confirms = [*self.confirms[-3:], chunk_id(chunk.run_id, chunk.number)]
        self.chunk, self.records = None, []

"""Volume mode without a broker: what is written, committed, folded and forgotten, in which order."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.config import Config, Delivery
from agent.delivery.chained import GONE_ANSWERS
from agent.delivery.volume import VolumeMode
from agent.errors import FencedError, SourceError, StateError, UnsentError
from agent.ingest.fence import Committed
from agent.ingest.lineages import Place
from agent.owner_thread import OwnerThread
from agent.state.entries import Tick
from agent.state.files import Files
from agent.state.heads import head_of
from agent.state.recovery import Owner
from agent.state.volume import Volume
from agent.telemetry import Telemetry
from agent.types import Chunk, Partition
from tests.support.fold_inputs import CODEC, Inputs, chunk
from tests.support.wait import eventually

P0, P1 = Partition("t", 0), Partition("t", 1)


class Disk(Files):
    def __init__(self) -> None:
        self.full = False
        self.takes_no_names = False

    def rename(self, path: Path, to: Path) -> None:
        if self.takes_no_names:
            raise OSError(errno.EDQUOT, "Disk quota exceeded")
        super().rename(path, to)

    def write(self, fd: int, data: bytes) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        super().write(fd, data)


class Group:
    """A coordinator: what it holds, and what it answers."""

    def __init__(self) -> None:
        self.offsets: dict[Partition, Committed] = {}
        self.errors: list[Exception | None] = []  # one a commit; None: accepted
        self.refusals: list[dict[Partition, str]] = []  # the same, of partitions alone
        self.takes_what_it_refuses = False
        self.n = 0

    async def commit(
        self, epoch: int, offsets: Mapping[Partition, int], metadata: Mapping[Partition, str]
    ) -> dict[Partition, str]:
        self.n += 1
        refused = self.refusals.pop(0) if self.refusals else {}
        error = self.errors.pop(0) if self.errors and not refused else None
        if error is None or self.takes_what_it_refuses:
            for partition, offset in offsets.items():
                if partition not in refused:
                    self.offsets[partition] = Committed(offset, metadata[partition])
        if error is not None:
            raise error
        return refused


class Process:
    """One life of an agent on the volume."""

    def __init__(self, folder: Path, group: Group) -> None:
        self.group = group
        self.disk = Disk()
        self.telemetry = Telemetry()
        self.volume = Volume(folder, Owner("g", ("t",)), CODEC, self.telemetry, files=self.disk)
        self.fold: OwnerThread[Any] = OwnerThread("fold", Inputs(0))
        config = Config(delivery=Delivery(mode="volume", volume_path=str(folder)))
        self.mode = VolumeMode(config, self.volume, self.fold, group.commit, self.telemetry)
        self.number = 0
        self.at = 0
        self.epoch = 0

    async def start(self) -> Process:
        await self.mode.open()
        await self.assign()
        return self

    async def assign(self, start: int = 0) -> None:
        places = await self.mode.settle([P0], self.group.offsets)
        self.at = places[P0].offset if P0 in places else start
        self.epoch += 1
        metadata = await self.mode.place(self.epoch, {P0: self.at})
        if P0 not in places or not places[P0].is_committed:
            self.group.offsets[P0] = Committed(self.at, metadata[P0])
        self.mode.begin(self.epoch)

    def chunk(self, n: int) -> Chunk:
        self.number += 1
        made = chunk(self.mode.run_id, self.number, self.at, self.at + n)
        made.epoch = self.epoch
        made.ranges[0].lineage = self.mode.lineages([P0])[P0]
        return made

    async def deliver(self, n: int) -> bool:
        """Rows that are read, and whether they are folded."""
        outcome = await self.mode.deliver(self.chunk(n))
        if outcome is not None:
            self.at += n
        return outcome is not None

    async def rows(self) -> list[list[int]]:
        """Ranges folded, in order."""
        seen = await self.fold.call(lambda fold: list(fold.seen))
        return [entry[3][0][1:3] for entry in seen if entry[0] == "chunk"]

    async def seen(self, kind: str) -> int:
        seen = await self.fold.call(lambda fold: list(fold.seen))
        return sum(entry[0] == kind for entry in seen)

    async def die(self) -> None:
        """As a crash: nothing is written any more, and the lock is free."""
        await self.fold.call(lambda _: self.volume.close())
        self.fold.close(2.0)


@pytest.fixture
async def group() -> Group:
    return Group()


@pytest.fixture
async def agent(tmp_path: Path, group: Group) -> AsyncIterator[Process]:
    process = await Process(tmp_path, group).start()
    yield process
    await process.die()


async def test_a_chunk_is_folded_once_its_commit_is_accepted(agent: Process, group: Group) -> None:
    assert await agent.deliver(10)
    assert await agent.deliver(5)
    assert await agent.rows() == [[0, 10], [10, 15]]
    offset, metadata = group.offsets[P0]
    head = head_of(offset, metadata)
    assert head is not None and (head.run_id, head.number) == (agent.mode.run_id, 2)


async def test_chunks_of_a_lineage_name_the_one_before(agent: Process) -> None:
    first, second = agent.chunk(3), agent.chunk(3)
    await agent.mode.deliver(first)
    await agent.mode.deliver(second)
    assert first.ranges[0].prev == ""
    assert second.ranges[0].prev == f"{agent.mode.run_id};1"


async def test_a_refused_commit_is_judged_by_the_next_assignment(
    agent: Process, group: Group
) -> None:
    await agent.deliver(10)
    group.errors = [FencedError("illegal generation")]
    assert not await agent.deliver(4)
    assert not agent.mode.may_cut()
    assert await agent.rows() == [[0, 10]]
    await agent.assign()
    assert agent.mode.may_cut() and agent.at == 10
    assert agent.telemetry.value("inferometer.chunks.orphaned") == 1
    assert await agent.deliver(6)
    assert await agent.rows() == [[0, 10], [10, 16]]


async def test_a_commit_whose_answer_was_lost_counts(agent: Process, group: Group) -> None:
    await agent.deliver(10)
    group.errors = [FencedError("the epoch ended before an answer came")]
    group.takes_what_it_refuses = True
    assert not await agent.deliver(4)
    await agent.assign()
    assert agent.at == 14
    assert await agent.rows() == [[0, 10], [10, 14]]


async def test_a_commit_that_was_never_sent_is_forgotten_at_once(
    agent: Process, group: Group
) -> None:
    group.errors = [UnsentError("epoch 1 has ended")]
    assert not await agent.deliver(4)
    assert agent.mode.may_cut()
    assert await agent.deliver(4)
    assert await agent.rows() == [[0, 4]]


async def test_a_commit_that_may_have_been_sent_before_is_judged_by_the_next_assignment(
    agent: Process, group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.delivery.chained.RETRY_S", 0.01)
    group.errors = [SourceError("not authorised any more"), UnsentError("epoch 1 has ended")]
    group.takes_what_it_refuses = True  # the first attempt arrived, its answer did not
    assert not await agent.deliver(4)
    assert not agent.mode.may_cut()
    await agent.assign()
    assert agent.at == 4
    assert await agent.rows() == [[0, 4]]


async def test_a_group_that_may_not_be_used_is_asked_again(
    agent: Process, group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.delivery.chained.RETRY_S", 0.01)
    group.errors = [SourceError("not authorised"), SourceError("not authorised")]
    assert await agent.deliver(4)
    assert group.n == 3
    assert await agent.rows() == [[0, 4]]


async def begin_two(process: Process) -> None:
    """An epoch of P0 and P1, from their beginnings."""
    assert await process.mode.settle([P0, P1], process.group.offsets) == {}
    metadata = await process.mode.place(1, {P0: 0, P1: 0})
    process.group.offsets = {p: Committed(0, metadata[p]) for p in metadata}
    process.epoch = 1
    process.mode.begin(1)


def chunk_of_two(process: Process, n: int) -> Chunk:
    """The first rows of both partitions."""
    made = process.chunk(n)
    (at,) = made.ranges
    made.ranges.append(replace(at, partition=P1, lineage=process.mode.lineages([P1])[P1]))
    return made


async def test_a_chunk_is_folded_when_every_partition_has_accepted_it(
    tmp_path: Path, group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.delivery.chained.RETRY_S", 0.01)
    agent = Process(tmp_path, group)
    await agent.mode.open()
    await begin_two(agent)
    group.refusals = [{P1: "denied"}] * (GONE_ANSWERS + 1)
    work = asyncio.ensure_future(agent.mode.deliver(chunk_of_two(agent, 5)))
    await eventually(lambda: agent.mode.reasons())
    assert "t/1: denied" in agent.mode.reasons()[0]
    assert await agent.rows() == []
    assert await work is not None
    assert group.n == GONE_ANSWERS + 2
    assert agent.mode.reasons() == []
    assert {at.offset for at in group.offsets.values()} == {5}
    assert len(await agent.rows()) == 1
    await agent.die()


@pytest.mark.parametrize("refused", [{P1: "denied"}, {P0: "denied", P1: "denied"}])
async def test_what_was_refused_until_the_end_is_neither_lost_nor_counted_again(
    tmp_path: Path, group: Group, refused: dict[Partition, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.delivery.chained.RETRY_S", 0.01)
    agent = Process(tmp_path, group)
    await agent.mode.open()
    await begin_two(agent)
    group.refusals, group.errors = [refused] * 2, [UnsentError("epoch 1 has ended")]
    assert await agent.mode.deliver(chunk_of_two(agent, 5)) is None
    assert not agent.mode.may_cut()
    await agent.die()
    again = Process(tmp_path, group)
    await again.mode.open()
    places = await again.mode.settle([P0, P1], group.offsets)
    if P0 in refused:  # it counted nowhere: all is read again
        assert places == {P0: Place(0, True), P1: Place(0, True)}
        assert await again.rows() == []
    else:  # it counts whole: the refused partition goes on behind it, at the journal's word
        assert places == {P0: Place(5, True), P1: Place(5, False)}
        assert len(await again.rows()) == 1
        assert again.telemetry.value("inferometer.state.fallbacks", reason="rolled_back") == 1
    assert await again.seen("renew") == 0
    await again.die()


@pytest.mark.parametrize("is_known", [False, True])
async def test_a_crash_behind_the_commit_folds_the_chunk_at_the_start(
    tmp_path: Path, group: Group, is_known: bool
) -> None:
    first = await Process(tmp_path, group).start()
    await first.deliver(10)
    group.errors = [FencedError("killed here")]
    group.takes_what_it_refuses = is_known
    await first.deliver(4)
    await first.die()
    second = await Process(tmp_path, group).start()
    assert second.at == (14 if is_known else 10)
    assert await second.rows() == [[0, 10], [10, 14]][: 1 + is_known]
    await second.deliver(20 - second.at)
    assert sum(b - a for a, b in await second.rows()) == 20
    assert await second.seen("renew") == 0
    await second.die()


async def test_a_full_disk_holds_up_commits_exports_and_scrapes_until_there_is_room(
    agent: Process, group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.delivery.chained.RETRY_S", 0.01)
    await agent.deliver(10)
    agent.disk.full = True
    n = group.n
    work = asyncio.ensure_future(agent.deliver(5))
    await eventually(lambda: agent.mode.reasons())
    assert "No space left on device" in agent.mode.reasons()[0]
    assert await agent.mode.export(10**18, zeros=True) is None
    assert await agent.mode.scrape(10**18) is None
    assert group.n == n and not work.done()
    agent.disk.full = False
    assert await work
    assert agent.mode.reasons() == []
    assert await agent.rows() == [[0, 10], [10, 15]]
    assert (await agent.mode.export(10**18 + 1, zeros=True)) is not None
    assert (await agent.mode.scrape(10**18 + 2)) is not None
    assert agent.telemetry.value("inferometer.journal.errors") >= 2


async def test_snapshots_that_fail_are_said_until_one_succeeds_though_the_journal_is_written(
    agent: Process,
) -> None:
    assert await agent.deliver(10)
    agent.disk.takes_no_names = True
    await agent.mode.finish()
    assert await agent.deliver(5)
    (reason,) = agent.mode.reasons()
    assert "Disk quota exceeded" in reason
    assert "Until then the journal grows" in reason
    assert agent.mode.describe()["volume"]["trouble"] == reason
    agent.disk.takes_no_names = False
    await agent.mode.finish()
    assert agent.mode.reasons() == []
    assert agent.mode.describe()["volume"]["trouble"] is None


async def test_partitions_that_are_not_assigned_behind_a_crash_are_not_waited_for(
    tmp_path: Path, group: Group
) -> None:
    first = await Process(tmp_path, group).start()
    assert await first.deliver(10)
    await first.assign()
    assert await first.seen("forget") == 0
    await first.die()
    again = Process(tmp_path, group)
    await again.mode.open()
    await again.mode.settle([Partition("t", 1)], group.offsets)
    seen = await again.fold.call(lambda fold: list(fold.seen))
    assert [entry for entry in seen if entry[0] == "forget"] == [["forget", [["t", 0]]]]
    places = await again.mode.settle([P0], group.offsets)  # it came back: on from where it stood
    assert places[P0].offset == 10
    await again.die()


async def test_a_head_that_is_kept_no_more_is_gone_behind_a_restart_too(
    tmp_path: Path, group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.delivery.assign.MAX_GONE", 0)
    first = await Process(tmp_path, group).start()
    assert await first.deliver(10)
    await first.mode.settle([P1], group.offsets)
    assert P0 in first.volume.state.heads, "the group still has its offset"
    await first.mode.settle([P1], {})
    assert first.volume.state.heads == {}
    await first.die()
    again = Process(tmp_path, group)
    await again.mode.open()
    assert again.volume.state.heads == {}
    await again.die()


async def test_an_epoch_that_ends_while_the_disk_is_full_forgets_its_chunk(
    agent: Process, group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.delivery.chained.RETRY_S", 0.01)
    agent.disk.full = True
    work = asyncio.ensure_future(agent.deliver(5))
    await eventually(lambda: agent.mode.reasons())
    agent.mode.begin(0)
    assert not await work
    agent.disk.full = False
    await agent.assign()
    assert await agent.deliver(5)
    assert await agent.rows() == [[0, 5]]


async def test_nothing_of_the_fold_leaves_before_the_groups_offsets_were_compared_with_the_journal(
    tmp_path: Path, group: Group
) -> None:
    first = await Process(tmp_path, group).start()
    assert await first.deliver(10)
    await first.die()
    again = Process(tmp_path, group)
    await again.mode.open()
    assert await again.rows() == [[0, 10]]

    async def leaves() -> bool:
        before = await again.seen("export"), await again.seen("accepted")
        snapshot = await again.mode.export(10**18, zeros=True)
        assert snapshot is not None  # the agent's own series go into it
        again.mode.accepted(snapshot)
        behind = await again.seen("export"), await again.seen("accepted")
        scraped = await again.mode.scrape(10**18) is not None
        assert scraped == (behind == (before[0] + 1, before[1] + 1))
        assert scraped or behind == before
        return scraped

    assert not await leaves()
    assert again.mode.reasons() == [
        "inference.* is withheld until the volume has been compared with the group's offsets"
    ]
    again.disk.full = True
    again.volume.take(Tick(1))
    with pytest.raises(StateError):  # what comparing them came to is not durable
        await again.mode.settle([P0], group.offsets)
    assert not await leaves()
    again.disk.full = False
    await again.assign()
    assert await leaves()
    assert again.mode.reasons() == []
    await again.die()


async def test_empty_cuts_are_not_committed_each_time(agent: Process, group: Group) -> None:
    await agent.deliver(3)
    n = group.n
    for _ in range(5):
        await agent.mode.deliver(agent.chunk(0))
    assert group.n == n
    assert await agent.seen("tick") == 6
    quiet = agent.chunk(0)
    quiet.ranges[0].caught_up = False  # that is news
    await agent.mode.deliver(quiet)
    assert group.n == n + 1


async def test_a_lost_volume_goes_on_at_the_groups_offsets_and_says_so(
    tmp_path: Path, group: Group, caplog: pytest.LogCaptureFixture
) -> None:
    first = await Process(tmp_path / "a", group).start()
    await first.deliver(10)
    await first.die()
    second = await Process(tmp_path / "b", group).start()
    assert second.at == 10
    assert "what was counted before it is not in this volume" in caplog.text
    await second.deliver(5)
    assert await second.rows() == [[10, 15]]
    await second.die()


async def test_a_volume_that_was_set_back_renews_every_series(tmp_path: Path, group: Group) -> None:
    first = await Process(tmp_path / "a", group).start()
    await first.deliver(10)
    await first.die()
    files = {p.name: p.read_bytes() for p in (tmp_path / "a").iterdir()}
    second = await Process(tmp_path / "a", group).start()
    await second.deliver(7)
    await second.die()
    for path in (tmp_path / "a").iterdir():
        path.unlink()
    for name, data in files.items():
        (tmp_path / "a" / name).write_bytes(data)
    third = await Process(tmp_path / "a", group).start()
    assert third.at == 17
    assert await third.seen("renew") == 1
    assert third.telemetry.value("inferometer.offset.lost") == 7
    assert third.telemetry.value("inferometer.chunks.missing") == 1
    await third.deliver(3)
    await third.die()
    fourth = await Process(tmp_path / "a", group).start()
    assert await fourth.seen("renew") == 1  # said once
    assert await fourth.rows() == [[0, 10], [17, 20]]
    await fourth.die()


async def test_offsets_that_expired_are_replaced_by_the_journals(
    tmp_path: Path, group: Group
) -> None:
    first = await Process(tmp_path, group).start()
    await first.deliver(10)
    await first.die()
    group.offsets.clear()
    second = await Process(tmp_path, group).start()
    assert second.at == 10 and group.offsets[P0].offset == 10
    assert await second.deliver(5)
    assert await second.rows() == [[0, 10], [10, 15]]
    await second.die()


async def test_an_offset_set_by_a_tool_begins_a_lineage_and_keeps_what_was_counted(
    tmp_path: Path, group: Group
) -> None:
    first = await Process(tmp_path, group).start()
    await first.deliver(10)
    lineage = first.mode.lineages([P0])[P0]
    await first.die()
    group.offsets[P0] = Committed(4, "")
    second = await Process(tmp_path, group).start()
    assert second.at == 4
    assert second.mode.lineages([P0])[P0] != lineage
    assert await second.deliver(6)
    assert await second.rows() == [[0, 10], [4, 10]]
    assert second.telemetry.value("inferometer.state.fallbacks", reason="moved") == 1
    await second.die()
    third = await Process(tmp_path, group).start()
    assert third.at == 10
    assert third.telemetry.value("inferometer.state.fallbacks", reason="moved") == 0
    await third.die()


def journal_of(folder: Path) -> Path:
    (journal,) = folder.glob("journal-*")
    return journal


def cut_off(folder: Path, length: int) -> None:
    journal = journal_of(folder)
    journal.write_bytes(journal.read_bytes()[:length])


@pytest.mark.parametrize(
    ("behind", "folded", "n_renewed"),
    [
        ("the start", [], 1),
        ("the assignment", [], 1),
        ("the first chunk", [[0, 10]], 1),
        ("the second chunk, unanswered", [[0, 10], [10, 17]], 0),
        ("the second chunk", [[0, 10], [10, 17]], 0),
    ],
)
async def test_a_journal_that_was_cut_off_within_what_was_synced_renews_every_series(
    tmp_path: Path, behind: str, folded: list[list[int]], n_renewed: int
) -> None:
    """It passes for torn. The group knows of more, and is asked before anything leaves."""
    lengths: dict[str, int] = {}

    def note(what: str) -> None:
        lengths[what] = journal_of(tmp_path).stat().st_size

    class Watching(Group):
        async def commit(self, *arguments: Any) -> dict[Partition, str]:
            note("the second chunk, unanswered")
            return await super().commit(*arguments)

    first = Process(tmp_path, Watching())
    await first.mode.open()
    note("the start")
    await first.assign()
    note("the assignment")
    assert await first.deliver(10)
    note("the first chunk")
    assert await first.deliver(7)
    note("the second chunk")
    assert await first.mode.export(10**18, zeros=True) is not None
    await first.die()
    cut_off(tmp_path, lengths[behind] + 10)
    second = await Process(tmp_path, first.group).start()
    assert second.at == 17
    assert await second.rows() == folded
    assert await second.seen("renew") == n_renewed
    await second.die()


async def test_snapshots_are_taken_on_the_timer_and_at_the_end(
    tmp_path: Path, group: Group
) -> None:
    process = await Process(tmp_path, group).start()
    process.mode._kept._snapshot_at = 0.0
    await process.deliver(3)
    assert n_snapshots(tmp_path) == 1
    await process.deliver(3)
    assert n_snapshots(tmp_path) == 1
    await process.mode.finish()
    assert n_snapshots(tmp_path) == 2
    process.mode.observe()
    assert process.telemetry.value("inferometer.snapshot.bytes") > 0
    await process.die()


def n_snapshots(folder: Path) -> int:
    return len(list(folder.glob("snapshot-*")))


async def test_a_snapshot_is_taken_before_a_restart_would_take_long(
    tmp_path: Path, group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.state.volume.READ_BYTES_PER_S", 1000.0)
    process = await Process(tmp_path, group).start()
    for _ in range(20):
        await process.deliver(1)
        assert process.volume.replay_s < 0.8 + 0.5
    assert n_snapshots(tmp_path) == 2
    await process.die()


async def test_what_a_restart_would_take_counts_the_cells_of_chunks(
    agent: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small cells take as long to read as large ones: their bytes alone do not say it."""
    monkeypatch.setattr("agent.state.volume.READ_CELL_S", 10.0)
    monkeypatch.setattr("agent.delivery.kept.REPLAY_S", 1e9)
    made: Any = agent.chunk(5)
    monkeypatch.setattr("agent.delivery.volume.to_bytes", lambda _: b"its bytes")
    made.numeric, made.strings = range(3), range(2)
    assert await agent.mode.deliver(made) is not None
    assert 50.0 <= agent.volume.replay_s < 51.0
    await agent.mode.finish()
    assert agent.volume.replay_s == 0.0

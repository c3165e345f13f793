"""Exports and commits as tasks of their own: who waits for whom, and what may be committed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from agent.delivery.commit import Commit
from agent.delivery.export import Export
from agent.delivery.outcome import Folded
from agent.errors import FencedError, SourceError
from agent.types import Partition
from tests.support.wait import eventually

P0, P1 = Partition("t", 0), Partition("t", 1)


@asynccontextmanager
async def running(*parts: Export | Commit) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(part.run()) for part in parts]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()


class Group:
    """A coordinator that takes down what it is told; `hold` makes it not answer."""

    def __init__(self) -> None:
        self.commits: list[tuple[int, dict[Partition, int]]] = []
        self.hold = asyncio.Event()
        self.hold.set()
        self.error: Exception | None = None
        self.refused: dict[Partition, str] = {}

    async def commit(self, epoch: int, offsets: dict[Partition, int]) -> dict[Partition, str]:
        await self.hold.wait()
        if self.error is not None:
            raise self.error
        self.commits.append((epoch, dict(offsets)))
        return self.refused


def exporter(
    folded: Folded, commit: Commit, send: Callable[[bool], object] | None = None
) -> Export:
    async def accept(urgent: bool) -> bool:
        answer = send(urgent) if send is not None else True
        return bool(await answer if asyncio.iscoroutine(answer) else answer)

    return Export(0.02, folded, accept, lambda: None, commit.accepted)


async def test_a_commit_without_an_answer_does_not_stop_exports() -> None:
    group, folded, sent = Group(), Folded({P0: (1, 10)}), []
    commit = Commit(group.commit)
    commit.begin(1)
    group.hold.clear()
    async with running(
        exporter(folded, commit, lambda urgent: sent.append(urgent) or True), commit
    ):
        await eventually(lambda: len(sent) >= 5)
        assert group.commits == []
        folded.positions[P0] = (1, 30)
        n = len(sent)
        await eventually(lambda: len(sent) >= n + 2)
        group.hold.set()
        await eventually(lambda: group.commits[-1:] == [(1, {P0: 30})])


async def test_only_what_an_accepted_export_holds_is_committed() -> None:
    group, folded = Group(), Folded({P0: (1, 10)})
    commit = Commit(group.commit)
    commit.begin(1)
    answers = [False, True]

    def send(urgent: bool) -> bool:
        # More is folded while the export is on its way: not part of what it holds.
        folded.positions[P0] = (1, folded.positions[P0][1] + 5)
        return answers.pop(0) if answers else True

    export = exporter(folded, commit, send)
    async with running(export, commit):
        assert not await export.export_now()
        await commit.commit_now()
        assert group.commits == []
        assert await export.export_now()
        await commit.commit_now()
        assert group.commits[0] == (1, {P0: 15})


async def test_positions_of_another_epoch_are_never_committed() -> None:
    group, folded = Group(), Folded({P0: (1, 10), P1: (2, 7)})
    commit = Commit(group.commit)
    commit.begin(2)
    export = exporter(folded, commit)
    async with running(export, commit):
        await export.export_now()
        await commit.commit_now()
        assert group.commits == [(2, {P1: 7})]
        commit.begin(3)
        await export.export_now()
        await commit.commit_now()
    assert len(group.commits) == 1


async def test_a_refused_commit_is_not_repeated_and_a_failed_one_is() -> None:
    group, folded = Group(), Folded({P0: (1, 10), P1: (1, 5)})
    commit = Commit(group.commit)
    commit.begin(1)
    async with running(commit):
        for error in (FencedError("gone"), SourceError("away")):
            group.error = error
            commit.accepted(dict(folded.positions))
            await commit.commit_now()
            assert group.commits == []
        group.error = None
        group.refused = {P1: "unknown topic"}
        commit.accepted(dict(folded.positions))
        await commit.commit_now()
        group.refused = {}
        commit.accepted(dict(folded.positions))
        await commit.commit_now()
    # P0 stands; P1 was refused alone, and is asked for again.
    assert group.commits == [(1, {P0: 10, P1: 5}), (1, {P1: 5})]


async def test_an_urgent_export_makes_the_one_in_flight_give_up() -> None:
    hurried = asyncio.Event()
    folded, commit = Folded(), Commit(Group().commit)
    started = asyncio.Event()

    async def send(urgent: bool) -> bool:
        started.set()
        if urgent:
            return True
        await hurried.wait()  # a receiver that does not answer
        return False

    export = Export(0.01, folded, send, hurried.set, commit.accepted)
    async with running(export, commit):
        await started.wait()
        async with asyncio.timeout(5):
            assert await export.export_now()


async def test_without_a_receiver_the_fold_stands_for_the_acceptance() -> None:
    group, folded = Group(), Folded({P0: (1, 3)})
    commit = Commit(group.commit)
    commit.begin(1)
    export = Export(0.01, folded, None, lambda: None, commit.accepted)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(5), running(export, commit):
            await eventually(lambda: group.commits == [(1, {P0: 3})])

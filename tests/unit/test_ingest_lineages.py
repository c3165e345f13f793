"""Where a member with a chain begins; one that must have the whole topic: what it says, when it gives up."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from agent.config import Kafka
from agent.errors import SourceError
from agent.ingest import lineages
from agent.ingest.announcer import Announcer
from agent.ingest.fence import Committed, Fence
from agent.ingest.lineages import LineageStarts, Place, Wholeness
from agent.ingest.starts import End, Start, Why
from agent.types import Partition
from tests.support.wait import eventually

P0, P1 = Partition("t", 0), Partition("t", 1)
GENESIS = Committed(500, "genesis")
ENDS = {End.EARLIEST: 0, End.LATEST: 777}


class Chain:
    """Says these places, and journals whatever it is told."""

    def __init__(self, places: Mapping[Partition, Place]) -> None:
        self.places = places

    async def settle(
        self, wanted: Collection[Partition], committed: Mapping[Partition, Committed]
    ) -> Mapping[Partition, Place]:
        return self.places

    async def place(self, epoch: int, offsets: Mapping[Partition, int]) -> Mapping[Partition, str]:
        return dict.fromkeys(offsets, "m")

    def is_genesis(self, metadata: str) -> bool:
        return metadata == GENESIS.metadata


class Starts(LineageStarts):
    """With a group that has these offsets, and logs with one pair of ends."""

    def __init__(
        self, offsets: dict[Partition, Committed], places: Mapping[Partition, Place]
    ) -> None:
        super().__init__(
            Kafka(topics=["t"], auto_offset_reset="latest"),
            None,
            Fence("g", 1, "m"),
            asyncio.Event(),
            announcer=Announcer(1.0),
            retry_s=0.1,
            chain=Chain(places),
            epoch=1,
        )
        self.offsets = offsets

    async def _committed(
        self, partitions: Collection[Partition] | None
    ) -> dict[Partition, Committed]:
        return self.offsets

    def known_partitions(self) -> set[Partition]:
        return {P0, P1}

    async def _ends(self, partitions: Collection[Partition], end: End) -> dict[Partition, int]:
        return dict.fromkeys(partitions, ENDS[end])


@pytest.mark.parametrize(
    ("offsets", "places", "why", "end"),
    [
        ({}, {}, Why.NEW_GROUP, End.LATEST),
        ({P0: GENESIS}, {P0: Place(500, True)}, Why.NEW_GROUP, End.LATEST),
        (
            {P0: Committed(510, "a chunk")},
            {P0: Place(510, True)},
            Why.NEW_PARTITION,
            End.EARLIEST,
        ),
        # The group's offsets are gone: the journal alone knows that it is not new.
        ({}, {P0: Place(510, False)}, Why.NEW_PARTITION, End.EARLIEST),
    ],
)
async def test_a_new_partition_of_a_group_that_is_not_new_is_read_from_its_beginning(
    offsets: dict[Partition, Committed], places: dict[Partition, Place], why: Why, end: End
) -> None:
    found = await Starts(offsets, places).find({P0, P1}, {})
    assert found[P1] == Start(why, ENDS[end], end, "m")


class Link:
    """A coordinator that knows the members of the group."""

    def __init__(self, *members: str) -> None:
        self.members = members

    async def send(self, request: Any) -> Any:
        described = [("id", client, "/10.0.0.1", b"", b"") for client in self.members]
        return SimpleNamespace(groups=[(0, "g", "Stable", "consumer", "range", described)])


async def wait(
    wholeness: Wholeness, link: Any, ended: asyncio.Event, rejoins: list[int] | None = None
) -> None:
    await wholeness.wait(
        2,
        link,
        ended,
        poll_s=0.01,
        rejoin=lambda: (rejoins if rejoins is not None else []).append(1),
    )


async def test_it_says_who_else_is_there_and_gives_up_behind_the_limit() -> None:
    wholeness, rejoins = Wholeness("g", 0.05), []
    with pytest.raises(SourceError, match=r"not alone within delivery.sole_member_timeout_s"):
        await wait(wholeness, Link("me", "other"), asyncio.Event(), rejoins)
    assert "me at 10.0.0.1, other at 10.0.0.1" in wholeness.reason
    assert rejoins == []  # nothing that this member asks for would change it


async def test_alone_it_asks_for_all_partitions() -> None:
    wholeness, rejoins, ended = Wholeness("g", 10.0), [], asyncio.Event()
    work = asyncio.ensure_future(wait(wholeness, Link("me"), ended, rejoins))
    await eventually(lambda: rejoins == [1])
    ended.set()
    await work
    assert wholeness.reason
    wholeness.is_whole()
    assert wholeness.reason == ""


async def test_the_limit_counts_over_epochs_until_it_is_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [100.0]
    monkeypatch.setattr(lineages, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    wholeness = Wholeness("g", 60.0)
    for clock[0] in (100.0, 130.0, 159.0):
        ended = asyncio.Event()
        work = asyncio.ensure_future(wait(wholeness, Link("me", "other"), ended))
        await eventually(lambda: wholeness.reason)
        ended.set()
        await work
    clock[0] = 161.0
    with pytest.raises(SourceError):
        await wait(wholeness, Link("me", "other"), asyncio.Event())
    wholeness.is_whole()
    ended = asyncio.Event()
    ended.set()
    await wait(wholeness, Link("me", "other"), ended)

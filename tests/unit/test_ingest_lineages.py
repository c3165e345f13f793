"""A member that must have the whole topic: what it says, when it asks again, when it gives up."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from agent.errors import SourceError
from agent.ingest import lineages
from agent.ingest.lineages import Wholeness
from tests.support.wait import eventually


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

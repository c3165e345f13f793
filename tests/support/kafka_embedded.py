"""The embedded broker for tests, and the one patch that groups of two or more members need."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from aiokafka.consumer.group_coordinator import CoordinatorGroupRebalance

__all__ = ["leaders_sync_late"]


@contextmanager
def leaders_sync_late(delay_s: float = 0.25) -> Iterator[None]:
    """Delay every group leader's SyncGroup.

    librdkafka's mock coordinator answers a follower's SyncGroup with an error when the leader's
    assignment came first: it has left the state in which it takes SyncGroup. A real coordinator
    answers with the assignment. So let the followers ask first. Only the mock needs this.
    """
    original = CoordinatorGroupRebalance._on_join_leader

    async def late(self: CoordinatorGroupRebalance, response: Any) -> Any:
        await asyncio.sleep(delay_s)
        return await original(self, response)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CoordinatorGroupRebalance, "_on_join_leader", late)
        yield

"""The embedded broker with faults, and the one patch that groups of two or more members need."""

import asyncio
import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import pytest
from aiokafka.consumer.group_coordinator import CoordinatorGroupRebalance

from agent.demo.broker import EmbeddedBroker, Signatures, declare

# Kafka protocol: api keys that faults are injected into.
API_OFFSET_COMMIT: Final = 8
API_OFFSET_FETCH: Final = 9
API_FIND_COORDINATOR: Final = 10

_HANDLE = ctypes.c_void_p
_TEXT = ctypes.c_char_p
_I16, _I32, _I64, _INT = ctypes.c_int16, ctypes.c_int32, ctypes.c_int64, ctypes.c_int

_SIGNATURES: Final[Signatures] = {
    "mock_partition_set_leader": (_INT, [_HANDLE, _TEXT, _I32, _I32]),
    "mock_partition_delete_records": (_INT, [_HANDLE, _TEXT, _I32, _I64]),
    "mock_push_request_errors_array": (
        None,
        [_HANDLE, _I16, ctypes.c_size_t, ctypes.POINTER(_INT)],
    ),
    "mock_broker_set_down": (_INT, [_HANDLE, _I32]),
    "mock_broker_set_up": (_INT, [_HANDLE, _I32]),
}


class FaultyBroker(EmbeddedBroker):
    """The embedded broker, and what can go wrong with a real one."""

    def __init__(self, n_brokers: int = 1, *, rebalance_delay_ms: int = 100) -> None:
        super().__init__(n_brokers, rebalance_delay_ms=rebalance_delay_ms)
        declare(self._lib, _SIGNATURES)

    def move_leader(self, topic: str, partition: int, broker: int) -> None:
        """Make `broker` (1..n) the leader of a partition; -1 leaves it without one."""
        self._call("mock_partition_set_leader", topic.encode(), partition, broker)

    def delete_records(self, topic: str, partition: int, before_offset: int) -> None:
        """Move the partition's log start offset, as retention does."""
        self._call("mock_partition_delete_records", topic.encode(), partition, before_offset)

    def broker_down(self, broker: int) -> None:
        """Close a broker's port and its connections."""
        self._call("mock_broker_set_down", broker)

    def broker_up(self, broker: int) -> None:
        self._call("mock_broker_set_up", broker)

    def fail_next(self, api: int, codes: Sequence[int]) -> None:
        """Answer the next requests of an api with these Kafka error codes, one each; 0 is success."""
        errors = (_INT * len(codes))(*codes)
        self._call("mock_push_request_errors_array", api, len(codes), errors)


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

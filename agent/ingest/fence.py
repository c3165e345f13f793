"""Commits and reads of group offsets under a captured fence.

aiokafka's own commit retries under the generation *of the retry*, and its offset fetch ignores the
top-level error, so that NOT_COORDINATOR reads as "nothing committed". Here both requests are made
from its protocol classes and every error code is looked at, on both levels.

Invariants
1. A commit carries the fence under which its rows were read, is sent again byte for byte, and is
   never sent under another fence.
2. "Nothing committed" is only ever read from an answer without any error that names the partition.
3. Nothing is sent after `ended` is set, and what is in flight then counts as not accepted.

How an answer to OffsetCommit is taken (Apache Kafka 4.x, `ClassicGroup.validateOffsetCommit`):
  accepted   0. Also while the group prepares a rebalance: the generation is still ours.
  fenced     ILLEGAL_GENERATION, UNKNOWN_MEMBER_ID, FENCED_INSTANCE_ID, STALE_MEMBER_EPOCH: the group
             has moved on. Final, for all partitions.
  again      REBALANCE_IN_PROGRESS: the broker checks member and generation first, so this answer
             says that both are right, but the members have not been given their partitions yet. It
             is not a refusal of the rows; it turns into "accepted" or "fenced" by itself. The same
             for a coordinator that moved, loads or did not answer (sent again after a look-up).
  alone      all other codes (UNKNOWN_TOPIC_OR_PARTITION of a deleted topic, metadata too large, topic
             not authorised): this partition is refused, the others stand.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import aiokafka.errors as kafka_errors
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.commit import (
    OffsetCommitRequest_v2,
    OffsetCommitRequest_v3,
    OffsetCommitResponse_v3,
    OffsetFetchRequest,
)
from aiokafka.protocol.types import Array, Int32, Int64, Schema, String

from agent.errors import FencedError, SourceError
from agent.types import Partition

log = logging.getLogger(__name__)

NOTHING_COMMITTED = -1
RETRY_BACKOFF_S = 0.1
RETRY_BACKOFF_MAX_S = 1.0
#: A retry that goes on is announced this often.
ANNOUNCE_EVERY_S = 10.0

# Error codes of the Kafka protocol (org.apache.kafka.common.protocol.Errors).
_UNKNOWN_TOPIC_OR_PARTITION = 3
_REQUEST_TIMED_OUT = 7
_COORDINATOR_LOAD_IN_PROGRESS = 14
_COORDINATOR_NOT_AVAILABLE = 15
_NOT_COORDINATOR = 16
_ILLEGAL_GENERATION = 22
_INVALID_GROUP_ID = 24
_UNKNOWN_MEMBER_ID = 25
_REBALANCE_IN_PROGRESS = 27
_TOPIC_AUTHORIZATION_FAILED = 29
_GROUP_AUTHORIZATION_FAILED = 30
_FENCED_INSTANCE_ID = 82
_STALE_MEMBER_EPOCH = 113

_FENCED = {
    _ILLEGAL_GENERATION: "illegal generation",
    _UNKNOWN_MEMBER_ID: "unknown member",
    _FENCED_INSTANCE_ID: "fenced instance",
    _STALE_MEMBER_EPOCH: "stale member epoch",
}
_LOOK_UP = {_COORDINATOR_NOT_AVAILABLE, _NOT_COORDINATOR}
_AGAIN = {_COORDINATOR_LOAD_IN_PROGRESS, _REQUEST_TIMED_OUT, _REBALANCE_IN_PROGRESS, *_LOOK_UP}
_UNUSABLE_GROUP = {
    _GROUP_AUTHORIZATION_FAILED: "is not authorised; grant Read on the group to this user",
    _INVALID_GROUP_ID: "is not a valid group id; choose another",
}


@dataclass(frozen=True, slots=True)
class Fence:
    """Who we were when an assignment began. A static replacement keeps the generation: hence the pair."""

    group_id: str
    generation: int
    member_id: str
    group_instance_id: str | None = None


class Committed(NamedTuple):
    """A committed offset (the next row to read) and its metadata; "" when there is none."""

    offset: int
    metadata: str


class InstanceFencedError(FencedError):
    """Another process joined with our `group.instance.id`: this one must not come back."""


class GroupLink(Protocol):
    """A way to the group's coordinator."""

    async def send(self, request: Any) -> Any:
        """Find the coordinator if need be, send, return the answer.

        Raises aiokafka's KafkaError when there is no answer, or no coordinator.
        """

    def lost(self) -> None:
        """The coordinator is not the one that `send` used: look it up before the next request."""


class CoordinatorLink:
    """`GroupLink` through an aiokafka group coordinator, on its own connection.

    It shares the look-up (and its result) with heartbeats. Joins use the same connection, and a
    broker answers one request of a connection at a time: no commit is sent while a join waits,
    because joins wait for the revoked callback.
    """

    def __init__(self, coordinator: Any) -> None:
        self._coordinator = coordinator

    async def send(self, request: Any) -> Any:
        await self._coordinator.ensure_coordinator_known()
        return await self._coordinator._send_req(request)

    def lost(self) -> None:
        self._coordinator.coordinator_dead()


async def commit_offsets(
    link: GroupLink,
    fence: Fence,
    offsets: Mapping[Partition, Committed],
    *,
    ended: asyncio.Event,
    backoff_s: float = RETRY_BACKOFF_S,
    group_option: str = "kafka.group_id",
) -> dict[Partition, str]:
    """Commit `offsets` in one request under `fence`; the same bytes again until there is an answer.

    Returns the partitions that were refused alone, with the reason; the others are committed.
    Raises FencedError when the group has moved on or `ended` is set first; SourceError when the
    group may not be used at all; `group_option` then names it.
    """
    if not offsets:
        return {}
    request = FencedCommitRequest(fence, offsets)

    def judge(response: Any) -> dict[Partition, str] | None:
        codes = {
            Partition(topic, partition): code
            for topic, partitions in response.topics
            for partition, code in partitions
        }
        _check_group(group_option, fence.group_id, codes.values())
        for partition, code in codes.items():
            if code in _FENCED:
                _raise_fenced(fence, partition, code)
        if any(code in _LOOK_UP for code in codes.values()):
            link.lost()
        if any(code in _AGAIN for code in codes.values()) or offsets.keys() - codes.keys():
            return None
        return {partition: error_name(code) for partition, code in codes.items() if code}

    what = f"commit of group {fence.group_id!r}, generation {fence.generation}"
    return await _ask(link, request, judge, what=what, ended=ended, backoff_s=backoff_s)


async def fetch_offsets(
    link: GroupLink,
    group_id: str,
    partitions: Iterable[Partition] | None,
    *,
    ended: asyncio.Event,
    backoff_s: float = RETRY_BACKOFF_S,
    group_option: str = "kafka.group_id",
) -> dict[Partition, Committed]:
    """The group's committed offsets of `partitions`; of all it has (None). Absent: nothing committed.

    Asks until there is an answer without any error. Raises FencedError when `ended` is set first;
    SourceError when the group (`group_option` then names it) or a topic may not be used.
    """
    wanted = None if partitions is None else set(partitions)
    if wanted is not None and not wanted:
        return {}
    request = OffsetFetchRequest(group_id, None if wanted is None else _by_topic(wanted))

    def judge(response: Any) -> dict[Partition, Committed] | None:
        # Version 1 has no top-level code and repeats it in each partition.
        top_level = response.error_code if response.API_VERSION >= 2 else 0
        answers = {
            Partition(topic, partition): (offset, metadata or "", code)
            for topic, entries in response.topics or ()
            for partition, offset, metadata, code in entries
        }
        codes = {top_level, *(code for _, _, code in answers.values())}
        _check_group(group_option, group_id, codes)
        for partition, (_, _, code) in answers.items():
            if code == _TOPIC_AUTHORIZATION_FAILED:
                raise SourceError(
                    f"topic {partition.topic!r} is not authorised; grant Read on it to this user"
                )
        if codes & _LOOK_UP:
            link.lost()
        # An unknown topic may be metadata that have not reached the coordinator: ask again.
        if codes != {0} or (wanted is not None and wanted - answers.keys()):
            return None
        return {
            partition: Committed(offset, metadata)
            for partition, (offset, metadata, _) in answers.items()
            if offset != NOTHING_COMMITTED
        }

    what = f"offset fetch of group {group_id!r}"
    return await _ask(link, request, judge, what=what, ended=ended, backoff_s=backoff_s)


def error_name(code: int) -> str:
    """A Kafka error code in words, for messages and reasons."""
    if code in _FENCED:
        return _FENCED[code]
    error = kafka_errors.for_code(code)
    name = getattr(error, "message", "") or error.__name__
    return name if name != "UNKNOWN" or code == -1 else f"error {code}"


#: Why a partition is refused alone that does not exist for the coordinator: deleted, or made just now.
UNKNOWN_PARTITION = error_name(_UNKNOWN_TOPIC_OR_PARTITION)


async def _ask(
    link: GroupLink,
    request: Any,
    judge: Callable[[Any], dict[Partition, Any] | None],
    *,
    what: str,
    ended: asyncio.Event,
    backoff_s: float,
) -> dict[Partition, Any]:
    """Send until `judge` has a verdict. None from it means: send the same again."""
    announced = time.monotonic()
    pause_s = backoff_s
    while True:
        trouble = "the coordinator is loading, moving or rebalancing"
        try:
            response = await until_ended(ended, link.send(request), what)
        except kafka_errors.GroupAuthorizationFailedError:
            raise SourceError(_group_message(what, _GROUP_AUTHORIZATION_FAILED)) from None
        except kafka_errors.KafkaError as error:
            trouble = str(error)
            link.lost()
        else:
            verdict = judge(response)
            if verdict is not None:
                return verdict
        if time.monotonic() - announced >= ANNOUNCE_EVERY_S:
            announced = time.monotonic()
            log.warning("%s has no answer yet (%s); it is sent again unchanged", what, trouble)
        await until_ended(ended, asyncio.sleep(pause_s), what)
        pause_s = min(pause_s * 2, RETRY_BACKOFF_MAX_S)


async def until_ended(ended: asyncio.Event, awaitable: Awaitable[Any], what: str) -> Any:
    """The result of `awaitable`, or FencedError as soon as `ended` is set."""
    work = asyncio.ensure_future(awaitable)
    end = asyncio.ensure_future(ended.wait())
    try:
        if not ended.is_set():
            await asyncio.wait({work, end}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            return work.result()
        raise FencedError(f"{what}: the epoch ended before an answer came")
    finally:
        for task in (work, end):
            if not task.done():
                task.cancel()
        await asyncio.gather(work, end, return_exceptions=True)


def _check_group(option: str, group_id: str, codes: Iterable[int]) -> None:
    for code in codes:
        if code in _UNUSABLE_GROUP:
            raise SourceError(_group_message(f"{option} {group_id!r}", code))


def _group_message(what: str, code: int) -> str:
    return f"{what} {_UNUSABLE_GROUP[code]}"


def _raise_fenced(fence: Fence, partition: Partition, code: int) -> None:
    message = (
        f"commit of {partition.topic}/{partition.partition} refused ({_FENCED[code]}): group "
        f"{fence.group_id!r} has moved on from generation {fence.generation}; its rows are forgotten"
    )
    if code == _FENCED_INSTANCE_ID:
        raise InstanceFencedError(message)
    raise FencedError(message)


def _by_topic(partitions: Iterable[Partition]) -> list[tuple[str, list[int]]]:
    topics: defaultdict[str, list[int]] = defaultdict(list)
    for topic, partition in sorted(partitions):
        topics[topic].append(partition)
    return list(topics.items())


# ---------------------------------------------------------------- wire format
# aiokafka stops at OffsetCommit v3, which has no group.instance.id. v7 is the last version before the
# flexible encoding (kafka/clients/src/main/resources/common/message/OffsetCommitRequest.json).


class _OffsetCommitResponse_v7(Response):  # type: ignore[misc]
    API_KEY = 8
    API_VERSION = 7
    SCHEMA = OffsetCommitResponse_v3.SCHEMA


class _OffsetCommitRequest_v7(RequestStruct):  # type: ignore[misc]
    API_KEY = 8
    API_VERSION = 7
    RESPONSE_TYPE = _OffsetCommitResponse_v7
    SCHEMA = Schema(
        ("group_id", String("utf-8")),
        ("generation_id", Int32),
        ("member_id", String("utf-8")),
        ("group_instance_id", String("utf-8")),
        (
            "topics",
            Array(
                ("topic", String("utf-8")),
                (
                    "partitions",
                    Array(
                        ("partition", Int32),
                        ("offset", Int64),
                        ("leader_epoch", Int32),
                        ("metadata", String("utf-8")),
                    ),
                ),
            ),
        ),
    )


_CommitStruct = OffsetCommitRequest_v2 | OffsetCommitRequest_v3 | _OffsetCommitRequest_v7
_BROKER_RETENTION = -1
_NO_LEADER_EPOCH = -1


class FencedCommitRequest(Request[_CommitStruct]):  # type: ignore[misc]
    """OffsetCommit v2, v3 or v7, whichever the broker's best is; immutable once made."""

    API_KEY = 8

    def __init__(self, fence: Fence, offsets: Mapping[Partition, Committed]) -> None:
        self.fence = fence
        self.offsets = dict(sorted(offsets.items()))

    def build(self, request_struct_class: Any) -> Any:
        fence = self.fence
        plain: defaultdict[str, list[tuple[int, int, str]]] = defaultdict(list)
        for (topic, partition), (offset, metadata) in self.offsets.items():
            plain[topic].append((partition, offset, metadata))
        if request_struct_class.API_VERSION < 7:
            return request_struct_class(
                fence.group_id,
                fence.generation,
                fence.member_id,
                _BROKER_RETENTION,
                list(plain.items()),
            )
        with_epoch = [
            (topic, [(p, offset, _NO_LEADER_EPOCH, metadata) for p, offset, metadata in entries])
            for topic, entries in plain.items()
        ]
        return request_struct_class(
            fence.group_id, fence.generation, fence.member_id, fence.group_instance_id, with_epoch
        )

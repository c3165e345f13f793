"""The fence against a coordinator that answers as told: both levels of errors, and the same bytes."""

import asyncio
from collections.abc import Callable
from typing import Any

import aiokafka.errors as kafka_errors
import pytest
from aiokafka.protocol.commit import (
    OffsetCommitRequest_v3,
    OffsetCommitResponse_v3,
    OffsetFetchResponse_v1,
    OffsetFetchResponse_v3,
)

from agent.errors import FencedError, SourceError
from agent.ingest.fence import (
    Committed,
    Fence,
    FencedCommitRequest,
    InstanceFencedError,
    commit_offsets,
    error_name,
    fetch_offsets,
)
from agent.types import Partition

P0, P1 = Partition("t", 0), Partition("t", 1)
FENCE = Fence("group", 7, "member-1")
VERSIONS = {8: (2, 9), 9: (1, 9)}  # what Apache Kafka 4.x offers


class FakeLink:
    """Answers from a list, then forever with the last; keeps the bytes that were sent."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.sent: list[bytes] = []
        self.look_ups = 0

    async def send(self, request: Any) -> Any:
        self.sent.append(request.prepare(VERSIONS).encode())
        await asyncio.sleep(0)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, BaseException):
            raise answer
        return await answer() if isinstance(answer, Callable) else answer  # type: ignore[arg-type]

    def lost(self) -> None:
        self.look_ups += 1


def fetched(top_level: int, *entries: tuple[int, int, str | None, int]) -> Any:
    """An OffsetFetch answer for topic t: (partition, offset, metadata, code) each."""
    return OffsetFetchResponse_v3(0, [("t", list(entries))], top_level)


def taken(*codes: int) -> Any:
    """An OffsetCommit answer for partitions 0.. of topic t."""
    return OffsetCommitResponse_v3(0, [("t", list(enumerate(codes)))])


async def fetch(link: FakeLink, *partitions: Partition) -> dict[Partition, Committed]:
    ended = asyncio.Event()
    return await fetch_offsets(link, "group", partitions, ended=ended, backoff_s=0.001)


async def commit(link: FakeLink, *partitions: Partition, fence: Fence = FENCE) -> Any:
    offsets = {partition: Committed(10 + i, "m") for i, partition in enumerate(partitions)}
    return await commit_offsets(link, fence, offsets, ended=asyncio.Event(), backoff_s=0.001)


# ---------------------------------------------------------------- reading


@pytest.mark.parametrize("code", [14, 15, 16, 7, 88, -1, 500])
@pytest.mark.parametrize("level", ["top", "partition", "both"])
async def test_error_of_either_level_never_reads_as_nothing_committed(
    code: int, level: str
) -> None:
    """NOT_COORDINATOR comes with offset -1 in every partition: the trap of aiokafka's own reading."""
    top = code if level != "partition" else 0
    inner = code if level != "top" else 0
    link = FakeLink(fetched(top, (0, -1, "", inner)), fetched(0, (0, 42, "kept", 0)))
    assert await fetch(link, P0) == {P0: Committed(42, "kept")}
    assert len(link.sent) == 2
    assert link.look_ups == (1 if code in (15, 16) else 0)


async def test_coordinator_is_asked_until_it_answers_without_error() -> None:
    errors = [fetched(code, (0, -1, "", code)) for code in (16, 14, 15, 16, 14)]
    link = FakeLink(*errors, kafka_errors.RequestTimedOutError(), fetched(0, (0, -1, "", 0)))
    assert await fetch(link, P0) == {}
    assert len(link.sent) == 7


async def test_unknown_topic_is_asked_again_and_not_taken_as_nothing_committed() -> None:
    link = FakeLink(
        fetched(0, (0, -1, "", 3), (1, 5, "", 0)), fetched(0, (0, 6, "", 0), (1, 5, None, 0))
    )
    assert await fetch(link, P0, P1) == {P0: Committed(6, ""), P1: Committed(5, "")}


async def test_partition_missing_from_the_answer_is_asked_again() -> None:
    link = FakeLink(fetched(0, (1, 5, "", 0)), fetched(0, (0, 6, "", 0), (1, 5, "", 0)))
    assert (await fetch(link, P0, P1))[P0] == Committed(6, "")


async def test_version_without_a_top_level_code_is_read_by_its_partitions() -> None:
    bad = OffsetFetchResponse_v1([("t", [(0, -1, "", 16)])])
    good = OffsetFetchResponse_v1([("t", [(0, 3, "", 0)])])
    assert await fetch(FakeLink(bad, good), P0) == {P0: Committed(3, "")}


async def test_offset_zero_is_an_offset() -> None:
    assert await fetch(FakeLink(fetched(0, (0, 0, "", 0))), P0) == {P0: Committed(0, "")}


async def test_unauthorised_group_and_topic_are_clear_errors() -> None:
    with pytest.raises(SourceError, match="'group' is not authorised; grant Read on the group"):
        await fetch(FakeLink(fetched(30, (0, -1, "", 30))), P0)
    with pytest.raises(SourceError, match="topic 't' is not authorised; grant Read"):
        await fetch(FakeLink(fetched(0, (0, -1, "", 29))), P0)
    with pytest.raises(SourceError, match="not authorised"):
        await fetch(FakeLink(kafka_errors.GroupAuthorizationFailedError("group")), P0)


async def test_reading_ends_with_the_epoch() -> None:
    ended = asyncio.Event()
    link = FakeLink(fetched(16, (0, -1, "", 16)))
    reading = asyncio.ensure_future(
        fetch_offsets(link, "group", [P0], ended=ended, backoff_s=0.001)
    )
    await asyncio.sleep(0.02)
    assert not reading.done()
    ended.set()
    with pytest.raises(FencedError, match="the epoch ended before an answer came"):
        await asyncio.wait_for(reading, 5)


# ---------------------------------------------------------------- committing


@pytest.mark.parametrize("code", [14, 15, 16, 7, 27])
async def test_commit_without_a_verdict_is_sent_again_byte_for_byte(code: int) -> None:
    """27 too: the broker checks member and generation before it answers REBALANCE_IN_PROGRESS."""
    link = FakeLink(taken(code), kafka_errors.NodeNotReadyError(), taken(code), taken(0))
    assert await commit(link, P0) == {}
    assert len(link.sent) == 4
    assert len(set(link.sent)) == 1


@pytest.mark.parametrize(
    ("code", "reason"),
    [(22, "illegal generation"), (25, "unknown member"), (113, "stale member epoch")],
)
async def test_group_that_moved_on_is_final(code: int, reason: str) -> None:
    link = FakeLink(taken(0, code))
    with pytest.raises(FencedError, match=rf"t/1 refused \({reason}\).*generation 7") as caught:
        await commit(link, P0, P1)
    assert len(link.sent) == 1
    assert not isinstance(caught.value, InstanceFencedError)


async def test_instance_taken_over_is_told_apart() -> None:
    with pytest.raises(InstanceFencedError, match="fenced instance"):
        await commit(FakeLink(taken(82)), P0)


async def test_verdict_that_follows_a_rebalance_in_progress_is_final() -> None:
    with pytest.raises(FencedError):
        await commit(FakeLink(taken(27), taken(22)), P0)


async def test_partition_refused_alone_does_not_undo_the_others() -> None:
    link = FakeLink(taken(0, 3))
    assert await commit(link, P0, P1) == {P1: "UNKNOWN_TOPIC_OR_PARTITION"}
    assert len(link.sent) == 1


async def test_answer_that_leaves_a_partition_out_is_no_answer() -> None:
    link = FakeLink(taken(0), taken(0, 0))
    assert await commit(link, P0, P1) == {}
    assert len(link.sent) == 2


async def test_unauthorised_group_cannot_commit() -> None:
    with pytest.raises(SourceError, match=r"kafka\.group_id 'group' is not authorised"):
        await commit(FakeLink(taken(30)), P0)


async def test_nothing_to_commit_sends_nothing() -> None:
    link = FakeLink(taken(0))
    assert await commit(link) == {}
    assert link.sent == []


async def test_nothing_is_sent_after_the_epoch_ended() -> None:
    ended = asyncio.Event()
    ended.set()
    link = FakeLink(taken(0))
    with pytest.raises(FencedError):
        await commit_offsets(link, FENCE, {P0: Committed(1, "")}, ended=ended)
    assert link.sent == []


async def test_commit_is_cancelled_with_its_caller() -> None:
    async def never() -> Any:
        await asyncio.Event().wait()

    pending = asyncio.ensure_future(commit(FakeLink(never), P0))
    await asyncio.sleep(0.01)
    pending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pending


# ---------------------------------------------------------------- bytes


def test_newest_version_carries_generation_member_and_instance() -> None:
    """Laid out by hand from the protocol's OffsetCommitRequest.json, version 7."""
    fence = Fence("g", 7, "m", "pod")
    body = FencedCommitRequest(fence, {P0: Committed(258, "x")}).prepare(VERSIONS)
    assert body.API_VERSION == 7
    assert body.encode() == b"".join(
        (
            b"\x00\x01g",
            b"\x00\x00\x00\x07",
            b"\x00\x01m",
            b"\x00\x03pod",
            b"\x00\x00\x00\x01" + b"\x00\x01t",
            b"\x00\x00\x00\x01" + b"\x00\x00\x00\x00",
            b"\x00\x00\x00\x00\x00\x00\x01\x02",  # offset
            b"\xff\xff\xff\xff",  # leader epoch: not known
            b"\x00\x01x",
        )
    )


def test_without_an_instance_the_field_is_null() -> None:
    body = FencedCommitRequest(FENCE, {P0: Committed(1, "")}).prepare(VERSIONS).encode()
    assert body.split(b"member-1")[1].startswith(b"\xff\xff\x00\x00\x00\x01")


def test_older_broker_gets_a_version_it_knows() -> None:
    request = FencedCommitRequest(FENCE, {P0: Committed(1, "")})
    struct = request.prepare({8: (0, 3)})
    assert isinstance(struct, OffsetCommitRequest_v3)
    assert struct.consumer_group_generation_id == 7
    assert struct.consumer_id == "member-1"
    assert request.prepare({8: (0, 2)}).API_VERSION == 2


def test_unknown_codes_have_a_name() -> None:
    assert error_name(999) == "error 999"
    assert error_name(22) == "illegal generation"

"""Answers are the same however the network cuts them, and a connection ends as aiokafka expects."""

from __future__ import annotations

import asyncio
import random
import struct
from typing import Any

import pytest

from agent.ingest.direct import AnswerBuffers, Answers, _readable


class StockProtocol:
    """What of aiokafka's protocol is still asked."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def eof_received(self) -> bool:
        self.calls.append("eof")
        return True

    def connection_lost(self, error: Exception | None) -> None:
        self.calls.append(error)


class Connection:
    def __init__(self) -> None:
        self._protocol = StockProtocol()
        self.taken: list[bytes] = []

    def _handle_frame(self, answer: memoryview) -> None:
        self.taken.append(bytes(answer))


def framed(*answers: bytes) -> bytes:
    return b"".join(struct.pack(">i", len(answer)) + answer for answer in answers)


def feed(answers: Answers, sent: bytes, most: list[int]) -> None:
    """As a transport does: never more than the buffer has room for, never an empty buffer."""
    at = 0
    while at < len(sent):
        room = answers.get_buffer(-1)
        assert len(room) > 0
        n = min(len(room), most[at % len(most)], len(sent) - at)
        room[:n] = sent[at : at + n]
        answers.buffer_updated(n)
        at += n


@pytest.mark.parametrize("seed", range(40))
async def test_answers_are_whole_however_they_are_cut(seed: int) -> None:
    rng = random.Random(seed)
    edges = [0, 1, 3, 4, 16_379, 16_380, 16_381, 16_384, 16_385, 70_000]
    sizes = [rng.choice([rng.randrange(40), rng.choice(edges)]) for _ in range(12)]
    expected = [rng.randbytes(size) for size in sizes]
    connection = Connection()
    answers = Answers(connection, AnswerBuffers())  # type: ignore[arg-type]
    most = rng.choice([[1 << 20], [1, 2, 3, 5_000], [4], [rng.randrange(1, 20_000)]])
    feed(answers, framed(*expected), most)
    assert connection.taken == expected
    assert not answers.at_eof()


async def test_large_answers_share_one_buffer_that_is_bounded() -> None:
    buffers = AnswerBuffers()
    first = buffers.lend(3 << 20)
    buffers.give_back(first)
    assert buffers.lend(2 << 20) is first
    assert buffers.lend(2 << 20) is not first, "it is lent"
    buffers.give_back(buffers.lend(100 << 20))
    assert len(buffers.lend(1)) == 1 << 20, "one for a huge answer is not kept"


async def test_an_answer_of_impossible_size_ends_the_connection() -> None:
    connection = Connection()
    answers = Answers(connection, AnswerBuffers())  # type: ignore[arg-type]
    feed(answers, framed(b"fine") + struct.pack(">i", -2) + b"rest", [1 << 20])
    assert connection.taken == [b"fine"]
    assert answers.at_eof()
    with pytest.raises(ValueError, match="claims -2 bytes"):
        await answers.ended


async def test_what_cannot_be_decoded_ends_the_connection_and_nothing_is_taken_after() -> None:
    class Broken(Connection):
        def _handle_frame(self, answer: memoryview) -> None:
            super()._handle_frame(answer)
            raise KeyError("unasked")

    connection = Broken()
    answers = Answers(connection, AnswerBuffers())  # type: ignore[arg-type]
    feed(answers, framed(b"a", b"b", b"c" * 50_000), [1 << 20])
    assert connection.taken == [b"a"]
    with pytest.raises(KeyError):
        await answers.ended


@pytest.mark.parametrize("how", ["eof", "lost", "reset"])
async def test_the_end_of_the_network_is_told_to_both(how: str) -> None:
    connection = Connection()
    answers = Answers(connection, AnswerBuffers())  # type: ignore[arg-type]
    feed(answers, struct.pack(">i", 100_000) + b"begun", [1 << 20])
    reset = ConnectionResetError("by peer")
    if how == "eof":
        assert answers.eof_received()
    else:
        answers.connection_lost(reset if how == "reset" else None)
    assert answers.at_eof()
    if how == "reset":
        with pytest.raises(ConnectionResetError):
            await answers.ended
    else:
        with pytest.raises(asyncio.IncompleteReadError) as end:
            await answers.ended
        assert end.value.expected == 100_000
    told = {"eof": "eof", "lost": None, "reset": reset}
    assert connection._protocol.calls == [told[how]]


async def test_a_closed_connection_takes_nothing_more() -> None:
    connection = Connection()
    answers = Answers(connection, AnswerBuffers())  # type: ignore[arg-type]
    answers.ended.cancel()  # as aiokafka's close does, by way of the task
    feed(answers, framed(b"late"), [1 << 20])
    assert connection.taken == []


def test_reads_of_an_answer_are_copies_of_their_own() -> None:
    memory = bytearray(b"abcdef")
    reader = _readable(memoryview(memory))
    assert [reader.read(2), reader.read(0), reader.read(9)] == [b"ab", b"", b"cdef"]
    whole = _readable(memoryview(memory)).read(6)
    memory[:] = b"------"
    assert whole == b"abcdef"
    assert _readable(b"xyz").read(2) == b"xy"

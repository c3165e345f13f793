"""Answers of a broker are read into one reused buffer, and copied once: the seam below `raw.py`.

Stock aiokafka reads through an `asyncio.StreamReader`. Every byte of a fetch is then copied four
times (into a growing buffer, out of it as a whole answer, the rest moved to the front, the records
out of the answer), into memory that is new each time. That costs more than all else on the loop.

Here the socket's bytes go straight to where the answer lies, and the records are copied out of it
once, so that a range that waits holds its own bytes and no others. Only plaintext saves all of it: TLS
has its own buffers.

How: once a connection is open its transport is given another protocol. The classes by which
aiokafka makes consumer, client and connection are replaced in private copies of their globals.
"""

from __future__ import annotations

import asyncio
import functools
import io
import types
import weakref
from struct import Struct
from typing import Any

import aiokafka.client
import aiokafka.conn
import numpy as np
from aiokafka.protocol.fetch import FetchRequest

from agent.ingest.batches import with_globals

_SIZE = Struct(">i")
#: Small answers are taken from here; a large one begins here and goes on in a buffer of its own.
_HEAD_BYTES = 16 << 10
#: Memory for a large answer is kept for the next one up to this size: more than `fetch_max_bytes` by
#: default, so that a usual fetch never asks the system for pages.
_KEPT_BYTES = 9 << 20


class AnswerBuffers:
    """Buffers for large answers, lent by connections of one client; at most one waits for the next.

    Memory: what answers in flight need, and at most `_KEPT_BYTES` between them.
    """

    def __init__(self) -> None:
        self._kept: np.ndarray[Any, np.dtype[np.uint8]] | None = None

    def lend(self, size: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """At least `size` bytes of any content. A size that cannot be is only address space."""
        kept, self._kept = self._kept, None
        if kept is not None and len(kept) >= size:
            return kept
        return np.empty(max(size, 1 << 20), np.uint8)

    def give_back(self, buffer: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
        if len(buffer) <= _KEPT_BYTES and (self._kept is None or len(self._kept) < len(buffer)):
            self._kept = buffer


class Answers(asyncio.BufferedProtocol):
    """Splits what a broker sends into answers and hands each to its connection, on the loop.

    Stands in for aiokafka's reader: `at_eof`. An answer handed over is valid during the call only.
    `ended` gets what ended the connection: a broken answer, the broker's end, the network's error.
    """

    def __init__(self, connection: DirectConnection, buffers: AnswerBuffers) -> None:
        self._connection = weakref.ref(connection)
        self._stock: asyncio.BaseProtocol = connection._protocol
        self._buffers = buffers
        self._head = bytearray(_HEAD_BYTES)
        self._n_head = 0
        self._large: np.ndarray[Any, np.dtype[np.uint8]] | None = None
        self._view = memoryview(b"")  # of the large answer, as long as it will be
        self._filled = 0
        self._size = _SIZE.size  # of the answer that is being read
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def at_eof(self) -> bool:
        return self.ended.done()

    # -- the transport's calls

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._large is not None:
            return self._view[self._filled :]
        # Never empty: an answer that does not fit is not kept here, and after the end nothing is.
        return memoryview(self._head)[0 if self.ended.done() else self._n_head :]

    def buffer_updated(self, n: int) -> None:
        if self.ended.done():
            return  # closed by whoever asked: what still comes is nobody's
        try:
            if self._large is None:
                self._n_head += n
                self._split_head()
                return
            self._filled += n
            if self._filled == len(self._view):
                view, large = self._view, self._large
                self._view, self._large = memoryview(b""), None
                self._hand_over(view)
                self._buffers.give_back(large)
        except Exception as error:
            self._end(error)

    def eof_received(self) -> bool:
        self._end(asyncio.IncompleteReadError(b"", self._size))
        # As aiokafka's own protocol answers: plaintext stays open until the connection is closed.
        return bool(self._stock.eof_received())  # type: ignore[attr-defined]

    def connection_lost(self, error: Exception | None) -> None:
        self._end(error or asyncio.IncompleteReadError(b"", self._size))
        self._stock.connection_lost(error)

    def pause_writing(self) -> None:
        self._stock.pause_writing()

    def resume_writing(self) -> None:
        self._stock.resume_writing()

    # -- answers

    def _split_head(self) -> None:
        """Hand over what is whole; begin the large buffer with what is not."""
        at = 0
        head = memoryview(self._head)
        while self._n_head - at >= _SIZE.size and not self.ended.done():
            (self._size,) = _SIZE.unpack_from(head, at)
            if self._size < 0:
                raise ValueError(f"the broker's answer claims {self._size} bytes")
            begin = at + _SIZE.size
            end = begin + self._size
            if end <= self._n_head:
                self._hand_over(head[begin:end])
                at = end
                continue
            if end - at <= _HEAD_BYTES:
                break
            self._large = self._buffers.lend(self._size)
            self._view = memoryview(self._large.data)[: self._size]
            self._filled = self._n_head - begin
            self._view[: self._filled] = head[begin : self._n_head]
            at = self._n_head
        if at:
            rest = bytes(head[at : self._n_head])
            self._n_head = len(rest)
            head[: self._n_head] = rest

    def _hand_over(self, answer: memoryview) -> None:
        self._size = _SIZE.size
        connection = self._connection()
        if connection is not None and not self.ended.done():
            connection._handle_frame(answer)

    def _end(self, error: Exception) -> None:
        if not self.ended.done():
            self.ended.set_exception(error)


class _Reader:
    """What aiokafka's decoding asks of `io.BytesIO`, over the answer itself: each read copies once."""

    __slots__ = ("_at", "_view")

    def __init__(self, view: memoryview) -> None:
        self._view = view
        self._at = 0

    def read(self, n: int) -> bytes:
        at = self._at
        self._at = at + n
        return bytes(self._view[at : at + n])


def _readable(answer: memoryview | bytes) -> Any:
    return io.BytesIO(answer) if type(answer) is bytes else _Reader(answer)  # type: ignore[arg-type]


class DirectConnection(aiokafka.conn.AIOKafkaConnection):  # type: ignore[misc]
    """A connection whose answers come through `Answers` once it is open."""

    _decode = with_globals(
        aiokafka.conn.AIOKafkaConnection._handle_frame,
        io=types.SimpleNamespace(BytesIO=_readable),
    )

    def __init__(self, *arguments: Any, buffers: AnswerBuffers, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._buffers = buffers

    def _create_reader_task(self) -> asyncio.Task[None]:
        # Nothing has been asked yet, so nothing can have come.
        transport = self._writer.transport
        answers = self._reader = Answers(self, self._buffers)
        transport.pause_reading()  # a transport looks at the kind of its protocol when it begins
        transport.set_protocol(answers)
        transport.resume_reading()
        task: asyncio.Task[None] = super()._create_reader_task()
        return task

    @staticmethod
    async def _read(self_ref: weakref.ref[DirectConnection]) -> None:
        """Waits for the end of the connection; raises what ended it."""
        self = self_ref()
        if self is None:
            return
        ended = self._reader.ended
        del self
        await ended

    def _handle_frame(self, resp: memoryview) -> None:
        request = self._requests[0][1]
        is_fetch = request is not None and request.API_KEY == FetchRequest.API_KEY
        # Only a fetch is worth it; what reads the other answers may keep what it is given.
        self._decode(resp if is_fetch else bytes(resp))


class DirectClient(aiokafka.client.AIOKafkaClient):  # type: ignore[misc]
    """A client that opens `DirectConnection`s."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        connection = functools.partial(DirectConnection, buffers=AnswerBuffers())
        open_one = with_globals(aiokafka.conn.create_conn, AIOKafkaConnection=connection)
        for name in ("bootstrap", "_get_conn"):
            stock = getattr(aiokafka.client.AIOKafkaClient, name)
            own = with_globals(stock, create_conn=open_one)
            setattr(self, name, types.MethodType(own, self))

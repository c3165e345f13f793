"""Messages that are compressed before gRPC gets them arrive as those that gRPC compresses itself."""

from __future__ import annotations

import asyncio
from concurrent import futures
from typing import Any

import grpc
import pytest

from agent.config import Export, Otlp
from agent.emit import transport_grpc
from agent.emit.environment import resolve
from agent.emit.grpc_packed import packed_method
from agent.emit.transport_grpc import METHODS, GrpcClient
from agent.errors import PermanentExportError

BODIES = [b"", b"small", bytes(range(256)) * 4000]


class _Server:
    """A gRPC server of raw bytes: keeps what it got and how it came, answers with empty responses."""

    def __init__(self, codes: list[grpc.StatusCode] | None = None) -> None:
        self.got: list[bytes] = []
        self._codes = codes or []
        self._server = grpc.server(futures.ThreadPoolExecutor(2))
        service, _, name = METHODS["metrics"].strip("/").rpartition("/")
        method = grpc.unary_unary_rpc_method_handler(self._answer)
        handler = grpc.method_handlers_generic_handler(service, {name: method})
        self._server.add_generic_rpc_handlers((handler,))
        self.endpoint = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def _answer(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self.got.append(request)
        if self._codes:
            context.abort(self._codes.pop(0), "as told")
        return b""

    def __enter__(self) -> _Server:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(0).wait(10)


def _client(server: _Server) -> GrpcClient:
    settings = resolve(Export(otlp=Otlp(endpoint=server.endpoint)), {}).metrics
    assert settings.compression == "gzip"
    return GrpcClient(settings)


async def _send_all(client: GrpcClient) -> None:
    try:
        for body in BODIES:
            async with asyncio.timeout(20):
                await client.send(body)
    finally:
        await client.close()


async def test_the_receiver_unpacks_what_was_packed_here() -> None:
    with _Server() as server:
        client = _client(server)
        await _send_all(client)
        assert server.got == BODIES
        assert client._packs and client._packs_proven


async def test_a_grpcio_that_prepares_calls_otherwise_compresses_by_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transport_grpc, "packed_method", lambda method: None)
    with _Server() as server:
        client = _client(server)
        await _send_all(client)
        assert server.got == BODIES
        assert not client._packs


async def test_a_first_packed_message_that_is_not_understood_is_sent_again_as_grpc_packs_it() -> (
    None
):
    with _Server([grpc.StatusCode.INTERNAL]) as server:
        client = _client(server)
        await _send_all(client)
        assert server.got == [BODIES[0], *BODIES]
        assert not client._packs


async def test_a_refusal_is_final_once_a_packed_message_was_taken() -> None:
    with _Server() as server:
        client = _client(server)
        await client.send(b"first")
        server._codes.append(grpc.StatusCode.INTERNAL)
        with pytest.raises(PermanentExportError):
            await client.send(b"second")
        assert server.got == [b"first", b"second"]
        await client.close()


def test_methods_of_another_make_are_left_alone() -> None:
    class Other:
        pass

    class OtherPrepare:
        def _prepare(self, *_: Any) -> Any:
            return None, ("not", "operations"), None, None

    assert packed_method(Other()) is None
    assert packed_method(OtherPrepare()) is None

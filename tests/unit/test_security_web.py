"""Who may ask for pages, and how much one client can take: over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from agent.config import ServerTls, Web
from agent.errors import ConfigError
from agent.web.guard import MAX_REQUEST_BYTES
from agent.web.health import ask
from agent.web.server import Pages, Readiness, WebServer
from tests.support.certificates import Authority
from tests.support.wait import eventually

TOKEN = "t0ken-of-the-pages-4711"


async def _ready() -> Readiness:
    return Readiness(ready=True)


async def _state() -> dict[str, Any]:
    return {"rows": 3}


def pages(size_bytes: int = 1000) -> Pages:
    async def metrics(openmetrics: bool) -> list[bytes]:
        return [b"x" * size_bytes]

    return Pages(ready=_ready, state=_state, metrics=metrics)


@asynccontextmanager
async def serving(size_bytes: int = 1000, **options: Any) -> AsyncIterator[WebServer]:
    server = WebServer(Web(port=0, **options), pages(size_bytes))
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


async def get(
    server: WebServer, page: str, *, authorization: str | None = None, **options: Any
) -> int:
    headers = {} if authorization is None else {"Authorization": authorization}
    async with (
        aiohttp.ClientSession() as session,
        session.get(server.url + page, headers=headers, **options) as response,
    ):
        await response.read()
        return response.status


async def ended(reader: asyncio.StreamReader) -> bytes:
    """What came until the server closed the connection."""
    with contextlib.suppress(ConnectionResetError):
        async with asyncio.timeout(20):
            return await reader.read()
    return b""


# ---------------------------------------------------------------- defaults


def test_pages_are_for_this_machine_alone_by_default() -> None:
    assert Web().host == "127.0.0.1"


async def test_only_get_and_head_are_answered() -> None:
    async with serving() as server, aiohttp.ClientSession(server.url) as session:
        for page in ("/", "/livez", "/readyz", "/v1/state", "/metrics"):
            for method in ("GET", "HEAD"):
                async with session.request(method, page) as response:
                    assert response.status == 200, (method, page)
                    assert response.headers["Server"] == "inferometer"
            for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "X"):
                async with session.request(method, page) as response:
                    assert response.status in (400, 405, 413), (method, page)


# ---------------------------------------------------------------- token


async def test_with_a_token_only_probes_are_open(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    async with serving(token_file=str(file)) as server:
        for page in ("/livez", "/readyz"):
            assert await get(server, page) == 200
        for page in ("/", "/v1/state", "/metrics", "/nothing", "/livez/", "//livez"):
            assert await get(server, page) == 401, page
        right = f"Bearer {TOKEN}"
        for page in ("/", "/v1/state", "/metrics"):
            assert await get(server, page, authorization=right) == 200
        wrong = (TOKEN, f"Basic {TOKEN}", "Bearer ", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}")
        for each in (*wrong, f"Bearer {TOKEN.upper()}", "Bearer \x80"):
            assert await get(server, "/v1/state", authorization=each) == 401, each


async def test_a_token_that_is_rotated_counts_from_the_next_request(tmp_path: Path) -> None:
    file, new = tmp_path / "token", tmp_path / "new"
    file.write_text(TOKEN)
    async with serving(token_file=str(file)) as server:
        new.write_text("another-token")
        new.replace(file)
        assert await get(server, "/metrics", authorization=f"Bearer {TOKEN}") == 401
        assert await get(server, "/metrics", authorization="Bearer another-token") == 200
        file.unlink()
        assert await get(server, "/metrics", authorization="Bearer another-token") == 200
        assert await get(server, "/metrics") == 401


@pytest.mark.parametrize("content", [None, b"", b"\n", b"\xff\xfe", b"two\nlines"])
async def test_a_token_file_without_a_token_ends_the_start(
    tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    server = WebServer(Web(port=0, token_file=str(file)), pages())
    with pytest.raises(ConfigError, match=r"web\.token_file is "):
        await server.start()


def test_tokens_are_compared_in_constant_time() -> None:
    """Not measured: the source says which comparison it is."""
    import inspect

    from agent.web.guard import Token

    source = inspect.getsource(Token.is_right)
    assert "hmac.compare_digest(digest, self._digest)" in source


# ---------------------------------------------------------------- TLS


async def test_https_and_the_health_command_over_it(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue("server")
    tls = ServerTls(cert_file=str(pair.certificate_path), key_file=str(pair.key_path))
    async with serving(tls=tls) as server:
        assert server.url.startswith("https://")
        context = ssl.create_default_context(cafile=str(authority.path))
        assert await get(server, "/metrics", ssl=context) == 200
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await get(server, "/metrics", ssl=ssl.create_default_context())
        healthy, said = await asyncio.to_thread(ask, server.url, "/livez", tls)
        assert healthy, said
        with pytest.raises(aiohttp.ClientError):  # plain http to a TLS port
            async with aiohttp.ClientSession() as session:
                await session.get(server.url.replace("https", "http") + "/livez")


async def test_mutual_tls_answers_no_client_without_a_certificate(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair, client = authority.issue("server"), authority.issue("client")
    foreign = Authority(tmp_path, "foreign").issue("stranger")
    tls = ServerTls(
        cert_file=str(pair.certificate_path),
        key_file=str(pair.key_path),
        client_ca_file=str(authority.path),
    )
    async with serving(tls=tls) as server:
        context = ssl.create_default_context(cafile=str(authority.path))
        for refused in (None, foreign):
            if refused is not None:
                context.load_cert_chain(refused.certificate_path, refused.key_path)
            with pytest.raises((aiohttp.ClientError, ConnectionError)):
                await get(server, "/livez", ssl=context)
        context.load_cert_chain(client.certificate_path, client.key_path)
        assert await get(server, "/v1/state", ssl=context) == 200
        healthy, said = await asyncio.to_thread(ask, server.url, "/livez", tls)
        assert healthy, said


async def test_server_certificates_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    one, two = authority.issue("one"), authority.issue("two")
    cases = [
        (str(one.certificate_path), str(two.key_path), None, r"web\.tls\.cert_file .*together"),
        (str(tmp_path / "none"), str(one.key_path), None, r"web\.tls\.cert_file .*No such file"),
        (
            str(one.certificate_path),
            str(one.key_path),
            str(one.key_path),
            r"web\.tls\.client_ca_file is ",
        ),
    ]
    for cert, key, ca, message in cases:
        tls = ServerTls(cert_file=cert, key_file=key, client_ca_file=ca)
        with pytest.raises(ConfigError, match=message) as caught:
            await WebServer(Web(port=0, tls=tls), pages()).start()
        assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- limits


async def test_a_request_with_a_body_or_large_headers_is_refused() -> None:
    async with serving() as server, aiohttp.ClientSession(server.url) as session:
        async with session.request("GET", "/metrics", data=b"x") as response:
            assert response.status == 413
        async with session.get("/metrics", headers={"x": "y" * 9000}) as response:
            assert response.status == 400
        async with session.get("/" + "y" * 9000) as response:
            assert response.status == 400
        async with session.get("/metrics") as response:
            assert response.status == 200


@pytest.mark.parametrize("head", [b"GET /metrics HTTP/1.1\r\n", b"POST /x HTTP/1.1\r\n", b""])
async def test_what_comes_without_an_end_is_cut_off(head: bytes) -> None:
    async with serving() as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(head)
        line = b"a: " + b"b" * 1000 + b"\r\n"
        sent = 0
        with contextlib.suppress(ConnectionError):
            while sent < 4 * MAX_REQUEST_BYTES and not reader.at_eof():
                writer.write(line)
                await writer.drain()
                sent += len(line)
        assert b"200" not in await ended(reader)
        writer.close()
        assert await get(server, "/livez") == 200


async def test_many_requests_at_once_are_bounded_by_their_bytes() -> None:
    async with serving() as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        request = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
        n = 4 * MAX_REQUEST_BYTES // len(request)
        writer.write(request * n)
        answers = (await ended(reader)).count(b"HTTP/1.1 200")
        assert answers < n
        writer.close()


async def test_a_client_that_sends_byte_by_byte_is_disconnected_in_time() -> None:
    async with serving(client_timeout_s=0.5) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)

        async def trickle() -> None:
            writer.write(b"GET /metrics HTTP/1.1\r\nx: ")
            with contextlib.suppress(ConnectionError):
                while not reader.at_eof():
                    writer.write(b"y")
                    await asyncio.sleep(0.02)  # bytes that keep coming: what is tested

        began = asyncio.get_running_loop().time()
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(trickle())
            await ended(reader)
            sending.cancel()
        assert 0.3 < asyncio.get_running_loop().time() - began < 15
        writer.close()


async def test_a_client_that_does_not_take_its_answer_is_disconnected() -> None:
    async with serving(size_bytes=64 << 20, client_timeout_s=0.5) as server:
        server._limits.answer_s = 0.5
        _, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1024)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        await eventually(lambda: len(server._limits.open) == 1)
        await eventually(lambda: not server._limits.open, timeout_s=20)
        writer.close()


async def test_connections_past_the_limit_are_closed_and_the_others_answered() -> None:
    async with serving(max_connections=3) as server:
        held = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(3)]
        await eventually(lambda: len(server._limits.open) == 3)
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        assert await ended(reader) == b""
        writer.close()
        first_reader, first = held[0]
        first.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await first_reader.readline()).endswith(b"200 OK\r\n")
        for _, each in held:
            each.close()
        await eventually(lambda: not server._limits.open)
        assert await get(server, "/livez") == 200

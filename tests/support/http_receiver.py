"""An HTTP receiver on the test's own loop: keeps what it is sent, answers as the test says."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Self

import orjson
from aiohttp import web


@dataclass(frozen=True)
class Heard:
    """One request. `headers` have names in lower case."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> object:
        return orjson.loads(self.body)


@dataclass(frozen=True)
class Reply:
    """`status` 0: no answer at all, until the client gives up."""

    status: int = 200
    text: str = ""
    headers: dict[str, str] = field(default_factory=dict)


class HttpReceiver:
    """`async with HttpReceiver() as receiver`; `then` answers what the script has no answer for."""

    def __init__(
        self, *replies: Reply, then: Reply | None = None, tls: ssl.SSLContext | None = None
    ):
        self._script: Iterator[Reply] = iter(replies)
        self.then = then or Reply()
        self.heard: list[Heard] = []
        self.answer: Callable[[Heard], Reply] | None = None
        self._tls = tls
        self._runner: web.AppRunner | None = None
        self._left = asyncio.Event()
        self.port = 0

    @property
    def url(self) -> str:
        return f"{'http' if self._tls is None else 'https'}://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", self._take)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=self._tls)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._left.set()
        assert self._runner is not None
        await self._runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        heard = Heard(request.path, headers, await request.read())
        self.heard.append(heard)
        reply = self.answer(heard) if self.answer else next(self._script, self.then)
        if not reply.status:
            await self._left.wait()
            return web.Response()
        return web.Response(status=reply.status, text=reply.text, headers=reply.headers)

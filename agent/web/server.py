"""`/livez`, `/readyz`, `/metrics`, `/v1/state`: read-only pages, made by callables that the pipeline gives.

Invariants
1. GET and HEAD only; nothing here changes the agent. Who may ask, and how much: `guard`.
2. A page that cannot be made in `PAGE_TIMEOUT_S` is a 503 that says so; it never hangs a probe.
3. Large pages are encoded and compressed off the event loop, and sent piece by piece (`pieces`).
"""

from __future__ import annotations

import asyncio
import errno
import html
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar, cast

from aiohttp import web
from aiohttp.typedefs import Middleware

from agent import __version__
from agent.config import Web
from agent.errors import ConfigError
from agent.types import Json
from agent.web.guard import MAX_FIELD_BYTES, Limits, Token, server_context
from agent.web.health import local_url
from agent.web.pieces import encoded, gzipped, json_pieces, taken

log = logging.getLogger(__name__)

T = TypeVar("T")

PAGE_TIMEOUT_S = 10.0
#: Smaller bodies are compressed on the loop and sent whole: a hop to another thread costs more.
_LARGE_BYTES = 64 << 10

OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Readiness:
    """Ready to work, and if not, why. `standby`: member of the group without partitions, ready to take over.

    `notes`: what is not as usual, though it works.
    """

    ready: bool
    standby: bool = False
    reasons: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


async def _alive() -> list[str]:
    return []


@dataclass(frozen=True, slots=True)
class Pages:
    """What the pipeline answers. Each is called on the event loop, once for each request.

    ready     is the agent warm and in its group
    state     the document of `/v1/state`; entries of its lists may be `pieces.fragment`s
    metrics   the exposition text in pieces; the argument is True when the client asks for OpenMetrics
    live      reasons why the process should be restarted; none when it lives
    """

    ready: Callable[[], Awaitable[Readiness]]
    state: Callable[[], Awaitable[Json]]
    metrics: Callable[[bool], Awaitable[list[bytes]]]
    live: Callable[[], Awaitable[list[str]]] = _alive


class WebServer:
    """One listening socket. `start` raises ConfigError when the address cannot be bound."""

    def __init__(self, config: Web, pages: Pages, *, prometheus: bool = True) -> None:
        self._config = config
        self._pages = pages
        self._prometheus = prometheus
        self._runner: web.AppRunner | None = None
        self._listener: asyncio.Server | None = None
        self._limits = Limits(config.max_connections, config.client_timeout_s, PAGE_TIMEOUT_S)
        self.port = 0

    @property
    def url(self) -> str:
        """`http://host:port` (https with TLS) to reach the server on this machine; valid after `start`."""
        return local_url(self._config.host, self.port, secure=self._config.tls is not None)

    async def start(self) -> None:
        """Listen; returns when requests are answered."""
        app = web.Application(middlewares=self._middlewares())
        app.router.add_get("/", self._index)
        app.router.add_get("/livez", self._livez)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/v1/state", self._state)
        if self._prometheus:
            app.router.add_get("/metrics", self._metrics)
        app.on_response_prepare.append(_harden)
        # A scrape or probe is short: a client that stays connected must not hold up the drain.
        runner = web.AppRunner(
            app,
            access_log=None,
            handle_signals=False,
            shutdown_timeout=1.0,
            keepalive_timeout=self._config.client_timeout_s,
            max_line_size=MAX_FIELD_BYTES,
            max_field_size=MAX_FIELD_BYTES,
        )
        context = server_context(self._config.tls) if self._config.tls else None
        await runner.setup()
        assert runner.server is not None
        host, port = self._config.host, self._config.port
        try:
            listener = await asyncio.get_running_loop().create_server(
                self._limits.around(cast(Callable[[], asyncio.Protocol], runner.server)),
                host,
                port,
                ssl=context,
                ssl_handshake_timeout=self._config.client_timeout_s if context else None,
            )
        except (OSError, OverflowError) as error:
            await runner.cleanup()
            raise ConfigError(_bind_failure(host, port, error)) from None
        self._runner, self._listener = runner, listener
        self.port = int(listener.sockets[0].getsockname()[1])
        log.info("pages on %s", self.url)
        if host not in ("127.0.0.1", "::1", "localhost"):
            log.info("pages are open to the network (web.host is %s)", host)
            if self._config.token_file and context is None:
                log.warning("web.token_file is sent in the clear; set web.tls")

    def _middlewares(self) -> list[Middleware]:
        """The outermost first. Raises ConfigError."""
        token = self._config.token_file
        return [
            self._limits.middleware,
            *([Token(token).middleware] if token else []),
        ]

    async def stop(self, timeout_s: float = 2.0) -> None:
        """Close the socket and open connections; never raises because of a slow client."""
        runner, self._runner = self._runner, None
        if runner is None or self._listener is None:
            return
        self._listener.close()
        try:
            async with asyncio.timeout(timeout_s):
                await runner.cleanup()
        except TimeoutError:
            log.warning("pages not closed in %.1f s; leaving them", timeout_s)

    # Pages

    async def _index(self, request: web.Request) -> web.Response:
        links = ["livez", "readyz", *(["metrics"] if self._prometheus else []), "v1/state"]
        items = "".join(f'<li><a href="{link}">/{html.escape(link)}</a></li>' for link in links)
        body = (
            '<!doctype html><html lang="en"><meta charset="utf-8"><title>inferometer</title>'
            f"<h1>inferometer {html.escape(__version__)}</h1><ul>{items}</ul></html>\n"
        )
        return web.Response(text=body, content_type="text/html")

    async def _livez(self, request: web.Request) -> web.Response:
        reasons = await _bounded(self._pages.live(), "liveness")
        return _json({"alive": not reasons, "reasons": reasons}, 503 if reasons else 200)

    async def _readyz(self, request: web.Request) -> web.Response:
        answer = await _bounded(self._pages.ready(), "readiness")
        body = {"ready": answer.ready, "standby": answer.standby, "reasons": answer.reasons}
        if answer.notes:
            body["notes"] = answer.notes
        return _json(body, 200 if answer.ready else 503)

    async def _state(self, request: web.Request) -> web.StreamResponse:
        state = await _bounded(self._pages.state(), "the state")
        pieces = await asyncio.to_thread(json_pieces, state)
        return await _sent(pieces, "application/json", request)

    async def _metrics(self, request: web.Request) -> web.StreamResponse:
        openmetrics = "application/openmetrics-text" in request.headers.get("Accept", "")
        pieces = await _bounded(self._pages.metrics(openmetrics), "the metrics")
        return await _sent(pieces, OPENMETRICS if openmetrics else PROMETHEUS, request)


async def _bounded(work: Awaitable[T], what: str) -> T:
    try:
        async with asyncio.timeout(PAGE_TIMEOUT_S):
            return await work
    except TimeoutError:
        raise web.HTTPServiceUnavailable(
            text=f"{what} could not be made in {PAGE_TIMEOUT_S:g} s; the agent is overloaded or stuck\n"
        ) from None


def _json(body: Json, status: int) -> web.Response:
    return web.Response(body=encoded(body) + b"\n", status=status, content_type="application/json")


async def _sent(pieces: list[bytes], content_type: str, request: web.Request) -> web.StreamResponse:
    """The page, whole when it is small; else each piece when the client has taken those before."""
    headers = {"Content-Type": content_type, "Vary": "Accept, Accept-Encoding"}
    is_large = sum(map(len, pieces)) > _LARGE_BYTES
    if "gzip" in request.headers.get("Accept-Encoding", ""):
        pieces = await asyncio.to_thread(gzipped, pieces) if is_large else gzipped(pieces)
        headers["Content-Encoding"] = "gzip"
    if not is_large:
        return web.Response(body=b"".join(pieces), headers=headers)
    response = web.StreamResponse(headers=headers)
    response.content_length = sum(map(len, pieces))
    await response.prepare(request)
    if request.method != "HEAD":
        for piece in taken(pieces):
            await response.write(piece)
    await response.write_eof()
    return response


async def _harden(request: web.Request, response: web.StreamResponse) -> None:
    response.headers["Server"] = "inferometer"  # no versions of what it is made of
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Content-Security-Policy"] = "default-src 'none'"


def _bind_failure(host: str, port: int, error: Exception) -> str:
    number = error.errno if isinstance(error, OSError) else None
    match number:
        case errno.EADDRINUSE:
            why = "is in use by another process; choose another port, or 0 for any free one"
        case errno.EACCES:
            why = "is not permitted; choose a port of 1024 or above"
        case errno.EADDRNOTAVAIL:
            why = "is not an address of this machine; set web.host to one, or to 0.0.0.0 for all"
        case _:
            why = f"cannot be bound ({error}); set web.host to an address of this machine"
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return f"the pages' address {place} (web.host, web.port) {why}"

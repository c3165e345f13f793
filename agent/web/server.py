"""`/livez`, `/readyz`, `/metrics`, `/v1/state`: read-only pages, made by callables that the pipeline gives.

Invariants
1. GET and HEAD only; nothing here changes the agent.
2. A page that cannot be made in `PAGE_TIMEOUT_S` is a 503 that says so; it never hangs a probe.
3. Pages are encoded and compressed off the event loop when they are large.
"""

from __future__ import annotations

import asyncio
import errno
import html
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

import orjson
from aiohttp import web

from agent import __version__
from agent.config import Web
from agent.errors import ConfigError
from agent.types import Json
from agent.web.health import local_url

log = logging.getLogger(__name__)

T = TypeVar("T")

PAGE_TIMEOUT_S = 10.0
#: Smaller bodies are compressed on the loop: a hop to another thread costs more.
_COMPRESS_ELSEWHERE_BYTES = 64 << 10

OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Readiness:
    """Ready to work, and if not, why. `standby`: member of the group without partitions, ready to take over."""

    ready: bool
    standby: bool = False
    reasons: list[str] = field(default_factory=list)


async def _alive() -> list[str]:
    return []


@dataclass(frozen=True, slots=True)
class Pages:
    """What the pipeline answers. Each is called on the event loop, once for each request.

    ready     is the agent warm and in its group
    state     the document of `/v1/state`
    metrics   the exposition text; the argument is True when the client asks for OpenMetrics
    live      reasons why the process should be restarted; none when it lives
    """

    ready: Callable[[], Awaitable[Readiness]]
    state: Callable[[], Awaitable[Json]]
    metrics: Callable[[bool], Awaitable[bytes]]
    live: Callable[[], Awaitable[list[str]]] = _alive


class WebServer:
    """One listening socket. `start` raises ConfigError when the address cannot be bound."""

    def __init__(self, config: Web, pages: Pages, *, prometheus: bool = True) -> None:
        self._config = config
        self._pages = pages
        self._prometheus = prometheus
        self._runner: web.AppRunner | None = None
        self.port = 0

    @property
    def url(self) -> str:
        """`http://host:port` to reach the server on this machine; valid after `start`."""
        return local_url(self._config.host, self.port)

    async def start(self) -> None:
        """Listen; returns when requests are answered."""
        app = web.Application()
        app.router.add_get("/", self._index)
        app.router.add_get("/livez", self._livez)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/v1/state", self._state)
        if self._prometheus:
            app.router.add_get("/metrics", self._metrics)
        app.on_response_prepare.append(_harden)
        # A scrape or probe is short: a client that stays connected must not hold up the drain.
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await runner.setup()
        host, port = self._config.host, self._config.port
        try:
            await web.TCPSite(runner, host, port).start()
        except (OSError, OverflowError) as error:
            await runner.cleanup()
            raise ConfigError(_bind_failure(host, port, error)) from None
        self._runner = runner
        self.port = int(runner.addresses[0][1])
        log.info("pages on %s", self.url)
        if host not in ("127.0.0.1", "::1", "localhost"):
            log.info("pages are open to the network (web.host is %s)", host)

    async def stop(self, timeout_s: float = 2.0) -> None:
        """Close the socket and open connections; never raises because of a slow client."""
        runner, self._runner = self._runner, None
        if runner is None:
            return
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
        return _json(body, 200 if answer.ready else 503)

    async def _state(self, request: web.Request) -> web.Response:
        state = await _bounded(self._pages.state(), "the state")
        body = await asyncio.to_thread(_encode, state)
        return _compressed(body, "application/json", request)

    async def _metrics(self, request: web.Request) -> web.Response:
        openmetrics = "application/openmetrics-text" in request.headers.get("Accept", "")
        body = await _bounded(self._pages.metrics(openmetrics), "the metrics")
        return _compressed(body, OPENMETRICS if openmetrics else PROMETHEUS, request)


async def _bounded(work: Awaitable[T], what: str) -> T:
    try:
        async with asyncio.timeout(PAGE_TIMEOUT_S):
            return await work
    except TimeoutError:
        raise web.HTTPServiceUnavailable(
            text=f"{what} could not be made in {PAGE_TIMEOUT_S:g} s; the agent is overloaded or stuck\n"
        ) from None


def _json(body: Json, status: int) -> web.Response:
    return web.Response(body=_encode(body), status=status, content_type="application/json")


def _encode(body: Json) -> bytes:
    # NaN and infinity become null: JSON has no other word for them.
    return orjson.dumps(
        body,
        option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS | orjson.OPT_APPEND_NEWLINE,
    )


def _compressed(body: bytes, content_type: str, request: web.Request) -> web.Response:
    response = web.Response(
        body=body,
        headers={"Content-Type": content_type},
        zlib_executor_size=_COMPRESS_ELSEWHERE_BYTES,
    )
    if "gzip" in request.headers.get("Accept-Encoding", ""):
        response.enable_compression(web.ContentCoding.gzip)
    response.headers["Vary"] = "Accept, Accept-Encoding"
    return response


async def _harden(request: web.Request, response: web.StreamResponse) -> None:
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

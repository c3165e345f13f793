"""The pages on the loop that the agent runs on: its transports are none of asyncio's classes."""

import asyncio
import urllib.request

import uvloop

from agent.config import Web
from agent.types import Json
from agent.web.server import Pages, Readiness, WebServer

LARGE = [b"# HELP x x\n" * 10_000] * 20  # more than any buffer of a socket takes


async def _ready() -> Readiness:
    return Readiness(False, reasons=["starting: 1 of 2 kernels are compiled"])


async def _state() -> Json:
    return {}


async def _metrics(openmetrics: bool) -> list[bytes]:
    return list(LARGE)


def test_pages_answer_small_and_large_on_uvloop() -> None:
    async def ask() -> bytes:
        server = WebServer(Web(port=0), Pages(ready=_ready, state=_state, metrics=_metrics))
        await server.start()

        def read(page: str) -> bytes:
            with urllib.request.urlopen(f"{server.url}{page}", timeout=20) as answer:
                found: bytes = answer.read()
                return found

        try:
            assert b"true" in await asyncio.to_thread(read, "/livez")
            return await asyncio.to_thread(read, "/metrics")
        finally:
            await server.stop()

    assert uvloop.run(ask()) == b"".join(LARGE)

"""The pages over real sockets: what probes, scrapers and people get."""

import asyncio
import gzip
import socket

import aiohttp
import pytest

from agent.config import Web
from agent.errors import ConfigError
from agent.web import server
from agent.web.health import ask, local_url
from agent.web.server import Pages, Readiness, WebServer


class Answers:
    """Pages whose answers a test sets."""

    def __init__(self) -> None:
        self.readiness = Readiness(ready=True)
        self.document: dict[str, object] = {"ready": True}
        self.asked_openmetrics: list[bool] = []
        self.dead: list[str] = []
        self.hold = False

    def pages(self) -> Pages:
        async def ready() -> Readiness:
            return self.readiness

        async def state() -> dict[str, object]:
            if self.hold:
                await asyncio.Event().wait()
            return self.document

        async def metrics(openmetrics: bool) -> list[bytes]:
            self.asked_openmetrics.append(openmetrics)
            return [b"# HELP x x\n" * 1_000] * 10

        async def live() -> list[str]:
            return self.dead

        return Pages(ready=ready, state=state, metrics=metrics, live=live)


@pytest.fixture
async def served():
    answers = Answers()
    web_server = WebServer(Web(port=0), answers.pages())
    await web_server.start()
    async with aiohttp.ClientSession(
        web_server.url, auto_decompress=False, headers={"Accept-Encoding": "identity"}
    ) as session:
        yield answers, session, web_server
    await web_server.stop()


async def test_port_zero_takes_a_free_port_and_tells_which(served) -> None:
    _, session, web_server = served
    assert web_server.port > 0
    assert web_server.url == f"http://127.0.0.1:{web_server.port}"
    async with session.get("/livez") as response:
        assert response.status == 200
        assert await response.json() == {"alive": True, "reasons": []}


async def test_a_dead_part_fails_liveness_with_its_reason(served) -> None:
    answers, session, _ = served
    answers.dead = ["fold thread ended"]
    async with session.get("/livez") as response:
        assert response.status == 503
        assert await response.json() == {"alive": False, "reasons": ["fold thread ended"]}


async def test_not_ready_is_503_and_says_why(served) -> None:
    answers, session, _ = served
    answers.readiness = Readiness(False, reasons=["kernels are compiling", "group not joined"])
    async with session.get("/readyz") as response:
        assert response.status == 503
        assert await response.json() == {
            "ready": False,
            "standby": False,
            "reasons": ["kernels are compiling", "group not joined"],
        }


async def test_standby_is_ready_and_visible(served) -> None:
    answers, session, _ = served
    answers.readiness = Readiness(True, standby=True)
    async with session.get("/readyz") as response:
        assert response.status == 200
        assert (await response.json())["standby"] is True


async def test_metrics_negotiate_the_format(served) -> None:
    answers, session, _ = served
    async with session.get("/metrics") as response:
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    accept = "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.5"
    async with session.get("/metrics", headers={"Accept": accept}) as response:
        assert response.headers["Content-Type"].startswith(
            "application/openmetrics-text; version=1.0.0"
        )
    assert answers.asked_openmetrics == [False, True]


async def test_large_pages_are_compressed_when_the_client_can(served) -> None:
    _, session, _ = served
    async with session.get("/metrics", headers={"Accept-Encoding": "gzip"}) as response:
        assert response.headers["Content-Encoding"] == "gzip"
        packed = await response.read()
    async with session.get("/metrics") as response:
        assert "Content-Encoding" not in response.headers
        assert gzip.decompress(packed) == await response.read()


async def test_state_is_json_without_nan(served) -> None:
    answers, session, _ = served
    answers.document = {"mean": float("nan"), "rows": 3}
    async with session.get("/v1/state") as response:
        assert response.headers["Content-Type"] == "application/json"
        assert await response.json() == {"mean": None, "rows": 3}


async def test_a_page_that_hangs_becomes_a_503(served, monkeypatch: pytest.MonkeyPatch) -> None:
    answers, session, _ = served
    monkeypatch.setattr(server, "PAGE_TIMEOUT_S", 0.05)
    answers.hold = True
    async with session.get("/v1/state") as response:
        assert response.status == 503
        assert "the state could not be made in 0.05 s" in await response.text()


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
async def test_nothing_can_be_written(served, method: str) -> None:
    _, session, _ = served
    async with session.request(method, "/v1/state") as response:
        assert response.status == 405


async def test_the_index_links_every_page(served) -> None:
    _, session, _ = served
    async with session.get("/") as response:
        text = await response.text()
        assert response.headers["X-Content-Type-Options"] == "nosniff"
    for page in ("livez", "readyz", "metrics", "v1/state"):
        assert f'href="{page}"' in text


async def test_metrics_may_be_left_out() -> None:
    web_server = WebServer(Web(port=0), Answers().pages(), prometheus=False)
    await web_server.start()
    try:
        async with (
            aiohttp.ClientSession(web_server.url) as session,
            session.get("/metrics") as response,
        ):
            assert response.status == 404
    finally:
        await web_server.stop()


async def test_a_port_in_use_is_said_with_the_next_step() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError) as caught:
            await WebServer(Web(port=port), Answers().pages()).start()
    assert str(caught.value) == (
        f"the pages' address 127.0.0.1:{port} (web.host, web.port) "
        "is in use by another process; choose another port, or 0 for any free one"
    )


async def test_a_foreign_address_is_said_with_the_next_step() -> None:
    with pytest.raises(ConfigError) as caught:
        await WebServer(Web(host="192.0.2.1", port=0), Answers().pages()).start()
    assert str(caught.value) == (
        "the pages' address 192.0.2.1:0 (web.host, web.port) "
        "is not an address of this machine; set web.host to one, or to 0.0.0.0 for all"
    )


async def test_a_host_without_an_address_is_said_with_the_next_step() -> None:
    with pytest.raises(ConfigError) as caught:
        await WebServer(Web(host="no-such-host.invalid", port=0), Answers().pages()).start()
    text = str(caught.value)
    assert text.startswith(
        "the pages' address no-such-host.invalid:0 (web.host, web.port) cannot be bound ("
    )
    assert text.endswith("); set web.host to an address of this machine")


async def test_stop_does_not_wait_for_a_slow_client() -> None:
    answers = Answers()
    answers.hold = True
    web_server = WebServer(Web(port=0), answers.pages())
    await web_server.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", web_server.port)
    writer.write(b"GET /v1/state HTTP/1.1\r\nHost: x\r\n\r\n")
    await writer.drain()
    async with asyncio.timeout(4.0):
        await web_server.stop(timeout_s=0.2)
    writer.close()
    del reader


def test_a_wildcard_address_is_reached_by_loopback() -> None:
    assert local_url("0.0.0.0", 1) == "http://127.0.0.1:1"
    assert local_url("::", 1) == "http://[::1]:1"
    assert local_url("10.0.0.5", 1) == "http://10.0.0.5:1"


async def test_health_asks_the_page_and_understands_the_answer(served) -> None:
    answers, _, web_server = served
    healthy, line = await asyncio.to_thread(ask, web_server.url, "/livez")
    assert healthy and line == f'{web_server.url}/livez: {{"alive":true,"reasons":[]}}'
    answers.readiness = Readiness(False, reasons=["group not joined"])
    healthy, line = await asyncio.to_thread(ask, web_server.url, "/readyz")
    assert not healthy and ": 503 " in line and "group not joined" in line


def test_health_of_nobody_is_no() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, not listening: refuses
        healthy, line = ask(f"http://127.0.0.1:{unused.getsockname()[1]}", "/livez")
    assert not healthy and "no answer" in line


def test_health_refuses_an_address_that_is_no_url() -> None:
    with pytest.raises(ConfigError) as caught:
        ask("localhost:9464", "/livez")
    assert str(caught.value) == "--url is localhost:9464; must start with http:// or https://"

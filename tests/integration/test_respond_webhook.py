"""A webhook against a receiver: what arrives, what its answers bring about, and what nobody gets to see."""

import asyncio
import hashlib
import hmac
import logging
import ssl
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any

import orjson
import pytest

from agent.config.connection import Tls
from agent.config.options import Secret
from agent.config.respond import Webhook
from agent.errors import PermanentExportError, TransientExportError
from agent.respond.event import event_of
from agent.respond.http import GoneError
from agent.respond.webhook import WebhookChannel
from tests.support.certificates import Authority
from tests.support.http_receiver import HttpReceiver, Reply
from tests.support.verdicts import verdict
from tests.support.wait import eventually

EVENT = event_of(verdict(), "/inferometer/test")
KEY = bytes(range(40))
SECRET = "whsec_" + b64encode(KEY).decode()
#: Parts of a configuration that no message may hold.
HIDDEN = ("token-in-a-path", "hush-hush-header", SECRET, SECRET[6:])


def channel(url: str, **more: Any) -> WebhookChannel:
    options = Webhook(url=url, **{"timeout_s": 2.0, **more})
    return WebhookChannel(options, "respond.actions[0].webhook", wall_clock=lambda: 1767610800.9)


async def test_a_signed_cloudevent_arrives(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(SECRET + "\n")
    async with HttpReceiver() as receiver:
        sent = channel(f"{receiver.url}/hook?a=b", secret_file=str(secret))
        await sent.deliver(EVENT)
        await sent.close()
    (heard,) = receiver.heard
    assert heard.path == "/hook"
    assert heard.headers["content-type"] == "application/cloudevents+json; charset=utf-8"
    assert heard.body == EVENT.body and orjson.loads(heard.body)["specversion"] == "1.0"
    assert heard.headers["webhook-id"] == EVENT.id
    assert heard.headers["webhook-timestamp"] == "1767610800"
    signed = f"{EVENT.id}.1767610800.".encode() + heard.body
    version, _, value = heard.headers["webhook-signature"].partition(",")
    assert version == "v1"
    assert b64decode(value) == hmac.new(KEY, signed, hashlib.sha256).digest()


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (200, None),
        (202, None),
        (204, None),
        (301, PermanentExportError),
        (307, PermanentExportError),
        (400, PermanentExportError),
        (401, TransientExportError),
        (404, TransientExportError),
        (408, TransientExportError),
        (410, GoneError),
        (413, PermanentExportError),
        (422, PermanentExportError),
        (429, TransientExportError),
        (500, TransientExportError),
        (503, TransientExportError),
    ],
)
async def test_an_answer_means_what_the_specification_says(
    status: int, kind: type[Exception] | None
) -> None:
    headers = {"location": "http://127.0.0.1:9/"} if status // 100 == 3 else {}
    async with HttpReceiver(then=Reply(status, headers=headers)) as receiver:
        sent = channel(f"{receiver.url}/token-in-a-path")
        if kind is None:
            await sent.deliver(EVENT)
        else:
            with pytest.raises(kind, match=str(status)) as raised:
                await sent.deliver(EVENT)
            assert "token-in-a-path" not in str(raised.value)
        await sent.close()
    assert len(receiver.heard) == 1, "redirects are not followed"


@pytest.mark.parametrize(("given", "expected"), [("7", 7.0), ("1e9", 3600.0), ("soon", None)])
async def test_a_receiver_says_when_to_come_back(given: str, expected: float | None) -> None:
    async with HttpReceiver(then=Reply(503, headers={"Retry-After": given})) as receiver:
        sent = channel(receiver.url)
        with pytest.raises(TransientExportError) as raised:
            await sent.deliver(EVENT)
        assert raised.value.retry_after_s == expected
        await sent.close()


async def test_silence_and_absence_end_in_time_and_may_be_tried_again() -> None:
    async with HttpReceiver(then=Reply(0)) as receiver:
        sent = channel(receiver.url, timeout_s=0.2)
        with pytest.raises(TransientExportError, match=r"did not answer in 0\.2 s"):
            await sent.deliver(EVENT)
        gone = receiver.url
        receiver.then = Reply()
        await sent.deliver(EVENT)
    with pytest.raises(TransientExportError, match="cannot be reached"):
        await channel(gone).deliver(EVENT)
    await sent.close()


async def test_tokens_come_from_a_file_and_are_read_again_after_a_refusal(tmp_path: Path) -> None:
    file = tmp_path / "headers"
    file.write_text("# rotated every hour\nauthorization: Bearer old\n")
    async with HttpReceiver() as receiver:
        receiver.answer = lambda heard: Reply(
            200 if heard.headers["authorization"] == "Bearer new" else 401
        )
        sent = channel(
            receiver.url, headers_file=str(file), headers={"x-team": Secret("hush-hush-header")}
        )
        with pytest.raises(TransientExportError, match="401"):
            await sent.deliver(EVENT)
        file.write_text("authorization: Bearer new\n")
        await sent.deliver(EVENT)
        await sent.close()
    assert [h.headers["x-team"] for h in receiver.heard] == ["hush-hush-header"] * 2


async def test_a_url_that_is_a_secret_comes_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "url"
    async with HttpReceiver() as receiver:
        sent = WebhookChannel(Webhook(url_file=str(file)), "respond.actions[0].webhook")
        with pytest.raises(TransientExportError, match="url_file"):
            await sent.deliver(EVENT)
        file.write_text(f"{receiver.url}/token-in-a-path\n")
        await sent.deliver(EVENT)
        file.write_text("ftp://token-in-a-path")
        with pytest.raises(PermanentExportError, match="not an http") as raised:
            await sent.deliver(EVENT)
        assert "token-in-a-path" not in str(raised.value)
        await sent.close()
    assert [heard.path for heard in receiver.heard] == ["/token-in-a-path"]


async def test_only_a_certificate_of_the_named_authority_is_trusted(tmp_path: Path) -> None:
    mine, other = Authority(tmp_path, "mine"), Authority(tmp_path, "other")
    pair, client = mine.issue("receiver"), mine.issue("agent")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(mine.path))
    context.load_cert_chain(pair.certificate_path, pair.key_path)
    context.verify_mode = ssl.CERT_REQUIRED
    async with HttpReceiver(tls=context) as receiver:
        own = {"cert_file": str(client.certificate_path), "key_file": str(client.key_path)}
        trusting = channel(receiver.url, tls=Tls(ca_file=str(mine.path), **own))
        await trusting.deliver(EVENT)
        for tls in (Tls(), Tls(ca_file=str(other.path), **own), Tls(ca_file=str(mine.path))):
            wary = channel(receiver.url, tls=tls)
            with pytest.raises(TransientExportError, match="cannot be reached"):
                await wary.deliver(EVENT)
            await wary.close()
        await trusting.close()
    assert len(receiver.heard) == 1


async def test_no_message_holds_a_secret(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    echo = Reply(500, text="you said hush-hush-header")
    said = []
    with caplog.at_level(logging.DEBUG):
        async with HttpReceiver(then=echo) as receiver:
            sent = channel(
                f"{receiver.url}/token-in-a-path",
                secret_file=str(secret),
                headers={"x-key": Secret("hush-hush-header")},
            )
            with pytest.raises(TransientExportError) as raised:
                await sent.deliver(EVENT)
            said.append(str(raised.value))
            secret.write_text("whsec_short")
            with pytest.raises(TransientExportError) as raised:
                await sent.deliver(EVENT)
            said.append(str(raised.value))
            await sent.close()
    said += [caplog.text, repr(sent._options.headers)]
    assert not [hidden for hidden in HIDDEN for text in said if hidden in text]
    assert all(len(text) < 500 for text in said[:2])


async def test_a_delivery_that_is_cancelled_leaves_the_channel_usable() -> None:
    async with HttpReceiver(Reply(0)) as receiver:
        sent = channel(receiver.url)
        task = asyncio.ensure_future(sent.deliver(EVENT))
        await eventually(lambda: receiver.heard)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await sent.deliver(EVENT)
        await sent.close()

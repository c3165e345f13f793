"""Actions with a secret of their own in every secret option: none is in anything that leaves the agent."""

from __future__ import annotations

import asyncio
import logging
import ssl
from base64 import b64encode
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from agent import cli
from agent.config import schema
from agent.config.source import load_config
from agent.emit.environment import resolve
from agent.emit.events import EventExporter
from agent.emit.resource import make_resource
from agent.emit.transport import OtlpClient
from agent.respond.responder import Responder
from agent.telemetry import Telemetry
from agent.verdict import State
from tests.support.certificates import Authority
from tests.support.http_receiver import HttpReceiver, Reply
from tests.support.otlp_receiver import OtlpReceiver
from tests.support.verdicts import verdict
from tests.support.wait import eventually

KEY = b64encode(b"secret-of-the-signature-0123456789").decode()
SECRETS = {
    "respond.actions[].webhook.url_file": "secret-of-the-url",
    "respond.actions[].webhook.secret_file": f"whsec_{KEY}",
    "respond.actions[].webhook.headers": "secret-of-the-webhook-headers",
    "respond.actions[].webhook.headers_file": "secret-of-the-webhook-headers-file",
    "respond.actions[].webhook.tls.key_password": "secret-of-the-webhook-key",
    "respond.actions[].alertmanager.headers": "secret-of-the-alerts-headers",
    "respond.actions[].alertmanager.headers_file": "secret-of-the-alerts-headers-file",
    "respond.actions[].alertmanager.tls.key_password": "secret-of-the-alerts-key",
}


def secret(option: str) -> str:
    return SECRETS[f"respond.actions[].{option}"]


def test_every_secret_option_of_actions_is_in_this_test() -> None:
    paths = {o.path for g in schema.groups() for o in g.options if o.path.startswith("respond.")}
    ends = ("password", "headers", "headers_file", "secret_file", "url_file", "token_file")
    assert {p for p in paths if p.rpartition(".")[2].endswith(ends)} == SECRETS.keys()


@pytest.mark.parametrize("status", [200, 400, 401, 503])
async def test_no_secret_of_an_action_is_in_anything_that_leaves(
    status: int,
    tmp_path: Path,
    otlp_receiver: OtlpReceiver,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    authority = Authority(tmp_path)
    pair, client = authority.issue("receiver"), authority.issue("agent")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority.path))
    context.load_cert_chain(pair.certificate_path, pair.key_path)

    def file(option: str, text: str) -> str:
        path = tmp_path / option.replace("/", "-")
        path.write_text(text + "\n")
        return str(path)

    def tls(kind: str) -> dict[str, str]:
        password = secret(f"{kind}.tls.key_password")
        return {
            "ca_file": str(authority.path),
            "cert_file": str(client.certificate_path),
            "key_file": str(client.locked_key(password)),
            "key_password": password,
        }

    def echo(heard: Any) -> Reply:
        """The worst a receiver can do: say again what it was sent."""
        return Reply(status, f"{heard.path} {heard.headers}")

    async with HttpReceiver(tls=context) as receiver:
        receiver.answer = echo
        audit = tmp_path / "audit.jsonl"
        outputs: dict[str, str] = {}
        for kind in ("webhook", "alertmanager"):
            common = {
                "headers": {"x-inline": secret(f"{kind}.headers")},
                "headers_file": file(
                    f"{kind}-headers", f"authorization: Bearer {secret(f'{kind}.headers_file')}"
                ),
                "tls": tls(kind),
            }
            way: dict[str, Any] = {"urls": [receiver.url]}
            if kind == "webhook":
                way = {
                    "url_file": file("url", f"{receiver.url}/{secret('webhook.url_file')}"),
                    "secret_file": file("key", secret("webhook.secret_file")),
                }
            action = {"name": kind, kind: way | common, "give_up_s": 0.1, "retry_initial_s": 0.05}
            settings = {
                "kafka": {"topics": ["predictions"]},
                "log": {"level": "debug"},
                "respond": {"audit_path": str(audit), "actions": [action]},
                "export": {"otlp": {"endpoint": otlp_receiver.grpc_endpoint}},
            }
            path = tmp_path / "inferometer.yaml"
            path.write_text(yaml.safe_dump(settings))
            config = load_config(path, {})
            resource = make_resource(config.service, {})
            logs = resolve(config.export, {}).logs
            events = EventExporter(OtlpClient(logs), logs, resource, Telemetry())
            telemetry = Telemetry()
            responder = Responder(config.respond, config.kafka, "a", telemetry, events=events)
            responder.open()
            with caplog.at_level(logging.DEBUG):
                task = asyncio.ensure_future(responder.run())
                responder.offer(verdict(), lambda: None)
                responder.offer(verdict(State.RESOLVED, previous=State.FIRING), lambda: None)
                await eventually(
                    lambda counted=telemetry: counted.total("inferometer.actions") == 2
                )
                task.cancel()
                await responder.flush(2.0)
            await events.flush(5.0)
            outputs |= {f"{kind} state": orjson.dumps(responder.state()).decode()}
            outputs |= {f"{kind} repr": repr(config)}
            await responder.close()
            await events.close()
            for command in (["check", "--show"], ["plan"]):
                cli.main([*command, "-c", str(path)])
            said = capfd.readouterr()
            outputs |= {f"{kind} commands": said.out + said.err}
        assert all(h.headers["x-inline"].startswith("secret-of") for h in receiver.heard)
    outputs |= {"log": caplog.text, "audit": audit.read_text()}
    for n, request in enumerate(otlp_receiver.requests):
        outputs[f"otlp {n}"] = str(request.message)
    hidden = {o: s.removeprefix("whsec_") for o, s in SECRETS.items()}
    for option, text in hidden.items():
        found = [name for name, output in outputs.items() if text in output]
        assert found == [], f"the secret of {option} is in {found}"

"""An agent with a secret of its own in every secret option: none is in anything that leaves it."""

from __future__ import annotations

import json
import re
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.config import schema as config_schema
from tests.support.agent_process import AgentProcess
from tests.support.certificates import Authority
from tests.support.kafka_real import PASSWORD, USER, RealKafka, unique, unsecured_token
from tests.support.otlp_receiver import OtlpReceiver
from tests.support.produce import produce
from tests.support.wait import eventually_sync

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(480)]

SECRETS = {
    "kafka.sasl.password": PASSWORD,
    "kafka.tls.key_password": "secret-of-the-kafka-key",
    "export.otlp.endpoint": "secret-of-the-otlp-address",
    "export.otlp.headers": "secret-of-the-otlp-headers",
    "export.otlp.headers_file": "secret-of-the-headers-file",
    "export.otlp.tls.key_password": "secret-of-the-otlp-key",
    "web.token_file": "secret-of-the-pages",
    "web.tls.key_password": "secret-of-the-web-key",
    "privacy.key_file": "secret-of-the-hashes-0123456789",
}
WRONG = "secret-that-is-wrong-4711"


class SecureAgent(AgentProcess):
    """One whose pages speak https and ask for a token."""

    context: ssl.SSLContext

    def _find_url(self) -> bool:
        found = re.search(r"pages on (https://\S+?)[\"\s]", self.log)
        self.url = found.group(1) if found else ""
        return bool(self.url)

    def ask(self, path: str, token: str | None = None, method: str = "GET") -> tuple[int, bytes]:
        """Status; headers and body as bytes."""
        request = urllib.request.Request(self.url + path, method=method)
        if token is not None:
            request.add_header("Authorization", f"Bearer {token}")
        try:
            with urllib.request.urlopen(request, timeout=10, context=self.context) as answer:
                return answer.status, str(answer.headers).encode() + answer.read()
        except urllib.error.HTTPError as error:
            return error.code, str(error.headers).encode() + error.read()

    def get(self, path: str) -> tuple[int, bytes]:
        status, answer = self.ask(path, SECRETS["web.token_file"])
        return status, answer.partition(b"\n\n")[2]


@pytest.fixture(scope="module", autouse=True)
def kernels() -> None:
    """Compiled once: what is waited for below is the broker alone."""
    warm = [sys.executable, "-m", "agent", "warmup"]
    subprocess.run(warm, check=True, capture_output=True, timeout=420)


@dataclass
class Setting:
    folder: Path
    authority: Authority
    receiver: OtlpReceiver
    config: dict[str, Any]


@pytest.fixture
def setting(real_kafka: RealKafka, tmp_path: Path) -> Iterator[Setting]:
    authority = Authority(tmp_path)
    pair = {name: authority.issue(name) for name in ("collector", "exporter", "pages")}

    def file(option: str, text: str | None = None) -> str:
        path = tmp_path / option
        path.write_text((text or SECRETS[option]) + "\n")
        return str(path)

    def key(pair: Any, option: str) -> dict[str, str]:
        return {
            "cert_file": str(pair.certificate_path),
            "key_file": str(pair.locked_key(SECRETS[option])),
            "key_password": SECRETS[option],
        }

    with OtlpReceiver(tls=pair["collector"], client_ca_pem=authority.pem) as receiver:
        config = {
            "kafka": {
                "bootstrap_servers": [real_kafka.sasl_bootstrap],
                "topics": [real_kafka.fresh_topic()],
                "group_id": unique("secrets"),
                "security_protocol": "SASL_SSL",
                "tls": {"ca_file": str(real_kafka.ca_path)}
                | key(real_kafka.client, "kafka.tls.key_password"),
                "sasl": {"mechanism": "SCRAM-SHA-512", "username": USER, "password": PASSWORD},
            },
            "export": {
                "console": True,
                "top_categories": 5,
                "otlp": {
                    "endpoint": f"{receiver.http_endpoint}?key={SECRETS['export.otlp.endpoint']}",
                    "protocol": "http/protobuf",
                    "headers": {"x-inline": SECRETS["export.otlp.headers"]},
                    "headers_file": file(
                        "export.otlp.headers_file",
                        f"authorization: Bearer {SECRETS['export.otlp.headers_file']}",
                    ),
                    "tls": {"ca_file": str(authority.path)}
                    | key(pair["exporter"], "export.otlp.tls.key_password"),
                },
            },
            "traces": {"base_rate": 1.0},
            "privacy": {"values": "hashed", "key_file": file("privacy.key_file")},
            "web": {
                "token_file": file("web.token_file"),
                "tls": key(pair["pages"], "web.tls.key_password"),
            },
            "log": {"level": "debug"},
        }
        yield Setting(tmp_path, authority, receiver, config)


def agent_of(setting: Setting, config: dict[str, Any]) -> SecureAgent:
    agent = SecureAgent(setting.folder, config)
    agent.context = ssl.create_default_context(cafile=str(setting.authority.path))
    return agent


def require_none(outputs: dict[str, bytes]) -> None:
    for option, secret in (SECRETS | {"a wrong one": WRONG}).items():
        found = [name for name, data in outputs.items() if secret.encode() in data]
        assert found == [], f"the secret of {option} is in {found}"


def test_every_secret_option_is_in_this_test() -> None:
    """Inline secrets are of a type of their own; files are those whose content is secret; of an address the query."""
    described = {o.path for g in config_schema.groups() for o in g.options}
    secret_files = {"password_file", "token_file", "headers_file"}
    wanted = {p for p in described if p.endswith("password") or p == "export.otlp.headers"}
    wanted |= {p for p in described if p.rpartition(".")[2] in secret_files}
    wanted |= {"privacy.key_file", "export.otlp.endpoint"}
    elsewhere = {"kafka.sasl.password_file", "kafka.sasl.token_file"}  # in the tests below
    elsewhere |= {p for p in wanted if p.startswith("respond.")}  # in test_respond_secrets
    assert wanted - elsewhere == SECRETS.keys()


def test_no_secret_is_in_anything_that_leaves_a_running_agent(
    setting: Setting, real_kafka: RealKafka
) -> None:
    topic = setting.config["kafka"]["topics"][0]
    event = {"model": "m", "features": {"who": "planted-person"}, "prediction": "yes"}
    events = [json.dumps(event | {"id": str(n)}).encode() for n in range(20)]
    produce(real_kafka.bootstrap, topic, [*events, b"not json"])
    outputs: dict[str, bytes] = {}
    agent = agent_of(setting, setting.config)
    with agent:
        agent.wait_ready()
        agent.wait_rows(20)
        requests = setting.receiver.requests
        eventually_sync(lambda: {r.signal for r in requests} >= {"metrics", "traces"})
        for page in ("/", "/livez", "/readyz", "/v1/state", "/metrics", "/none", "/%00"):
            for token in (SECRETS["web.token_file"], None, WRONG):
                for method in ("GET", "POST"):
                    name = f"{method} {page} {token is None} {token == WRONG}"
                    outputs[name] = agent.ask(page, token, method)[1]
        assert agent.ask("/v1/state")[0] == agent.ask("/metrics", WRONG)[0] == 401
        assert agent.stop() == 0
    outputs["stdout and stderr"] = agent.log_path.read_bytes()
    assert b"DEBUG" in outputs["stdout and stderr"] or b"debug" in outputs["stdout and stderr"]
    assert all(r.headers["x-inline"] == SECRETS["export.otlp.headers"] for r in requests)
    for n, request in enumerate(list(requests)):
        outputs[f"otlp {n}"] = request.message.SerializeToString()
    for command in (["check", "--show"], ["check"], ["plan"]):
        done = subprocess.run(
            [sys.executable, "-m", "agent", *command, "-c", agent.config_path],
            capture_output=True, timeout=60, check=False,
        )  # fmt: skip
        outputs[" ".join(command)] = done.stdout + done.stderr
    require_none(outputs)
    assert [name for name, data in outputs.items() if b"planted-person" in data] == []


@pytest.mark.parametrize("how", ["password", "password_file", "token_file"])
def test_a_refused_agent_ends_with_one_line_that_names_the_option(
    setting: Setting, how: str, tmp_path: Path
) -> None:
    file = tmp_path / "wrong"
    secret = WRONG if how != "token_file" else unsecured_token(lifetime_s=-30)
    file.write_text(secret)
    sasl: dict[str, Any] = {"mechanism": "PLAIN", "username": USER}
    match how:
        case "password":
            sasl["password"] = WRONG
        case "password_file":
            sasl["password_file"] = str(file)
        case _:
            sasl = {"mechanism": "OAUTHBEARER", "token_file": str(file)}
    kafka = setting.config["kafka"] | {"sasl": sasl}
    path = tmp_path / "refused.yaml"
    path.write_text(yaml.safe_dump(setting.config | {"kafka": kafka, "web": {"enabled": False}}))
    done = subprocess.run(
        [sys.executable, "-m", "agent", "run", "-c", path],
        capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    said = done.stdout + done.stderr
    errors = [line for line in said.splitlines() if b"ERROR" in line or b" error" in line.lower()]
    assert any(b"kafka.sasl" in line for line in errors), said.decode()
    assert b"Traceback" not in said
    assert secret.encode() not in said
    require_none({"stdout and stderr": said})

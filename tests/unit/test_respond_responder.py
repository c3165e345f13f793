"""All actions of a configuration together, and the trail of what became of each."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import orjson
import pytest

from agent.commands.check import check
from agent.config import Config, Kafka, Respond, Service
from agent.config.source import load_config
from agent.emit.environment import resolve
from agent.emit.events import EventExporter
from agent.emit.resource import make_resource
from agent.emit.transport import OtlpClient
from agent.errors import ConfigError
from agent.respond.audit import Audit
from agent.respond.responder import Responder
from agent.telemetry import Telemetry
from agent.verdict import State, identity
from tests.support.http_receiver import HttpReceiver, Reply
from tests.support.otlp_points import attributes_of
from tests.support.otlp_receiver import OtlpReceiver
from tests.support.verdicts import verdict
from tests.support.wait import eventually


def respond(tmp_path: Path, text: str) -> Respond:
    path = tmp_path / "inferometer.yaml"
    path.write_text(text)
    return load_config(path, {}).respond


def lines(path: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


class Told:
    """How often what was offered was settled."""

    def __init__(self) -> None:
        self.n = 0

    def __call__(self) -> None:
        self.n += 1


# ---------------------------------------------------------------- the responder


async def test_each_action_has_its_own_outcome_and_what_was_offered_is_settled_behind_the_last(
    tmp_path: Path,
) -> None:
    audit = tmp_path / "trail" / "audit.jsonl"
    async with HttpReceiver() as good, HttpReceiver(then=Reply(400, "no")) as bad:
        options = respond(
            tmp_path,
            f"""
respond:
  audit_path: {audit}
  actions:
    - {{name: good, webhook: {{url: "{good.url}"}}}}
    - {{name: bad, webhook: {{url: "{bad.url}"}}}}
    - {{name: tickets, webhook: {{url: "{good.url}"}}, severities: [ticket]}}
""",
        )
        telemetry, told = Telemetry(), Told()
        made = Responder(options, Kafka(), "agent", telemetry)
        made.open()
        task = asyncio.ensure_future(made.run())
        made.offer(verdict(), told)
        await eventually(lambda: told.n == 1 and audit.exists() and len(lines(audit)) == 2)
        made.offer(verdict(State.OK, previous=State.OK), told)
        assert told.n == 2, "what nobody wants is settled at once"
        made.observe()
        task.cancel()
        await made.close()
    assert {(line["action"], line["outcome"]) for line in lines(audit)} == {
        ("good", "delivered"),
        ("bad", "refused"),
    }
    (refused,) = [line for line in lines(audit) if line["action"] == "bad"]
    assert refused["id"] == identity(verdict()) and refused["tries"] == 1
    assert refused["said"].endswith("answered 400: no") and refused["model"] == "flight-delay"
    assert telemetry.value("inferometer.actions", action="good", outcome="delivered") == 1
    assert orjson.loads(good.heard[0].body)["source"] == "/inferometer/agent"
    assert audit.stat().st_mode & 0o777 == 0o600
    assert audit.parent.stat().st_mode & 0o777 == 0o700


async def test_a_restart_repeats_nothing_that_the_trail_says_was_delivered(tmp_path: Path) -> None:
    audit = tmp_path / "audit.jsonl"
    async with HttpReceiver() as hook:
        text = f"respond: {{audit_path: {audit}, actions: [{{name: a, webhook: {{url: '{hook.url}'}}}}]}}"
        for _ in range(2):
            told = Told()
            made = Responder(respond(tmp_path, text), Kafka(), "agent", Telemetry())
            made.open()
            made.offer(verdict(), told)
            await made.flush(5.0)
            assert told.n == 1
            await made.close()
        assert len(hook.heard) == 1
    assert [line["outcome"] for line in lines(audit)] == ["delivered", "repeated"]


async def test_a_monitor_that_names_actions_has_those_and_no_others(tmp_path: Path) -> None:
    async with HttpReceiver() as hook:
        text = f"""
respond:
  actions:
    - {{name: a, webhook: {{url: "{hook.url}/a"}}}}
    - {{name: b, webhook: {{url: "{hook.url}/b"}}}}
"""
        own = {"canary": ["b"]}
        made = Responder(
            respond(tmp_path, text),
            Kafka(),
            "agent",
            Telemetry(),
            own_actions=lambda monitor: own.get(monitor, ()),
        )
        made.restore([verdict(monitor="canary", alarm="old")])
        for monitor in ("canary", "drift"):
            made.offer(verdict(monitor=monitor, alarm=monitor), Told())
        made.offer(verdict(State.RESOLVED, monitor="canary", alarm="old"), Told())
        await made.flush(5.0)
        await made.close()
    heard = [(h.path, orjson.loads(h.body)["data"]["alarm"]) for h in hook.heard]
    assert sorted(heard) == [("/a", "drift"), ("/b", "canary"), ("/b", "drift"), ("/b", "old")]


async def test_outcomes_are_log_events_too(tmp_path: Path, otlp_receiver: OtlpReceiver) -> None:
    config = Config()
    export = type(config.export)(
        otlp=type(config.export.otlp)(endpoint=otlp_receiver.grpc_endpoint)
    )
    settings = resolve(export, {}).logs
    events = EventExporter(
        OtlpClient(settings), settings, make_resource(Service(), {}), Telemetry()
    )
    options = respond(
        tmp_path,
        "respond: {dry_run: true, actions: [{name: a, webhook: {url: 'https://host/'}}]}",
    )
    made = Responder(options, Kafka(), "agent", Telemetry(), events=events)
    made.offer(verdict(), Told())
    await made.flush(1.0)
    await events.flush(5.0)
    (record,) = otlp_receiver.log_records()
    found = attributes_of(record.attributes)
    assert record.event_name == "inferometer.action" and record.severity_text == "INFO"
    assert found["inferometer.outcome"] == "dry_run" and found["inferometer.action.name"] == "a"
    assert found["inference.verdict.id"] == identity(verdict())
    await made.close()
    await events.close()


# ---------------------------------------------------------------- the trail


def line(n: int, outcome: str = "delivered") -> dict[str, Any]:
    return {"action": "a", "id": f"{n:032x}", "outcome": outcome, "filler": "x" * 900}


async def test_the_trail_is_bounded_to_two_files_and_both_are_read(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    audit = Audit(path, 1 << 16)
    audit.open()
    for n in range(200):
        await audit.add(line(n))
    older = path.with_name("audit.jsonl.1")
    assert path.stat().st_size <= 1 << 16 and older.stat().st_size <= 1 << 16
    assert not path.with_name("audit.jsonl.2").exists()
    again = Audit(path, 1 << 16)
    again.open()
    assert again.was_delivered("a", f"{199:032x}") and again.was_delivered("a", f"{150:032x}")
    assert not again.was_delivered("b", f"{199:032x}") and not again.was_delivered("a", "other")


async def test_a_torn_or_foreign_line_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    good = orjson.dumps(line(1))
    path.write_bytes(b"\xff\xfe\n[1]\n" + good + b"\n" + good[: len(good) // 2])
    audit = Audit(path, 1 << 16)
    audit.open()
    assert audit.was_delivered("a", f"{1:032x}")


async def test_only_what_was_delivered_counts_as_delivered(tmp_path: Path) -> None:
    audit = Audit(tmp_path / "audit.jsonl", 1 << 16)
    audit.open()
    for outcome in ("failed", "refused", "dropped", "dry_run", "left", "held_back"):
        await audit.add(line(1, outcome))
    assert not audit.was_delivered("a", f"{1:032x}")


async def test_a_trail_that_cannot_be_written_costs_lines_and_no_action(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "audit.jsonl"
    audit = Audit(path, 1 << 16)
    audit.open()
    path.unlink()
    path.mkdir()
    with caplog.at_level(logging.WARNING):
        for n in range(5):
            await audit.add(line(n))
    assert audit.n_lines == 0 and audit.was_delivered("a", f"{4:032x}")
    assert len([r for r in caplog.records if "audit_path" in r.message]) == 1


@pytest.mark.parametrize("kind", ["directory", "link", "under a file"])
async def test_a_trail_that_is_no_file_of_ours_is_refused_at_start(
    tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "audit.jsonl"
    if kind == "directory":
        path.mkdir()
    elif kind == "link":
        (tmp_path / "elsewhere").write_text("")
        path.symlink_to(tmp_path / "elsewhere")
    else:
        path.write_text("")
        path = path / "below"
    with pytest.raises(ConfigError, match=r"respond\.audit_path"):
        Audit(path, 1 << 16).open()


# ---------------------------------------------------------------- before start


@pytest.mark.parametrize(
    ("action", "words"),
    [
        ("{name: a}", "none of webhook, kafka, alertmanager"),
        ("{name: a, kafka: {topic: t}, webhook: {url: 'https://h'}}", "webhook and kafka"),
        ("{name: 'a b', kafka: {topic: t}}", "letters, digits"),
        ("{name: a, webhook: {}}", "one of url, url_file"),
        ("{name: a, webhook: {url: 'h'}}", "not an http"),
        ("{name: a, webhook: {url: 'https://h:x'}}", "port"),
        ("{name: a, webhook: {url: 'https://u:hush@h'}}", "user or password"),
        ("{name: a, webhook: {url: 'https://h', secret_file: /none}}", "secret_file is /none"),
        ("{name: a, alertmanager: {urls: []}}", "urls"),
        ("{name: a, alertmanager: {urls: ['http://h']}, on: [blind]}", "only fires"),
        ("{name: a, kafka: {topic: predictions}}", "which the agent reads"),
        ("{name: a, webhook: {url: 'https://h', headers: {'a b': c}}}", "header name"),
        ("{name: a, kafka: {topic: t}}, {name: a, kafka: {topic: t}}", "more than once"),
    ],
)
def test_a_mistake_is_one_line_before_anything_starts(
    tmp_path: Path, action: str, words: str
) -> None:
    path = tmp_path / "inferometer.yaml"
    path.write_text(f"kafka: {{topics: [predictions]}}\nrespond: {{actions: [{action}]}}\n")
    with pytest.raises(ConfigError) as raised:
        check(load_config(path, {}), {})
    message = str(raised.value)
    assert words in message and "\n" not in message and "hush" not in message


def test_a_secret_that_is_too_short_is_said_by_check(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("short")
    path = tmp_path / "inferometer.yaml"
    path.write_text(
        "kafka: {topics: [p]}\n"
        f"respond: {{actions: [{{name: a, webhook: {{url: 'https://h', secret_file: {secret}}}}}]}}\n"
    )
    with pytest.raises(ConfigError, match=r"actions\[0\]\.webhook\.secret_file.*5 bytes"):
        check(load_config(path, {}), {})
    secret.write_text("long enough to be a secret of 24 bytes")
    assert secret in check(load_config(path, {}), {})

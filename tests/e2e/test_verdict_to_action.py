"""Kafka -> agent -> verdict -> webhook, Alertmanager, topic, log events and metrics: one broken feed, end to end."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest
from confluent_kafka import Consumer

from agent.demo.broker import EmbeddedBroker
from agent.respond.signing import read_keys, signature
from tests.support.agent_process import AgentProcess
from tests.support.alertmanager_real import Alertmanager
from tests.support.http_receiver import HttpReceiver, Reply
from tests.support.otlp_points import attributes_of
from tests.support.otlp_receiver import OtlpReceiver
from tests.support.produce import produce
from tests.support.wait import eventually

WIDTH_S = 10
ROWS = 1500
START_MS = 1_767_225_600_000


def events(first: int, last: int, *, broken: bool = False) -> list[bytes]:
    """`ROWS` events in each window `first` to `last - 1`; broken: a feature is null."""
    rnd = random.Random(first)
    values = []
    for i in range(first * ROWS, last * ROWS):
        at_ms = START_MS + i * WIDTH_S * 1000 // ROWS
        features = {
            "distance": None if broken else round(rnd.lognormvariate(6, 0.5), 2),
            "dep_hour": rnd.randrange(24),
            "carrier": rnd.choice(["AA", "BB", "CC"]),
        }
        event = {
            "ts": at_ms,
            "model": "flight-delay",
            "version": "7",
            "features": features,
            "prediction": {"score": rnd.random()},
        }
        values.append(orjson.dumps(event))
    return values


pytestmark = pytest.mark.timeout(480)


@pytest.fixture(scope="module", autouse=True)
def kernels() -> None:
    """Compiled once: what is waited for below is the agent alone."""
    warm = [sys.executable, "-m", "agent", "warmup"]
    subprocess.run(warm, check=True, capture_output=True, timeout=420)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, kernels: None) -> Path:
    folder = tmp_path_factory.mktemp("reference")
    data = folder / "january.jsonl"
    data.write_bytes(b"\n".join(events(0, 30)))
    path = folder / "ref.profile"
    build = ["profile", "build", str(data), "-o", str(path), "--window", str(WIDTH_S)]
    command = [sys.executable, "-m", "agent", *build]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return path


def config(broker: EmbeddedBroker, receiver: OtlpReceiver, reference: Path) -> dict[str, Any]:
    return {
        "kafka": {"bootstrap_servers": [broker.bootstrap], "topics": ["inference"]},
        "windows": {"width_s": WIDTH_S, "out_of_orderness_s": 0},
        "judge": {"baseline_file": str(reference)},
        "sources": [{"name": "weather", "features": ["distance"]}],
        "export": {"otlp": {"endpoint": receiver.grpc_endpoint}},
    }


async def test_a_feed_that_turns_null_is_one_alarm_that_everybody_hears_of_once(
    embedded_kafka: EmbeddedBroker,
    otlp_receiver: OtlpReceiver,
    alertmanager: Alertmanager,
    reference: Path,
    tmp_path: Path,
) -> None:
    for topic in ("inference", "verdicts"):
        embedded_kafka.create_topic(topic, partitions=1)
    secret = tmp_path / "secret"
    secret.write_text("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYqrTwjUPD8ILPZIo2La")
    audit = tmp_path / "audit.jsonl"
    async with HttpReceiver() as hook:
        settings = config(embedded_kafka, otlp_receiver, reference) | {
            "respond": {
                "audit_path": str(audit),
                "source": "/inferometer/test",
                "actions": [
                    {
                        "name": "rollback",
                        "webhook": {"url": f"{hook.url}/hook", "secret_file": str(secret)},
                    },
                    {"name": "topic", "kafka": {"topic": "verdicts"}},
                    {"name": "oncall", "alertmanager": {"urls": [alertmanager.url]}},
                    {"name": "tried", "webhook": {"url": hook.url}, "dry_run": True},
                ],
            }
        }
        with AgentProcess(tmp_path, settings) as agent:
            await asyncio.to_thread(agent.wait_ready)
            produce(embedded_kafka.bootstrap, "inference", events(40, 44))
            await asyncio.to_thread(agent.wait_rows, 4 * ROWS)
            produce(embedded_kafka.bootstrap, "inference", events(44, 48, broken=True))
            await eventually(lambda: hook.heard, timeout_s=30)
            await eventually(lambda: alertmanager.alerts(model="flight-delay"))
            state = await asyncio.to_thread(agent.state)
            assert [a["name"] for a in state["actions"]] == ["rollback", "topic", "oncall", "tried"]
            assert state["verdicts"][0]["state"] == "firing"
            assert await asyncio.to_thread(agent.stop) == 0
        firing = [h for h in hook.heard if orjson.loads(h.body)["data"]["state"] == "firing"]
    assert len(firing) == len({h.headers["webhook-id"] for h in firing}) == 1, "one alarm"
    (heard,) = firing
    headers, body = heard.headers, orjson.loads(heard.body)
    keys = read_keys(str(secret), "secret")
    assert headers["webhook-signature"] == signature(
        headers["webhook-id"], int(headers["webhook-timestamp"]), heard.body, keys
    )
    assert body["type"] == "inference.verdict.firing"
    assert body["source"] == "/inferometer/test" and body["subject"] == "flight-delay/7"
    causes = body["data"]["attribution"]
    assert body["data"]["source"] == causes[0]["source"] == "weather", "the feed comes first"
    assert "distance" in [cause["feature"] for cause in causes]
    record = read_one(embedded_kafka, "verdicts")
    assert record == (b"flight-delay", body)
    (alert,) = alertmanager.alerts()
    assert alert["labels"]["source"] == "weather"
    lines = [orjson.loads(line) for line in audit.read_bytes().splitlines()]
    of_alarm = {(line["action"], line["outcome"]) for line in lines if line["state"] == "firing"}
    assert of_alarm == {
        ("rollback", "delivered"),
        ("topic", "delivered"),
        ("oncall", "delivered"),
        ("tried", "dry_run"),
    }
    assert audit.stat().st_mode & 0o777 == 0o600
    told = [r for r in otlp_receiver.log_records() if r.event_name == "inference.verdict"]
    fired = [
        a
        for a in (attributes_of(r.attributes) for r in told)
        if a["inference.verdict.state"] == "firing"
    ]
    assert [a["log.record.uid"] for a in fired] == [headers["webhook-id"]]
    status = otlp_receiver.points("inference.verdict.status").latest()
    assert any(p.value == 1 and p.attributes["inference.verdict.state"] == "firing" for p in status)
    transitions = otlp_receiver.sums("inference.verdict.transitions").latest()
    assert (
        sum(p.value for p in transitions if p.attributes["inference.verdict.state"] == "firing")
        == 1
    )
    missing = otlp_receiver.gauges("inference.drift.missing").latest()
    worst = max(missing, key=lambda p: p.value)
    assert worst.attributes["inference.feature.name"] == "distance" and worst.value == 1.0
    assert str(secret.read_text()) not in agent.log


@pytest.mark.timeout(240)  # two sessions of members that were killed run out meanwhile
async def test_a_crash_before_the_webhook_took_it_tells_it_again_under_the_same_id_and_acts_once(
    embedded_kafka: EmbeddedBroker,
    otlp_receiver: OtlpReceiver,
    reference: Path,
    tmp_path: Path,
) -> None:
    """Volume mode: killed while the receiver refuses, restarted, then stopped and started once more."""
    embedded_kafka.create_topic("inference", partitions=1)
    audit = tmp_path / "audit.jsonl"
    async with HttpReceiver(then=Reply(503)) as hook:
        action = {"name": "a", "webhook": {"url": hook.url}, "on": ["firing"], "retry_max_s": 1.0}
        settings = config(embedded_kafka, otlp_receiver, reference)
        settings["kafka"]["session_timeout_s"] = 6.0
        settings |= {
            "delivery": {
                "mode": "volume",
                "volume_path": str(tmp_path / "volume"),
                "drain_timeout_s": 4.0,
            },
            "respond": {"audit_path": str(audit), "actions": [action]},
        }
        with AgentProcess(tmp_path, settings) as agent:
            await asyncio.to_thread(agent.wait_ready)
            produce(embedded_kafka.bootstrap, "inference", events(40, 44))
            produce(embedded_kafka.bootstrap, "inference", events(44, 48, broken=True))
            await eventually(lambda: hook.heard, timeout_s=40)
            assert agent.process is not None
            agent.process.kill()
        tried = {h.headers["webhook-id"] for h in hook.heard}
        n_tried = len(hook.heard)
        hook.then = Reply(200)
        with AgentProcess(tmp_path, settings) as agent:
            await eventually(lambda: len(hook.heard) > n_tried, timeout_s=120)
            await asyncio.to_thread(agent.wait_ready)
            state = await asyncio.to_thread(agent.state)
            assert state["verdicts"][0]["state"] == "firing", "judged again from the journal"
            assert await asyncio.to_thread(agent.stop) == 0
        n_delivered = len(hook.heard)
        with AgentProcess(tmp_path, settings) as agent:
            await asyncio.to_thread(agent.wait_ready)
            await eventually(lambda: "verdicts" in agent.state())
            assert await asyncio.to_thread(agent.stop) == 0
        assert {h.headers["webhook-id"] for h in hook.heard} == tried and len(tried) == 1
        assert len(hook.heard) == n_delivered == n_tried + 1, "taken once, and never again"
    outcomes = [orjson.loads(each)["outcome"] for each in audit.read_bytes().splitlines()]
    assert outcomes.count("delivered") == 1
    assert set(outcomes) <= {"delivered", "repeated"}


def read_one(broker: EmbeddedBroker, topic: str) -> tuple[bytes | None, Any]:
    """Key and document of the topic's first record, and the header that says what it is."""
    consumer = Consumer(
        {
            "bootstrap.servers": broker.bootstrap,
            "group.id": "reader",
            "auto.offset.reset": "earliest",
            "log_level": 0,
        }
    )
    try:
        consumer.subscribe([topic])
        for _ in range(100):
            message = consumer.poll(0.2)
            if message is not None and message.error() is None:
                headers = dict(message.headers() or [])
                assert headers["content-type"].startswith(b"application/cloudevents+json")
                return message.key(), orjson.loads(message.value())
        raise AssertionError("no record")
    finally:
        consumer.close()

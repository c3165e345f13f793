"""Stopping: one signal drains under a deadline, a second one exits at once."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from agent.demo.broker import EmbeddedBroker
from tests.support.agent_process import AgentProcess
from tests.support.otlp_answers import ACCEPT, SILENCE
from tests.support.otlp_receiver import OtlpReceiver
from tests.support.produce import produce
from tests.support.sent import Sent, assert_arrived
from tests.support.wait import eventually_sync


def config(broker: EmbeddedBroker, receiver: OtlpReceiver) -> dict[str, Any]:
    broker.create_topic("inference", partitions=1)
    return {
        "kafka": {"bootstrap_servers": [broker.bootstrap], "topics": ["inference"]},
        "export": {"otlp": {"endpoint": receiver.grpc_endpoint}},
    }


def test_a_drain_that_cannot_end_is_cut_off_by_its_deadline(
    embedded_kafka: EmbeddedBroker, otlp_receiver: OtlpReceiver, tmp_path: Path
) -> None:
    settings = config(embedded_kafka, otlp_receiver)
    settings["delivery"] = {"drain_timeout_s": 3.0}
    otlp_receiver.always(SILENCE)
    sent = Sent(500, seed=41)
    produce(embedded_kafka.bootstrap, "inference", sent.values)
    with AgentProcess(tmp_path, settings) as agent:
        agent.wait_rows(sent.total)
        began = time.monotonic()
        assert agent.stop(timeout_s=15) == 0
        assert time.monotonic() - began < 8
        assert "stopped after" in agent.log


def test_a_request_that_hangs_does_not_keep_a_healthy_collector_from_the_last_export(
    embedded_kafka: EmbeddedBroker, otlp_receiver: OtlpReceiver, tmp_path: Path
) -> None:
    settings = config(embedded_kafka, otlp_receiver)
    otlp_receiver.always(SILENCE)
    sent = Sent(500, seed=43)
    produce(embedded_kafka.bootstrap, "inference", sent.values)
    with AgentProcess(tmp_path, settings) as agent:
        agent.wait_rows(sent.total)
        eventually_sync(lambda: otlp_receiver.requests)  # one is in flight, and hangs
        otlp_receiver.always(ACCEPT)
        began = time.monotonic()
        assert agent.stop(timeout_s=15) == 0
        assert time.monotonic() - began < 5
    assert_arrived(otlp_receiver.points(), sent)


def test_a_second_signal_exits_at_once(
    embedded_kafka: EmbeddedBroker, otlp_receiver: OtlpReceiver, tmp_path: Path
) -> None:
    settings = config(embedded_kafka, otlp_receiver)
    otlp_receiver.always(SILENCE)
    sent = Sent(500, seed=42)
    produce(embedded_kafka.bootstrap, "inference", sent.values)
    with AgentProcess(tmp_path, settings) as agent:
        agent.wait_rows(sent.total)
        assert agent.process is not None
        os.kill(agent.process.pid, signal.SIGTERM)
        eventually_sync(lambda: "draining" in agent.log)
        began = time.monotonic()
        os.kill(agent.process.pid, signal.SIGTERM)
        eventually_sync(lambda: agent.process is not None and not agent.process.running)
        assert time.monotonic() - began < 2
        assert agent.process.terminate() == 1
        assert "stopped after" not in agent.log


def test_readiness_waits_for_the_group_and_liveness_does_not(tmp_path: Path) -> None:
    nowhere = {"bootstrap_servers": ["127.0.0.1:1"], "topics": ["inference"]}
    with AgentProcess(tmp_path, {"kafka": nowhere}) as agent:
        assert agent.get("/livez")[0] == 200
        assert agent.get("/readyz")[0] == 503
        eventually_sync(lambda: b"not yet a member" in agent.get("/readyz")[1], timeout_s=60)
        assert agent.stop() == 0

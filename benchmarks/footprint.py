"""How soon is the agent ready, and how much memory does it take?

Runs `inferometer run` as a child process on the embedded broker: once with an empty kernel cache,
then warm; measures the time to live and to ready, resident memory when idle, and under load (50
models x 20 features, three windows open or kept). Optimises: start-up time, resident memory.

    python -m benchmarks.footprint [--json] [--events N]
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import orjson

from agent.demo.broker import EmbeddedBroker
from benchmarks.machine import describe
from tests.support.agent_process import AgentProcess
from tests.support.otlp_receiver import OtlpReceiver
from tests.support.produce import produce
from tests.support.wait import eventually_sync

MODELS, FEATURES = 50, 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--events", type=int, default=20_000)
    options = parser.parse_args()
    figures = measure(options.events)
    if options.json:
        print(orjson.dumps({"machine": describe(), **figures}).decode())
        return
    for name, value in figures.items():
        print(f"{name:28} {value}")


def measure(n_events: int) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        environment = {"INFEROMETER_KERNEL_CACHE": str(Path(folder) / "kernels")}
        for name in ("cold", "warm"):
            with EmbeddedBroker() as broker:
                broker.create_topic("inference", partitions=4)
                figures |= _start(name, broker, Path(folder), environment)
        with EmbeddedBroker() as broker, OtlpReceiver() as receiver:
            broker.create_topic("inference", partitions=4)
            figures |= _load(broker, receiver, Path(folder), environment, n_events)
    return figures


def _start(
    name: str, broker: EmbeddedBroker, folder: Path, environment: dict[str, str]
) -> dict[str, Any]:
    config = {"kafka": {"bootstrap_servers": [broker.bootstrap], "topics": ["inference"]}}
    agent = AgentProcess(folder, config, environment=environment)
    began = time.monotonic()
    with agent:
        live_s = time.monotonic() - began
        agent.wait_ready()
        ready_s = time.monotonic() - began
        time.sleep(1.0)
        figures = {
            f"{name}_live_s": round(live_s, 2),
            f"{name}_ready_s": round(ready_s, 2),
            f"{name}_idle_rss_mib": rss_mib(agent),
        }
        agent.stop()
    return figures


def _load(
    broker: EmbeddedBroker,
    receiver: OtlpReceiver,
    folder: Path,
    environment: dict[str, str],
    n_events: int,
) -> dict[str, Any]:
    config = {
        "kafka": {"bootstrap_servers": [broker.bootstrap], "topics": ["inference"]},
        "export": {"otlp": {"endpoint": receiver.grpc_endpoint}, "interval_s": 10.0},
        "delivery": {"cut_interval_s": 1.0},
    }
    with AgentProcess(folder, config, environment=environment) as agent:
        agent.wait_ready()
        began = time.monotonic()
        produce(broker.bootstrap, "inference", _events(0, n_events), partitions=4)
        _wait_exported(receiver, n_events)
        return {
            "loaded_rss_mib": rss_mib(agent),
            "loaded_streams": MODELS,
            "loaded_columns": MODELS * (FEATURES + 2),
            "events": n_events,
            "wall_s": round(time.monotonic() - began, 2),
            "sketch_memory_mib": round(agent.state()["budget"]["memory_bytes"]["used"] / 2**20, 1),
        }


def _events(first: int, n: int) -> list[bytes]:
    rnd = random.Random(first)
    at_ms = int(time.time() * 1000) - 200_000
    return [
        orjson.dumps(
            {
                "id": f"r-{i}",
                "ts": at_ms + (i - first) * 200_000 // n,
                "model": f"model-{i % MODELS}",
                "version": "1",
                "features": {
                    f"f{j}": rnd.gauss(0, 1) if j < 16 else f"v{rnd.randrange(50)}"
                    for j in range(FEATURES)
                },
                "prediction": rnd.random(),
                "latency_ms": rnd.random() * 40,
            }
        )
        for i in range(first, first + n)
    ]


def rss_mib(agent: AgentProcess) -> float:
    assert agent.process is not None
    pages = int(Path(f"/proc/{agent.process.pid}/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)


def _wait_exported(receiver: OtlpReceiver, rows: int) -> None:
    """Until an accepted export holds the rows: asking the agent's pages would be part of the load."""

    def exported() -> bool:
        with_rows = receiver.points("inferometer.rows")
        receiver.clear()
        return any(point.value >= rows for point in with_rows)

    eventually_sync(exported, timeout_s=60, every_s=0.5)


if __name__ == "__main__":
    main()

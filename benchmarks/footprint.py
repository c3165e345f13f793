"""How soon is the agent ready, and how much memory does it take?

Runs `inferometer run` as a child process on the embedded broker: once with an empty kernel cache, then
with the cache it filled. Measures the time to live and to ready, and resident memory: idle, and loaded
with 50 models x 20 features in three open windows (16 numbers and 4 texts, besides a prediction and a
latency), exporting over OTLP. Optimises: start-up time, resident memory.

    python -m benchmarks.footprint [--json] [--events N]
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from agent.demo.broker import EmbeddedBroker
from benchmarks.frame import Json, Result, progress, rss_bytes, run
from benchmarks.process import peak_rss_bytes
from tests.support.agent_process import AgentProcess
from tests.support.otlp_receiver import OtlpReceiver
from tests.support.produce import produce
from tests.support.wait import eventually_sync

MODELS, FEATURES, WINDOWS = 50, 20, 3
WINDOW_MS = 60_000
READY_BAR_S, IDLE_BAR_MIB, LOADED_BAR_MIB = 2.0, 130.0, 256.0
#: The embedded broker keeps 5 MiB of a partition.
PARTITIONS = 32
MIB = 2**20

#: What a Python process with numba takes before the agent does anything: printed by a child.
_FLOOR = """
import os
def rss():
    print(int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
rss()
import numpy
rss()
import numba
rss()
@numba.njit("int64(int64)")
def one(x):
    return x + 1
rss()
"""
_FLOOR_NAMES = ("Python", "numpy imported", "numba imported", "one function compiled")


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--events", type=int, default=100_000, help="events of the load")


def measure(options: argparse.Namespace, result: Result) -> None:
    n_events = 2_000 if options.tiny else options.events
    n_warm = 1 if options.tiny else options.passes or 5
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment = {"INFEROMETER_KERNEL_CACHE": str(folder / "kernels")}
        if options.tiny:
            environment = {}  # the user's own cache: compiling takes long
        starts = result.table(
            "Start",
            *("kernel cache", "pages answer, s", "ready, s", "idle RSS, MiB"),
            note=f"Medians of {n_warm} warm starts. Idle: a second after ready, no partition has records.",
        )
        if not options.tiny:
            progress("cold start")
            starts.add("empty, no export", *_start(folder, environment, None))
        progress("warm starts")
        found = [_start(folder, environment, None) for _ in range(n_warm)]
        plain = [statistics.median(column) for column in zip(*found, strict=True)]
        starts.add("warm, no export", *plain)
        with OtlpReceiver() as receiver:
            found = [_start(folder, environment, receiver) for _ in range(n_warm)]
            idle = [statistics.median(column) for column in zip(*found, strict=True)]
            starts.add("warm, OTLP over gRPC", *idle)
            progress("load")
            load = _load(folder, environment, receiver, n_events)
        floor = result.table(
            "What a process with numba would take, for comparison", "process", "RSS, MiB"
        )
        for name, size in zip(_FLOOR_NAMES, _floor(), strict=True):
            floor.add(name, size / MIB)
    _report(result, plain, idle, load)


def _report(result: Result, plain: list[float], idle: list[float], load: Json) -> None:
    table = result.table(
        f"{MODELS} models x {FEATURES} features x {WINDOWS} windows",
        "what",
        "value",
        note=f"{load['events']:,} events in {load['wall_s']:.1f} s; {load['open_windows']} windows open when measured.",
    )
    table.add("resident, MiB", load["rss_mib"])
    table.add("resident at its peak, MiB", load["peak_mib"])
    table.add("more than idle, MiB", load["rss_mib"] - idle[2])
    table.add("sketches of the base, MiB", load["sketch_bytes"] / MIB)
    table.add("sketches of the base, KiB a stream", load["sketch_bytes"] / MODELS / 1024)
    columns = MODELS * (FEATURES + 2)
    table.add(
        "sketches of the base, KiB a column (total and windows)",
        load["sketch_bytes"] / columns / 1024,
    )
    result.figures |= {"idle": plain, "idle_with_export": idle, "load": load}
    result.at_most("Ready from cold, warmed kernel cache", idle[1], READY_BAR_S, "s")
    result.at_most("Idle RSS, no export", plain[2], IDLE_BAR_MIB, "MiB")
    result.at_most("Idle RSS, exporting over OTLP", idle[2], IDLE_BAR_MIB, "MiB")
    result.at_most(
        f"RSS with {MODELS} models x {FEATURES} features x {WINDOWS} windows",
        load["rss_mib"],
        LOADED_BAR_MIB,
        "MiB",
    )


@contextmanager
def _agent(
    folder: Path, environment: dict[str, str], receiver: OtlpReceiver | None, **config: Any
) -> Iterator[tuple[AgentProcess, EmbeddedBroker]]:
    """An agent on a broker of its own, both gone afterwards. Not started yet."""
    with EmbeddedBroker() as broker:
        broker.create_topic("inference", partitions=PARTITIONS)
        document: Json = {
            "kafka": {"bootstrap_servers": [broker.bootstrap], "topics": ["inference"]},
            **config,
        }
        if receiver is not None:
            document["export"] = {"otlp": {"endpoint": receiver.grpc_endpoint}, "interval_s": 10.0}
        agent = AgentProcess(folder, document, environment=environment)
        try:
            yield agent, broker
        finally:
            if agent.process is not None:
                agent.process.kill()


def _start(
    folder: Path, environment: dict[str, str], receiver: OtlpReceiver | None
) -> tuple[float, float, float]:
    """Seconds until its pages answer, until it is ready; resident MiB a second later."""
    with _agent(folder, environment, receiver) as (agent, _):
        began = time.monotonic()
        agent.start()
        live_s = time.monotonic() - began
        _wait_ready(agent)
        ready_s = time.monotonic() - began
        time.sleep(1.0)
        rss = rss_bytes(_pid(agent)) / MIB
        agent.stop()
    return live_s, ready_s, rss


def _wait_ready(agent: AgentProcess) -> None:
    """Compiling all kernels takes a minute and more on a busy machine. Raises RuntimeError with the log's end."""
    try:
        agent.wait_ready(timeout_s=300.0)
    except (AssertionError, OSError) as error:
        end = agent.log[-1500:]
        raise RuntimeError(f"the agent is not ready: {error}; its log ends {end}") from None


def _load(folder: Path, environment: dict[str, str], receiver: OtlpReceiver, n_events: int) -> Json:
    open_for = {"out_of_orderness_s": WINDOWS * WINDOW_MS / 1000}  # no window seals meanwhile
    more = {"delivery": {"cut_interval_s": 1.0}, "windows": open_for}
    with _agent(folder, environment, receiver, **more) as (agent, broker):
        agent.start()
        _wait_ready(agent)
        began = time.monotonic()
        for low in range(0, n_events, 20_000):
            high = min(low + 20_000, n_events)
            produce(
                broker.bootstrap, "inference", _events(low, high, n_events), partitions=PARTITIONS
            )
        _wait_exported(receiver, n_events)
        wall_s = time.monotonic() - began
        state = agent.state()
        return {
            "rss_mib": rss_bytes(_pid(agent)) / MIB,
            "peak_mib": peak_rss_bytes(_pid(agent)) / MIB,
            "sketch_bytes": state["budget"]["memory_bytes"]["used"],
            "open_windows": len(state["windows"]["open"]),
            "events": n_events,
            "wall_s": wall_s,
        }


def _events(low: int, high: int, n_events: int) -> list[bytes]:
    """Events low..high-1 of n_events, evenly over the last whole windows."""
    rng = random.Random(low)
    span_ms = WINDOWS * WINDOW_MS
    start_ms = int(time.time() * 1000) // WINDOW_MS * WINDOW_MS - span_ms
    return [
        orjson.dumps(
            {
                "id": f"r-{i}",
                "ts": start_ms + i * span_ms // n_events,
                "model": f"model-{i % MODELS}",
                "version": "1",
                "features": {
                    f"f{j}": rng.gauss(0, 1) if j < 16 else f"v{rng.randrange(50)}"
                    for j in range(FEATURES)
                },
                "prediction": rng.random(),
                "latency_ms": rng.random() * 40,
            }
        )
        for i in range(low, high)
    ]


def _wait_exported(receiver: OtlpReceiver, rows: int) -> None:
    """Until accepted exports hold the rows: asking the agent's pages would be part of the load."""
    latest: dict[Any, float] = {}  # by decoder

    def exported() -> bool:
        for point in receiver.points("inferometer.rows"):
            latest[point.series] = point.value
        receiver.clear()
        return sum(latest.values()) >= rows

    eventually_sync(exported, timeout_s=120, every_s=0.5)


def _floor() -> list[int]:
    """Resident bytes after each step of _FLOOR."""
    done = subprocess.run(
        [sys.executable, "-c", _FLOOR],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )
    return [int(line) for line in done.stdout.split()]


def _pid(agent: AgentProcess) -> int:
    assert agent.process is not None
    return agent.process.pid


if __name__ == "__main__":
    run(__doc__, measure, options)

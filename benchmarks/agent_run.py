"""The real agent reads a filled topic from the start, exporting to a receiver on loopback.

`read_topic` starts `inferometer run` as a process of its own, waits until an accepted export holds
every row, and compares what was exported with what was produced: rows by model, distributions,
distinct values.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.config import Delivery, Kafka
from benchmarks.agent_answer import Answers
from benchmarks.broker import Topic
from benchmarks.process import Watch, cpu_by_thread, peak_rss_bytes
from tests.support.agent_process import AgentProcess, merged
from tests.support.kafka_real import unique
from tests.support.otlp_points import read_points
from tests.support.otlp_receiver import ACCEPT, Answer, OtlpReceiver, Received
from tests.support.wait import eventually_sync

Json = dict[str, Any]

#: The product's own settings where the tests' are quicker. Exports ten times as often as by default,
#: so that a run of seconds holds several.
SETTINGS: Json = {
    "delivery": {
        "cut_interval_s": Delivery().cut_interval_s,
        "drain_timeout_s": Delivery().drain_timeout_s,
    },
    "export": {"interval_s": 1.0, "resend_interval_s": 60.0},
    "kafka": {
        "auto_offset_reset": "earliest",
        "session_timeout_s": Kafka().session_timeout_s,
        "heartbeat_interval_s": Kafka().heartbeat_interval_s,
        "fetch_max_wait_s": Kafka().fetch_max_wait_s,
    },
}
#: Written by the agent just before it joins its group: what went before is start-up.
_WARM = "kernels warm after"


@dataclass
class Exported:
    """Latest value of every self-metric series and row count, and all loop lags, as accepted."""

    by_tier: dict[str, float] = field(default_factory=dict)
    by_model: dict[str, float] = field(default_factory=dict)
    dropped: dict[str, float] = field(default_factory=dict)
    lag: dict[str, float] = field(default_factory=dict)
    loop_lags_s: list[float] = field(default_factory=list)
    series: set[Any] = field(default_factory=set)
    answers: Answers = field(default_factory=Answers)
    exports: int = 0

    @property
    def rows(self) -> int:
        return int(sum(self.by_tier.values()))


class Reader:
    """Keeps what a benchmark needs of each export, and not the export."""

    def __init__(self, receiver: OtlpReceiver) -> None:
        self.seen = Exported()
        self._receiver = receiver
        self._lock = threading.Lock()
        receiver.behave(self._take)

    def leave(self) -> None:
        """The receiver's port refuses connections from here on."""
        self._receiver.stop()

    def come_back(self) -> None:
        self._receiver.start()

    def _take(self, request: Received) -> Answer:
        if request.signal == "metrics":
            with self._lock:
                self._read(request)
        # What came before is read already; an hour of exports would fill the memory.
        del self._receiver.requests[:]
        return ACCEPT

    def _read(self, request: Received) -> None:
        seen = self.seen
        seen.exports += 1
        for point in read_points(request.message):
            at = point.attributes
            match point.name:
                case "inferometer.rows":
                    seen.by_tier[at["inferometer.tier"]] = point.value
                case "inference.rows":
                    seen.by_model[at["inference.model.name"]] = point.value
                case "inferometer.dropped":
                    seen.dropped[at["inferometer.reason"]] = point.value
                case "inferometer.loop.lag":
                    seen.loop_lags_s.append(point.value)
                case "messaging.kafka.consumer.lag":
                    seen.lag[at["messaging.destination.partition.id"]] = point.value
            seen.answers.take(point.name, at, point.data)
            seen.series.add((point.name, tuple(sorted(at.items()))))


@contextmanager
def agent_on(
    bootstrap: str, topics: list[str], config: Json | None = None
) -> Iterator[tuple[AgentProcess, Reader]]:
    """An agent in a new group that reads `topics` from the start; killed at the end if it still runs."""
    with tempfile.TemporaryDirectory() as folder, OtlpReceiver() as receiver:
        reader = Reader(receiver)
        settings = merged(SETTINGS, config or {})
        settings = merged(
            settings,
            {
                "kafka": {
                    "bootstrap_servers": [bootstrap],
                    "topics": topics,
                    "group_id": unique("benchmark"),
                },
                "export": {"otlp": {"endpoint": receiver.grpc_endpoint}},
            },
        )
        with AgentProcess(Path(folder), settings) as agent:
            yield agent, reader


def read_topic(
    bootstrap: str,
    topic: Topic,
    config: Json | None = None,
    *,
    timeout_s: float = 300.0,
    during: Callable[[int], None] | None = None,
) -> Json:
    """One pass over the whole topic. `during` is called with the process id when reading begins.

    Processor time counts from just before the agent joins its group to the receiver's acceptance of
    the last row; the rate is over the time in which the agent was busy. Raises RuntimeError when the
    counts are not what was produced.
    """
    with agent_on(bootstrap, [topic.name], config) as (agent, reader):
        assert agent.process is not None
        pid = agent.process.pid
        eventually_sync(lambda: _WARM in agent.log, timeout_s=120, every_s=0.002)
        with Watch(pid) as watch:
            began, threads_began = watch.take(), cpu_by_thread(pid)
            if during is not None:
                during(pid)
            deadline = time.monotonic() + timeout_s
            while reader.seen.rows < topic.n_events:
                if time.monotonic() > deadline or not agent.process.running:
                    raise RuntimeError(
                        f"{reader.seen.rows:,} of {topic.n_events:,} rows exported:\n"
                        + agent.log[-2000:]
                    )
                time.sleep(0.005)
            ended, threads_ended = watch.take(), cpu_by_thread(pid)
        first = next(
            (s.at_s for s in watch.samples if s.cpu_s - began.cpu_s > 0.1 * (s.at_s - began.at_s)),
            began.at_s,
        )
        busy_s = watch.busy_until_s(began.at_s) - first
        seen = reader.seen
        threads_us = {
            name: (used_s - threads_began.get(name, 0.0)) / topic.n_events * 1e6
            for name, used_s in threads_ended.items()
        }
        # Threads without a name come and go: theirs is what is left.
        cpu_us = (ended.cpu_s - began.cpu_s) / topic.n_events * 1e6
        named_us = sum(us for name, us in threads_us.items() if name != "other")
        threads_us["other"] = max(0.0, cpu_us - named_us)
        figures = {
            "events": topic.n_events,
            "cpu_us_per_event": cpu_us,
            "events_per_s": topic.n_events / busy_s,
            "events_per_s_to_export": topic.n_events / (ended.at_s - began.at_s),
            "cores": (ended.cpu_s - began.cpu_s) / (ended.at_s - began.at_s),
            "rss_mib": ended.rss_bytes / 2**20,
            "peak_rss_mib": peak_rss_bytes(pid) / 2**20,
            "loop_lag_worst_ms": max(seen.loop_lags_s, default=0.0) * 1e3,
            "exports": seen.exports,
            "series": len(seen.series),
            "threads_us": threads_us,
            "tiers": {tier: int(n) for tier, n in seen.by_tier.items() if n},
        }
        _compare(seen, topic)
        agent.stop()
    return figures


def _compare(seen: Exported, topic: Topic) -> None:
    truth = topic.stream.truth(0, topic.n_events)
    dropped = {reason: n for reason, n in seen.dropped.items() if n}
    if seen.rows != truth.rows or dropped:
        raise RuntimeError(f"{seen.rows} rows of {truth.rows}, dropped {dropped}")
    if seen.by_model != truth.models:
        raise RuntimeError(f"rows by model are {seen.by_model}, produced were {truth.models}")
    wrong = seen.answers.differences(topic.stream, truth)
    if wrong:
        raise RuntimeError(f"exported wrongly: {'; '.join(wrong[:5])}")

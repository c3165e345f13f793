"""What does an event cost from a real Kafka topic to an exported metric, and how fast does it go?

A topic is filled beforehand with the reference event (lz4, four partitions); then the real agent
process reads it from the start and exports over OTLP to a receiver on loopback. Producer batches of
16 KB (Java's default) and of 1 MB. Rows by model are compared with what was produced. Optimises: CPU
of the agent for one event. Needs Java 17 and Maven.

    python -m benchmarks.pipeline [--json] [--events N] [--threads N]
    python -m benchmarks.pipeline --hours 1      instead: full rate for an hour (`soak.py`)
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

from benchmarks.agent_run import read_topic
from benchmarks.broker import BATCH_BYTES, Topic, fill, running_kafka
from benchmarks.events import TRACEPARENT
from benchmarks.frame import Result, progress, run
from benchmarks.soak import BROKER, soak
from benchmarks.stream import Stream

Json = dict[str, Any]

PARTITIONS = 4
EVENTS = 4_000_000
PASSES = 3
#: The events of a topic lie in this much event time, so that three windows of a minute are live.
SPAN_MS = 150_000
CPU_BAR_US = 1.0
LAG_BAR_MS = 20.0


def make_topic(
    broker: Any,
    name: str,
    n_events: int,
    batch: str,
    seed: int,
    headers: list[tuple[str, bytes]] | None = None,
    *,
    sessions: bool = False,
) -> Topic:
    """Create and fill a topic with events of the last minutes."""
    from_ms = int(time.time() * 1000) - SPAN_MS
    stream = Stream(seed, from_ms, SPAN_MS / n_events, sessions=sessions)
    broker.create_topic(name, PARTITIONS, {"retention.bytes": "-1", "retention.ms": "-1"})
    topic = Topic(name, PARTITIONS, n_events, batch, stream)
    fill(broker.bootstrap, topic, headers=headers)
    return topic


def measure(options: argparse.Namespace, result: Result) -> None:
    if options.hours:
        with running_kafka(BROKER) as broker:
            minutes = options.hours * 60
            soak(
                broker,
                minutes,
                result,
                seed=options.seed,
                threads=options.threads,
                plots=options.plots,
            )
        return
    n_events = 20_000 if options.tiny else options.events
    passes = 1 if options.tiny else options.passes or PASSES
    config: Json = {"runtime": {"kernel_threads": options.threads}} if options.threads else {}
    with running_kafka() as broker:
        topics = {
            f"{batch} batches": make_topic(broker, f"events-{at}", n_events, batch, options.seed)
            for at, batch in enumerate(BATCH_BYTES)
        }
        traced = "1 MB batches, trace context in headers"
        topics[traced] = make_topic(
            broker, "traced", n_events // 4, "1 MB", options.seed, [("traceparent", TRACEPARENT)]
        )
        found: dict[str, list[Json]] = {name: [] for name in topics}
        for at in range(passes):
            for name, topic in topics.items():
                progress(f"pass {at + 1} of {passes}: {name}")
                found[name].append(read_topic(broker.bootstrap, topic, config))
    medians = {name: _median(runs) for name, runs in found.items()}
    _report(result, medians, passes)
    passes_table = result.table("Every pass", "topic", "CPU us/event", "events/s", "peak MiB")
    for name, runs in found.items():
        for one in runs:
            passes_table.add(
                name, one["cpu_us_per_event"], one["events_per_s"], one["peak_rss_mib"]
            )


def _median(runs: list[Json]) -> Json:
    """The median of each figure, by thread too; those that are no number from the last run."""
    last = runs[-1]
    medians = {
        key: statistics.median(each[key] for each in runs) if isinstance(value, float) else value
        for key, value in last.items()
    }
    names = {name for each in runs for name in each["threads_us"]}
    medians["threads_us"] = {
        name: statistics.median(each["threads_us"].get(name, 0.0) for each in runs)
        for name in names
    }
    return medians


def _report(result: Result, medians: dict[str, Json], passes: int) -> None:
    _report_threads(result, medians)
    table = result.table(
        "Kafka to OTLP",
        *("topic", "events", "CPU us/event", "events/s", "cores", "RSS MiB", "peak MiB"),
        *("loop lag ms", "series"),
        note=f"medians of {passes} passes; loop lag: the worst of each run. Counts agree exactly.",
    )
    for name, one in medians.items():
        table.add(
            *(name, one["events"], one["cpu_us_per_event"], one["events_per_s"], one["cores"]),
            *(one["rss_mib"], one["peak_rss_mib"], one["loop_lag_worst_ms"], one["series"]),
        )
        result.notes.append(f"{name}: rows by decoder {one['tiers']}")
        if name.endswith("batches"):
            result.at_most(
                f"CPU of the agent, {name}", one["cpu_us_per_event"], CPU_BAR_US, "us/event"
            )
            result.at_most(f"loop lag, {name}", one["loop_lag_worst_ms"], LAG_BAR_MS, "ms")


def _report_threads(result: Result, medians: dict[str, Json]) -> None:
    """Where the processor time goes, by thread."""
    names = sorted({name for one in medians.values() for name in one["threads_us"]})
    names.sort(key=lambda name: -max(one["threads_us"].get(name, 0) for one in medians.values()))
    table = result.table(
        "CPU by thread, us/event",
        *("topic", *names),
        note="loop: fetching, checksums, delivery, the exporter's network; kernel: opening, decoding, "
        "sketching; fold: adding up, snapshots, encoding of exports; other: compression of exports.",
    )
    for topic, one in medians.items():
        table.add(topic, *(one["threads_us"].get(name, 0.0) for name in names))


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--events", type=int, default=EVENTS, help="in each topic")
    parser.add_argument(
        "--hours", type=float, default=0.0, help="full rate for so long; 0.05: 3 min"
    )
    parser.add_argument("--plots", type=Path, help="folder for the plot of --hours")
    parser.add_argument("--threads", type=int, default=0, help="kernel threads; 0: the default")


if __name__ == "__main__":
    run(__doc__, measure, _options)

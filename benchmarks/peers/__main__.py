"""How does the agent compare with other tools at the same job, from the same topic?

One topic on a real broker; the agent and every peer read it in turn, each as one process on the same
machine, in several passes. Rows per CPU second are compared, so that it does not matter how many
threads a tool uses; every answer is compared with what was produced. Optimises: CPU for one event.
Needs Java 17, Maven, and the peers' environments (`python -m benchmarks.peers.setup`).

    python -m benchmarks.peers [--json] [--events N] [--batch "16 KB"] [--only NAME ...]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.agent_run import read_topic
from benchmarks.broker import BATCH_BYTES, Topic, running_kafka
from benchmarks.frame import CannotRun, Result, progress, run
from benchmarks.peers.setup import python_of
from benchmarks.pipeline import make_topic
from benchmarks.stream import QUANTILES, Truth

Json = dict[str, Any]

ROOT = Path(__file__).resolve().parents[2]
EVENTS = 2_000_000
PASSES = 3
AGENT = "the agent"
#: The project's own environment.
OWN = ""
_TIMEOUT_S = 300.0


@dataclass(frozen=True)
class Peer:
    """`rows` are enough for some seconds; `answers`: it does the job, else it only reads."""

    name: str
    module: str
    environment: str
    rows: int
    what: str
    answers: bool = True


PEERS = (
    Peer(
        "whylogs, rows", "whylogs_rows", "whylogs", 20_000, "one profile, `profile.track` of a dict"
    ),
    Peer(
        "whylogs, documented row call",
        "whylogs_log",
        "whylogs",
        400,
        "`why.log(row)` of each dict, its profiles merged",
    ),
    Peer("whylogs, batches", "whylogs_batches", "whylogs", 300_000, "pandas frames of 5,000 rows"),
    Peer(
        "plain loop",
        "plain",
        "aiokafka",
        800_000,
        "aiokafka, orjson, numpy: log buckets, sets, counters",
    ),
    Peer(
        "confluent-kafka + datasketches",
        "confluent_datasketches",
        "datasketches",
        800_000,
        "orjson, KLL by column, HyperLogLog",
    ),
    Peer(
        "Quix Streams + datasketches",
        "quix",
        "quix",
        200_000,
        "its JSON and commits; KLL by column, HyperLogLog",
    ),
    Peer(
        "confluent-kafka, no decode",
        "ceiling_confluent",
        "datasketches",
        EVENTS,
        "values in hand, nothing read",
        False,
    ),
    Peer(
        "aiokafka, no decode",
        "ceiling_aiokafka",
        "aiokafka",
        EVENTS,
        "records in hand, nothing read",
        False,
    ),
    Peer(
        "the agent's consumer, no decode",
        "ceiling_raw",
        OWN,
        EVENTS,
        "batches in hand, checksums checked",
        False,
    ),
)
#: peer -> least ratio of rows per CPU second.
BARS = {
    "whylogs, batches": 15.0,
    "whylogs, rows": 300.0,
    "whylogs, documented row call": 300.0,
    "plain loop": 4.0,
}


def measure(options: argparse.Namespace, result: Result) -> None:
    peers = [peer for peer in PEERS if not options.only or peer.module in options.only]
    interpreters = {peer: _interpreter(peer) for peer in peers}
    n_events = 20_000 if options.tiny else options.events
    passes = 1 if options.tiny else options.passes or PASSES
    ours: list[Json] = []
    theirs: dict[Peer, list[Json]] = {peer: [] for peer in peers}
    with running_kafka() as broker:
        topic = make_topic(broker, "events", n_events, options.batch, options.seed, sessions=True)
        tools: list[Peer | None] = [None, *peers]  # None: the agent
        for at in range(passes):
            # Each pass begins a third further on: nobody is always the first, or behind the same one.
            first = at * len(tools) // 3 % len(tools)
            for peer in tools[first:] + tools[:first]:
                progress(f"pass {at + 1} of {passes}: {peer.name if peer else AGENT}")
                if peer is None:
                    ours.append(read_topic(broker.bootstrap, topic))
                    continue
                rows = min(peer.rows, 2_000 if options.tiny else n_events)
                found = run_peer(peer, interpreters[peer], broker.bootstrap, topic, rows)
                theirs[peer].append(found)
    _report(result, ours, theirs, options.batch, passes)


def _interpreter(peer: Peer) -> Path:
    if peer.environment == OWN:
        return Path(sys.executable)
    python = python_of(peer.environment)
    if python is None:
        raise CannotRun(
            f"{peer.name} has no environment; make it with: "
            f"python -m benchmarks.peers.setup {peer.environment}"
        )
    return python


def run_peer(peer: Peer, python: Path, bootstrap: str, topic: Topic, rows: int) -> Json:
    """One pass of one peer over the last `rows` events. Raises RuntimeError for a wrong answer."""
    rows -= rows % topic.partitions
    command = [str(python), "-m", f"benchmarks.peers.{peer.module}", "--bootstrap", bootstrap]
    command += ["--topic", topic.name, "--partitions", str(topic.partitions), "--rows", str(rows)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{peer.name} failed:\n{done.stderr[-2000:]}")
    found: Json = json.loads(done.stdout.splitlines()[-1])
    wrong = differences(peer, found, topic.stream.truth(topic.n_events - rows, topic.n_events))
    if wrong:
        raise RuntimeError(f"{peer.name} answers wrongly: {'; '.join(wrong)}")
    return found


def differences(peer: Peer, found: Json, truth: Truth) -> list[str]:
    """What of a peer's answer is not so: counts exactly, ranks of quantiles within 3 % of the rows,
    distinct values within 8 %."""
    wrong = []
    if found["rows"] != truth.rows:
        wrong.append(f"{found['rows']} rows of {truth.rows}")
    if not peer.answers:
        return wrong
    if found["models"] != truth.models:
        wrong.append(f"rows by model {found['models']}")
    for name in truth.sorted_values:
        n, values = found["numbers"][name]
        off = [abs(truth.rank(name, v) - q) for v, q in zip(values, QUANTILES, strict=True)]
        if n != truth.rows or max(off) > 0.03:
            wrong.append(f"{name}: {n} values, quantiles {values}")
    for name, true in truth.distinct.items():
        if abs(found["distinct"][name] - true) > 0.08 * true:
            wrong.append(f"{name}: {found['distinct'][name]} distinct of {true}")
    return wrong


def _report(
    result: Result, ours: list[Json], theirs: dict[Peer, list[Json]], batch: str, passes: int
) -> None:
    own_us = statistics.median(one["cpu_us_per_event"] for one in ours)
    own_rate = statistics.median(one["events_per_s"] for one in ours)
    table = result.table(
        f"Same topic (lz4, producer batches of {batch}), same job",
        *("tool", "how", "events", "CPU us/event", "events/s", "the agent's rate is"),
        note=(
            f"medians of {passes} passes in turn; rate: events per CPU second of the process. The agent "
            "does it by model, version and minute, with exports and checksums; the peers over all."
        ),
    )
    table.add(AGENT, "real process, OTLP every second", ours[0]["events"], own_us, own_rate, 1.0)
    for peer, runs in theirs.items():
        us = statistics.median(one["cpu_s"] / one["rows"] for one in runs) * 1e6
        rate = statistics.median(one["rows"] / one["wall_s"] for one in runs)
        table.add(peer.name, peer.what, runs[0]["rows"], us, rate, us / own_us)
        if peer.name in BARS:
            result.at_least(f"rate against {peer.name}", us / own_us, BARS[peer.name], "x")
    result.notes.append(f"rows of the agent by decoder: {ours[-1]['tiers']}")
    result.figures["versions"] = {
        package: version
        for runs in theirs.values()
        for package, version in runs[-1]["versions"].items()
    }


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--events", type=int, default=EVENTS, help="in the topic")
    parser.add_argument(
        "--batch", choices=list(BATCH_BYTES), default="16 KB", help="size of the producer's batches"
    )
    parser.add_argument(
        "--only", nargs="*", default=[], choices=[p.module for p in PEERS], help="some peers"
    )


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    run(__doc__, measure, _options)

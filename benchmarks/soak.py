"""The agent at full rate for hours: does its memory stay where it is?

    python -m benchmarks.pipeline --hours 1 [--plots FOLDER]

A pool of record batches is made once and sent again and again, as it is, to a topic that stamps them
with the time of their arrival, so event time goes on and nothing is late. The broker keeps only the
newest part of the topic, and the sender stays a little ahead of what the agent has exported: the
agent sets the pace, as far as the broker leaves it processor time. Ids come again with every round.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import itertools
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.structs import TopicPartition

from agent.ingest.raw import RawConsumer
from benchmarks.agent_run import agent_on
from benchmarks.broker import Topic, fill
from benchmarks.frame import CannotRun, Curve, Result, progress
from benchmarks.page import draw
from benchmarks.process import Watch, peak_rss_bytes
from benchmarks.stream import Stream
from tests.support.wait import eventually_sync

Json = dict[str, Any]

PARTITIONS = 4
#: Events of the pool: 100 MB of batches.
POOL_EVENTS = 400_000
#: The sender is at most this many events ahead of what was exported: a few seconds, 250 MB.
AHEAD = 2_000_000
#: Kept of each partition, more than twice what the sender is ahead: nothing goes unread.
RETAINED = {
    "message.timestamp.type": "LogAppendTime",
    "retention.bytes": str(192 << 20),
    "segment.bytes": str(32 << 20),
    "file.delete.delay.ms": "1000",
}
BROKER = {"log.retention.check.interval.ms": "2000", "log.initial.task.delay.ms": "1000"}
#: Left out of the judgement: at most this share of the run, and at most this long. Windows of a minute
#: fill and close, exports grow to their size, the allocator finds its level.
WARM_UP_SHARE, WARM_UP_S = 0.34, 600.0
FLAT_BAR_PERCENT = 2.0
_SAY_EVERY_S = 10.0
#: Requests on their way: the broker never waits for the sender.
_IN_FLIGHT = 3
#: No row exported for so long: something has stopped.
_STUCK_S = 60.0
_MIB = 2**20


def soak(broker: Any, hours: float, result: Result, options: argparse.Namespace) -> None:
    """Run, judge, and draw. Raises RuntimeError when the agent stops, drops or loses rows."""
    if options.plots is not None and importlib.util.find_spec("matplotlib") is None:
        raise CannotRun("--plots needs matplotlib: install the `bench` extra, or leave it out")
    stream = Stream(options.seed, 0, 0.0, timed=False)
    pool = Topic("pool", PARTITIONS, POOL_EVENTS, "1 MB", stream)
    broker.create_topic(pool.name, PARTITIONS)
    fill(broker.bootstrap, pool)
    batches = asyncio.run(_batches_of(broker.bootstrap, pool))
    broker.delete_topic(pool.name)
    broker.create_topic("hours", PARTITIONS, RETAINED)
    config = {"runtime": {"kernel_threads": options.threads}} if options.threads else {}
    with (
        agent_on(broker.bootstrap, ["hours"], config) as (agent, reader),
        sending(broker.bootstrap, "hours", batches, lambda: reader.seen.rows) as sender,
    ):
        assert agent.process is not None
        eventually_sync(lambda: reader.seen.rows > 0, timeout_s=120, every_s=0.1)
        before = reader.seen.rows
        with Watch(agent.process.pid, every_s=1.0) as watch:
            _wait(hours * 3600, agent, reader, sender, watch)
            rows = reader.seen.rows - before
        peak = peak_rss_bytes(agent.process.pid)
        sender.stop()
        eventually_sync(lambda: reader.seen.rows >= sender.sent, timeout_s=60, every_s=0.1)
        seen = reader.seen
        dropped = {reason: n for reason, n in seen.dropped.items() if n}
        if seen.rows != sender.sent or dropped:
            raise RuntimeError(f"{seen.rows:,} rows of {sender.sent:,} sent, dropped {dropped}")
        agent.stop()
    points = [(at.at_s - watch.samples[0].at_s, at.rss_bytes / _MIB) for at in watch.samples]
    used_s = watch.samples[-1].cpu_s - watch.samples[0].cpu_s
    lags = sorted(seen.loop_lags_s)
    _report(result, points, rows, used_s, lags, peak / _MIB, options.plots)


def _wait(duration_s: float, agent: Any, reader: Any, sender: Sender, watch: Watch) -> None:
    """Until the time is over, saying every ten seconds how it goes."""
    began = time.monotonic()
    said, rows, moved = began, reader.seen.rows, began
    while (now := time.monotonic()) - began < duration_s:
        time.sleep(0.25)
        if not agent.process.running or sender.failure is not None:
            raise RuntimeError(f"ended early: {sender.failure}\n{agent.log[-2000:]}")
        if reader.seen.rows > rows and now - said < _SAY_EVERY_S:
            moved = now
        if now - moved > _STUCK_S:
            raise RuntimeError(f"no row for {_STUCK_S:.0f} s:\n{agent.log[-2000:]}")
        if now - said >= _SAY_EVERY_S:
            rate = (reader.seen.rows - rows) / (now - said)
            said, rows = now, reader.seen.rows
            progress(
                f"{(now - began) / 60:.1f} of {duration_s / 60:.1f} min: {rows:,} rows, "
                f"{rate:,.0f}/s, {watch.samples[-1].rss_bytes / _MIB:.1f} MiB"
            )


# ---------------------------------------------------------------- sending


async def _batches_of(bootstrap: str, topic: Topic) -> list[list[bytes]]:
    """The batches of each partition, with a base offset of 0 as a producer sends them."""
    partitions = [TopicPartition(topic.name, number) for number in range(topic.partitions)]
    consumer: AIOKafkaConsumer = RawConsumer(
        bootstrap_servers=bootstrap, enable_auto_commit=False, auto_offset_reset="none"
    )
    await consumer.start()
    found: list[list[bytes]] = [[] for _ in partitions]
    try:
        consumer.assign(partitions)
        for at in partitions:
            consumer.seek(at, 0)
        n = 0
        while n < topic.n_events:
            for at, batches in (await consumer.getmany(timeout_ms=1000)).items():
                n += sum(batch.n_records for batch in batches)
                found[at.partition] += [bytes(8) + bytes(batch.data[8:]) for batch in batches]
    finally:
        await consumer.stop()
    return found


class Sender(threading.Thread):
    """Sends the batches of a pool round and round, `AHEAD` events ahead of `done()` at most."""

    def __init__(self, bootstrap: str, topic: str, batches: list[list[bytes]], done: Any) -> None:
        super().__init__(name="sender", daemon=True)
        self.sent = 0  # acknowledged
        self.failure: BaseException | None = None
        self._servers = bootstrap
        self._topic = topic
        self._batches = batches
        self._done = done
        self._ended = threading.Event()

    def run(self) -> None:
        try:
            asyncio.run(self._send())
        except BaseException as error:
            self.failure = error

    def stop(self) -> None:
        self._ended.set()
        self.join(60.0)

    async def _send(self) -> None:
        client = AIOKafkaClient(bootstrap_servers=self._servers)
        await client.bootstrap()
        try:
            await client.force_metadata_update()
            (node,) = {broker.nodeId for broker in client.cluster.brokers()}
            rounds = itertools.count()
            async with asyncio.TaskGroup() as group:
                for number in range(_IN_FLIGHT):
                    group.create_task(self._rounds(client, node, rounds), name=f"send-{number}")
        finally:
            await client.close()

    async def _rounds(self, client: AIOKafkaClient, node: int, rounds: Iterator[int]) -> None:
        while not self._ended.is_set():
            if self.sent - self._done() > AHEAD:
                await asyncio.sleep(0.01)
                continue
            at = next(rounds)
            # One batch of a partition in a request: the protocol takes no more.
            parts = [
                (number, batches[at % len(batches)]) for number, batches in enumerate(self._batches)
            ]
            request = ProduceRequest(
                transactional_id=None,
                required_acks=1,
                timeout=30_000,
                topics=[(self._topic, parts)],
            )
            answer = await client.send(node, request)
            for _, partitions in answer.topics:
                for partition, code, *_ in partitions:
                    if code:
                        raise RuntimeError(f"partition {partition}: error {code}")
            self.sent += sum(int.from_bytes(data[57:61], "big") for _, data in parts)


@contextmanager
def sending(bootstrap: str, topic: str, batches: list[list[bytes]], done: Any) -> Iterator[Sender]:
    sender = Sender(bootstrap, topic, batches, done)
    sender.start()
    try:
        yield sender
    finally:
        sender.stop()


# ---------------------------------------------------------------- judging


def judged(points: list[tuple[float, float]]) -> tuple[float, float, float]:
    """Growth in percent, its level in MiB, and where the judgement begins in seconds.

    points  (seconds, MiB), in order

    Growth: from the median of the first to the median of the last third of what lies behind the
    warm-up. Medians of thirds, as windows open and close every minute and exports come and go.
    """
    duration_s = points[-1][0]
    from_s = min(WARM_UP_S, WARM_UP_SHARE * duration_s)
    after = [mib for at, mib in points if at >= from_s]
    third = max(1, len(after) // 3)
    first, last = statistics.median(after[:third]), statistics.median(after[-third:])
    return 100.0 * (last - first) / first, last, from_s


def _report(
    result: Result,
    points: list[tuple[float, float]],
    rows: int,
    cpu_s: float,
    lags_s: list[float],
    peak_mib: float,
    plots: Path | None,
) -> None:
    growth, level, from_s = judged(points)
    duration_s = points[-1][0]
    table = result.table(
        "At full rate, for long",
        *("minutes", "rows", "rows/s", "CPU us/event", "RSS MiB", "growth %", "peak MiB"),
        *("loop lag ms, median", "worst"),
        note=f"growth: medians of the first and the last third behind {from_s / 60:.1f} minutes of "
        "warm-up. Rows agree exactly with what was sent, none dropped.",
    )
    table.add(
        *(duration_s / 60, rows, rows / duration_s, cpu_s / rows * 1e6, level, growth, peak_mib),
        *(statistics.median(lags_s) * 1e3, lags_s[-1] * 1e3),
    )
    step = max(1, len(points) // 600)
    curve = Curve(
        "Memory at full rate",
        "minutes",
        "RSS, MiB",
        {"agent": [(at / 60, mib) for at, mib in points[::step]]},
    )
    result.curves.append(curve)
    result.at_most("growth of RSS after warm-up", abs(growth), FLAT_BAR_PERCENT, "%")
    if plots is not None:
        path = plots / "benchmarks-pipeline-memory-at-full-rate.png"
        draw(vars(curve), path)
        progress(f"drawn: {path}")

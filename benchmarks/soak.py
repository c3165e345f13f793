"""The agent at full rate for an hour: does anything grow, and what does a collector cost that is away?

A pool of record batches is made once and sent again and again, as it is, to a topic that stamps them
with the time of their arrival, so event time goes on and nothing is late. The broker keeps only the
newest part of the topic, and the sender stays a little ahead of what the agent has counted: the
agent sets the pace, as far as the broker leaves it processor time. Ids come again with every round.

    python -m benchmarks.soak [--minutes 60] [--plots FOLDER]
    python -m benchmarks.soak --minutes 25 --away 10      the collector is gone for the last ten minutes but one

Judged behind a warm-up (`trend.py`): resident memory, records that wait, the event loop's lag.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from benchmarks.agent_run import Reader, agent_on
from benchmarks.broker import Topic, fill, running_kafka
from benchmarks.frame import CannotRun, Curve, Result, progress, run
from benchmarks.page import draw
from benchmarks.process import Watch, peak_rss_bytes
from benchmarks.sender import AHEAD, Sender, batches_of, sending
from benchmarks.stream import Stream
from benchmarks.trend import Points, judged_from_s, trend
from tests.support.agent_process import AgentProcess
from tests.support.wait import eventually_sync

Json = dict[str, Any]

PARTITIONS = 4
#: Events of the pool: 100 MB of batches.
POOL_EVENTS = 400_000
#: Kept of each partition, more than twice what the sender is ahead: nothing goes unread.
RETAINED = {
    "message.timestamp.type": "LogAppendTime",
    "retention.bytes": str(192 << 20),
    "segment.bytes": str(32 << 20),
    "file.delete.delay.ms": "1000",
}
BROKER = {"log.retention.check.interval.ms": "2000", "log.initial.task.delay.ms": "1000"}
FLAT_BAR_PERCENT = 2.0
LAG_GROWTH_BAR, LOOP_LAG_GROWTH_BAR_MS = 0.1 * AHEAD, 5.0
AWAY_BAR_MIB = 5.0
#: With `--away`: windows come and go so fast that memory is level before the collector goes.
QUICK_WINDOWS: Json = {"windows": {"width_s": 5.0, "keep": 2}}
_BACK_S = 60.0
_SAY_EVERY_S = 10.0
#: No row counted for so long: something has stopped.
_STUCK_S = 60.0
_MIB = 2**20


class Seen:
    """What is known of a run at any time: rows counted, and lags with the seconds they were told at."""

    def __init__(self, agent: AgentProcess, reader: Reader) -> None:
        self.lag: Points = []
        self.loop_lag: Points = []
        self._agent = agent
        self._reader = reader
        self._asked = 0
        self._began = time.monotonic()
        self._n_loop_lags = 0

    def rows(self) -> int:
        """Counted by the agent: as exported, or as it said while there was no receiver."""
        return max(self._reader.seen.rows, self._asked)

    def ask(self) -> None:
        """Of the agent itself, where nothing is exported."""
        self._asked = int(self._agent.state()["tally"]["rows"])

    def note(self) -> None:
        """Take what exports have said since."""
        at = time.monotonic() - self._began
        seen = self._reader.seen
        lags = seen.loop_lags_s[self._n_loop_lags :]
        if lags:
            self._n_loop_lags += len(lags)
            self.loop_lag.append((at, max(lags) * 1e3))
            self.lag.append((at, sum(seen.lag.values())))


def soak(
    broker: Any,
    minutes: float,
    result: Result,
    *,
    seed: int,
    threads: int = 0,
    plots: Path | None = None,
    away_minutes: float = 0.0,
) -> None:
    """Run, judge, and draw. Raises RuntimeError when the agent stops, drops or loses rows."""
    if plots is not None and importlib.util.find_spec("matplotlib") is None:
        raise CannotRun("--plots needs matplotlib: install the `bench` extra, or leave it out")
    batches = _pool(broker, seed)
    config: Json = {"runtime": {"kernel_threads": threads}} if threads else {}
    if away_minutes:
        config |= QUICK_WINDOWS
    with agent_on(broker.bootstrap, ["hours"], config) as (agent, reader):
        seen = Seen(agent, reader)
        with sending(broker.bootstrap, "hours", batches, seen.rows) as sender:
            assert agent.process is not None
            eventually_sync(lambda: reader.seen.rows > 0, timeout_s=120, every_s=0.1)
            before = seen.rows()
            asking = _asking(seen) if away_minutes else nullcontext()
            with Watch(agent.process.pid, every_s=1.0) as watch, asking:
                began = time.monotonic()
                away_s, back_s = away_minutes * 60, min(_BACK_S, minutes * 10)
                away = (0.0, 0.0)
                if away_s:
                    _wait(minutes * 60 - away_s - back_s, agent, seen, sender, watch)
                    away = time.monotonic() - began, away_s
                    with _collector_away(reader):
                        _wait(away_s, agent, seen, sender, watch)
                _wait(minutes * 60 - (time.monotonic() - began), agent, seen, sender, watch)
                rows = seen.rows() - before
            peak = peak_rss_bytes(agent.process.pid)
            sender.stop()
            eventually_sync(lambda: reader.seen.rows >= sender.sent, timeout_s=120, every_s=0.1)
            _require_all(reader, sender)
            agent.stop()
    points = [(at.at_s - watch.samples[0].at_s, at.rss_bytes / _MIB) for at in watch.samples]
    used_s = watch.samples[-1].cpu_s - watch.samples[0].cpu_s
    curves = [_report_memory(result, points, rows, used_s, peak / _MIB, is_judged=not away_minutes)]
    if away_minutes:
        _report_away(result, points, *away)
    else:  # lags are told by exports
        curves += _report_lags(result, seen)
    result.curves += curves
    if plots is not None:
        for curve in curves:
            path = plots / f"soak-{curve.title.split()[0].lower()}.png"
            draw(vars(curve), path)
            progress(f"drawn: {path}")


def _pool(broker: Any, seed: int) -> list[list[bytes]]:
    """Batches of the pool by partition; makes the topic that they are to be sent to."""
    stream = Stream(seed, 0, 0.0, timed=False)
    pool = Topic("pool", PARTITIONS, POOL_EVENTS, "1 MB", stream)
    broker.create_topic(pool.name, PARTITIONS)
    fill(broker.bootstrap, pool)
    batches = asyncio.run(batches_of(broker.bootstrap, pool))
    broker.delete_topic(pool.name)
    broker.create_topic("hours", PARTITIONS, RETAINED)
    return batches


def _wait(duration_s: float, agent: Any, seen: Seen, sender: Sender, watch: Watch) -> None:
    """Until the time is over, saying every ten seconds how it goes."""
    began = time.monotonic()
    said, rows, moved = began, seen.rows(), began
    while (now := time.monotonic()) - began < duration_s:
        time.sleep(0.25)
        seen.note()
        if not agent.process.running or sender.failure is not None:
            raise RuntimeError(f"ended early: {sender.failure}\n{agent.log[-2000:]}")
        if seen.rows() > rows:
            moved = now
        if now - moved > _STUCK_S:
            raise RuntimeError(f"no row for {_STUCK_S:.0f} s:\n{agent.log[-2000:]}")
        if now - said >= _SAY_EVERY_S:
            rate = (seen.rows() - rows) / (now - said)
            said, rows = now, seen.rows()
            progress(
                f"{(now - began) / 60:.1f} of {duration_s / 60:.1f} min: {rows:,} rows, "
                f"{rate:,.0f}/s, {watch.samples[-1].rss_bytes / _MIB:.1f} MiB"
            )


@contextmanager
def _asking(seen: Seen) -> Iterator[None]:
    """The agent's own page says how far it is, all the time: it must cost the same with a collector as without."""
    ended = threading.Event()

    def ask() -> None:
        while not ended.wait(1.0):
            seen.ask()

    asking = threading.Thread(target=ask, name="ask", daemon=True)
    asking.start()
    try:
        yield
    finally:
        ended.set()
        asking.join(30)


@contextmanager
def _collector_away(reader: Reader) -> Iterator[None]:
    """Its port refuses connections."""
    progress("the collector goes")
    reader.leave()
    try:
        yield
    finally:
        reader.come_back()
        progress("the collector is back")


def _require_all(reader: Reader, sender: Sender) -> None:
    seen = reader.seen
    dropped = {reason: n for reason, n in seen.dropped.items() if n}
    by_model = sum(seen.by_model.values())
    if seen.rows != sender.sent or by_model != sender.sent or dropped:
        raise RuntimeError(
            f"{seen.rows:,} rows, {by_model:,} by model, of {sender.sent:,} sent; dropped {dropped}"
        )


# ---------------------------------------------------------------- judging


def judged(points: Points) -> tuple[float, float, float]:
    """Growth in percent, its level in MiB, and where the judgement begins in seconds.

    points  (seconds, MiB), in order

    Growth: from the median of the first to the median of the last third of what lies behind the
    warm-up. Medians of thirds, as windows open and close every minute and exports come and go.
    """
    from_s = judged_from_s(points)
    after = [mib for at, mib in points if at >= from_s]
    third = max(1, len(after) // 3)
    first, last = statistics.median(after[:third]), statistics.median(after[-third:])
    return 100.0 * (last - first) / first, last, from_s


def _report_memory(
    result: Result, points: Points, rows: int, cpu_s: float, peak_mib: float, *, is_judged: bool
) -> Curve:
    growth, level, from_s = judged(points)
    duration_s = points[-1][0]
    found = trend(points)
    table = result.table(
        "At full rate, for long",
        *("minutes", "rows", "rows/s", "CPU us/event", "RSS MiB", "growth %", "peak MiB", "p"),
        note=f"growth: medians of the first and the last third behind {from_s / 60:.1f} minutes of "
        "warm-up; p: of a trend by chance. Rows agree exactly with what was sent, none dropped.",
    )
    table.add(
        *(duration_s / 60, rows, rows / duration_s, cpu_s / rows * 1e6, level, growth, peak_mib),
        found.p,
    )
    if is_judged:
        result.at_most("growth of RSS after warm-up", abs(growth), FLAT_BAR_PERCENT, "%")
    return _curve("Memory at full rate", "RSS, MiB", "agent", points)


def _report_lags(result: Result, seen: Seen) -> list[Curve]:
    table = result.table("Lags", "what", "median", "worst", "growth", "p")
    curves = []
    for what, unit, points, bar in (
        ("Records that wait", "records", seen.lag, LAG_GROWTH_BAR),
        ("Loop lag", "ms", seen.loop_lag, LOOP_LAG_GROWTH_BAR_MS),
    ):
        values = [value for _, value in points]
        found = trend(points)
        table.add(f"{what}, {unit}", statistics.median(values), max(values), found.growth, found.p)
        result.at_most(f"sure growth of: {what.lower()}", found.sure_growth, bar, unit)
        curves.append(_curve(what, unit, "worst of each second", points))
    return curves


def _report_away(result: Result, points: Points, from_s: float, duration_s: float) -> None:
    """Memory before the collector went, against the end of its absence; medians of a third of it."""
    third = duration_s / 3
    before = statistics.median(mib for at, mib in points if from_s - third <= at < from_s)
    end_s = from_s + duration_s
    away = statistics.median(mib for at, mib in points if end_s - third <= at < end_s)
    table = result.table(
        "The collector away",
        *("minutes", "RSS before, MiB", "RSS at the end, MiB"),
        note=f"medians of {third / 60:.1f} minutes; totals by model are those sent, on its return.",
    )
    table.add(duration_s / 60, before, away)
    result.at_most("growth of RSS while the collector is away", away - before, AWAY_BAR_MIB, "MiB")


def _curve(title: str, y: str, name: str, points: Points) -> Curve:
    step = max(1, len(points) // 600)
    return Curve(title, "minutes", y, {name: [(at / 60, value) for at, value in points[::step]]})


def measure(options: argparse.Namespace, result: Result) -> None:
    with running_kafka(BROKER) as broker:
        soak(
            broker,
            options.minutes,
            result,
            seed=options.seed,
            threads=options.threads,
            plots=options.plots,
            away_minutes=options.away,
        )


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--away", type=float, default=0.0, help="minutes without a collector")
    parser.add_argument("--plots", type=Path, help="folder for the plots")
    parser.add_argument("--threads", type=int, default=0, help="kernel threads; 0: the default")


if __name__ == "__main__":
    run(__doc__, measure, _options)

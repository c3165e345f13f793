"""A model server on an accelerated clock: `python -m agent.demo.model_server --help`.

Serves the flights of 2013 in order of scheduled departure. Each is one request to the model and one
event on the topic of inferences; when the flight lands, its label goes to the topic of labels.
Record timestamps are the simulated time, as they would be in a replayed history.

Late in the run a canary, version 2, takes a tenth of the traffic; it is worse than its twin.

It talks with the process that started it in JSON lines: it writes January as it was served, for a
baseline, then `ready`, waits for a line on stdin, then writes `tick` (4 a second), `injected`, `canary`
and, at the end, `done`. A line `rollback` takes the canary's traffic away (`rolled_back`); any other line, or
the end of stdin, stops it; what was produced is flushed all the same.
"""

from __future__ import annotations

import argparse
import heapq
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import orjson

from agent.demo import flights as data
from agent.demo.model import CANARY_VERSION, NAME, VERSION, DelayModel

if TYPE_CHECKING:
    from numpy.typing import NDArray

KM_PER_MILE: Final = 1.609344
MICRO_BATCH: Final = 128  # rows of one model call; they share its latency, as batched requests do
TICK_S: Final = 0.02
LONGEST_STEP_MS: Final = 6 * 3_600_000  # simulated; a server that is behind still reports and stops
REPORT_EVERY_S: Final = 0.25
FLUSH_TIMEOUT_S: Final = 20.0
CANARY_FROM: Final = 0.8  # share of the run
CANARY_EVERY: Final = 10  # every tenth flight is the canary's
BASELINE_DAYS: Final = 31  # January
ROLL_BACK: Final = "rollback"


@dataclass(frozen=True)
class Break:
    """An upstream fault: from `from_ms` (simulated) on, `apply` changes the model's inputs in place."""

    what: str
    feed: str
    streams: tuple[str, ...]  # airports
    features: tuple[str, ...]
    from_ms: int
    apply: Callable[[NDArray[np.float64]], None]


def planned_breaks(flights: data.Flights, days: int) -> list[Break]:
    """Half way JFK's weather goes silent; at two thirds distances arrive in kilometres."""
    weather = np.array([data.FEATURES.index(name) for name in data.FEEDS["weather"]])
    origin, distance = data.FEATURES.index("origin"), data.FEATURES.index("distance")
    jfk = flights.categories["origin"].index("JFK")

    def silence_weather(inputs: NDArray[np.float64]) -> None:
        rows = np.flatnonzero(inputs[:, origin] == jfk)
        inputs[np.ix_(rows, weather)] = np.nan

    def kilometres(inputs: NDArray[np.float64]) -> None:
        inputs[:, distance] *= KM_PER_MILE

    everywhere = tuple(flights.categories["origin"])
    return [
        Break(
            "JFK weather feed turned null",
            "weather",
            ("JFK",),
            data.FEEDS["weather"],
            day_at(days, 0.5),
            silence_weather,
        ),
        Break(
            "distance feed changed unit: miles to km",
            "distance",
            everywhere,
            data.FEEDS["distance"],
            day_at(days, 0.66),
            kilometres,
        ),
    ]


def day_at(days: int, share: float) -> int:
    """The beginning of a window, so that the first one concerned is wholly so."""
    return data.YEAR_START_MS + int(days * share) * data.DAY_MS


class Canary:
    """Version 2 on a share of the traffic, from `from_ms` (simulated) until it is rolled back."""

    def __init__(self, model: DelayModel, from_ms: int) -> None:
        self.from_ms = from_ms
        self.is_rolled_back = False
        self._model = model

    def takes(self, flight: int, time_ms: int) -> bool:
        return not self.is_rolled_back and time_ms >= self.from_ms and flight % CANARY_EVERY == 0

    def predict(self, inputs: NDArray[np.float64]) -> NDArray[np.float64]:
        return self._model.predict(inputs)[0]


class Publisher:
    """Counts what the brokers acknowledged. `produce` never loses a record to a full queue."""

    def __init__(self, bootstrap: str) -> None:
        from confluent_kafka import Producer

        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "client.id": "flight-delay-server",
                "enable.idempotence": True,  # a retried batch must not be counted twice
                "compression.type": "lz4",
                "linger.ms": 20,
                "queue.buffering.max.messages": 50_000,
            }
        )
        self.acknowledged: dict[str, int] = {}
        self.failed = 0
        self.first_failure = ""

    def produce(self, topic: str, value: bytes, key: bytes, time_ms: int, **more: Any) -> None:
        while True:
            try:
                self._producer.produce(
                    topic, value, key, timestamp=time_ms, on_delivery=self._delivered, **more
                )
            except BufferError:
                self._producer.poll(0.1)
            else:
                return

    def poll(self) -> None:
        self._producer.poll(0)

    def flush(self) -> int:
        """Wait for all reports; returns how many are missing after the time limit."""
        return int(self._producer.flush(FLUSH_TIMEOUT_S))

    def _delivered(self, error: Any, message: Any) -> None:
        if error is None:
            topic = message.topic()
            self.acknowledged[topic] = self.acknowledged.get(topic, 0) + 1
        else:
            self.failed += 1
            self.first_failure = self.first_failure or str(error)


class Server:
    """Turns flights into requests, and requests into events."""

    def __init__(
        self,
        flights: data.Flights,
        model: DelayModel,
        publisher: Publisher,
        breaks: list[Break],
        *,
        topic: str,
        label_topic: str,
        canary: Canary | None = None,
    ) -> None:
        self._flights, self._model, self._publisher = flights, model, publisher
        self._canary = canary
        self._topic, self._label_topic = topic, label_topic
        self._inputs = flights.matrix()
        self._waiting = sorted(breaks, key=lambda fault: fault.from_ms)
        self._active: list[Break] = []
        self._due: list[tuple[int, int]] = []  # heap of (landing, flight)
        self._next = 0
        self.labels = 0

    @property
    def served(self) -> int:
        return self._next

    def advance(self, now_ms: int, on_break: Callable[[Break], None]) -> None:
        """Serve what departs, and label what lands, up to `now_ms`; a break is said as it begins."""
        while self._waiting and self._waiting[0].from_ms <= now_ms:
            fault = self._waiting.pop(0)
            self._serve_until(fault.from_ms - 1)
            on_break(fault)
            self._active.append(fault)
        self._serve_until(now_ms)
        while self._due and self._due[0][0] <= now_ms:
            self._label(*heapq.heappop(self._due))
        self._publisher.poll()

    def _serve_until(self, now_ms: int) -> None:
        stop = int(np.searchsorted(self._flights.departs_ms, now_ms, side="right"))
        while self._next < stop:
            self._serve(self._next, min(self._next + MICRO_BATCH, stop))

    def _serve(self, start: int, stop: int) -> None:
        """One call of the model for flights [start, stop), then one event for each."""
        inputs = self._inputs[start:stop].copy()
        for fault in self._active:
            fault.apply(inputs)
        for i, event in enumerate(self.events(start, inputs), start):
            time_ms, request = event["ts"], event["id"]
            self._publisher.produce(
                self._topic,
                orjson.dumps(event),
                request.encode(),
                time_ms,
                headers=[("traceparent", _traceparent())],
            )
            lands_ms = int(self._flights.lands_ms[i])
            if lands_ms >= 0:
                heapq.heappush(self._due, (max(lands_ms, time_ms), i))
        self._next = stop

    def events(self, start: int, inputs: NDArray[np.float64]) -> Iterator[dict[str, Any]]:
        """What the model says of float64[n, features], the flights from `start` on."""
        scores, seconds = self._model.predict(inputs)
        latency_ms = round(seconds * 1e3, 4)
        times = self._flights.departs_ms[start : start + len(inputs)].tolist()
        canary = self._canary
        is_canary = [
            canary is not None and canary.takes(start + row, time_ms)
            for row, time_ms in enumerate(times)
        ]
        if canary is not None and any(is_canary):
            scores = np.where(is_canary, canary.predict(inputs), scores)
        columns = self._columns(inputs)
        for row, time_ms in enumerate(times):
            score = round(float(scores[row]), 6)
            yield {
                "id": self._id(start + row),
                "ts": time_ms,
                "model": NAME,
                "version": CANARY_VERSION if is_canary[row] else VERSION,
                "features": {name: columns[name][row] for name in data.FEATURES},
                "prediction": {
                    "label": "late" if score > self._model.threshold else "on_time",
                    "score": score,
                    "probabilities": {"late": score, "on_time": round(1.0 - score, 6)},
                },
                "latency_ms": latency_ms,
                "status": "ok",
                "segment": {"origin": columns["origin"][row]},
            }

    def write_baseline(self, path: Path, days: int) -> None:
        """The events of the first `days` days as lines of JSON: what a healthy model did."""
        stop = int(np.searchsorted(self._flights.departs_ms, data.end_of(days)))
        with path.open("wb") as file:
            for start in range(0, stop, MICRO_BATCH):
                inputs = self._inputs[start : min(start + MICRO_BATCH, stop)]
                file.writelines(orjson.dumps(e) + b"\n" for e in self.events(start, inputs))

    def _columns(self, inputs: NDArray[np.float64]) -> dict[str, list[Any]]:
        """JSON values by feature: codes back to text, holes to null, whole numbers as integers."""
        columns: dict[str, list[Any]] = {}
        for j, name in enumerate(data.FEATURES):
            values = inputs[:, j].tolist()
            if name in data.CATEGORICAL:
                names = self._flights.categories[name]
                columns[name] = [names[int(v)] for v in values]
            else:
                columns[name] = [_json_number(v) for v in values]
        return columns

    def _label(self, lands_ms: int, i: int) -> None:
        label = "late" if self._flights.is_late[i] else "on_time"
        key = self._id(i)
        body = orjson.dumps({"id": key, "label": label, "ts": lands_ms})
        self._publisher.produce(self._label_topic, body, key.encode(), lands_ms)
        self.labels += 1

    def _id(self, i: int) -> str:
        carrier = self._flights.categories["carrier"][self._flights.codes["carrier"][i]]
        return f"{carrier}{self._flights.number[i]}-{i}"


def _json_number(value: float) -> float | int | None:
    if value != value:
        return None
    return int(value) if value.is_integer() else round(value, 4)


def _traceparent() -> bytes:
    """W3C trace context, sampled: what an instrumented caller would have sent."""
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01".encode()


_saying = threading.Lock()


def _say(**message: Any) -> None:
    """One JSON line on stdout. A parent that has gone away is noticed through stdin."""
    try:
        with _saying:
            sys.stdout.buffer.write(orjson.dumps(message) + b"\n")
            sys.stdout.buffer.flush()
    except BrokenPipeError:
        sys.exit(1)


def _run(arguments: argparse.Namespace) -> int:
    _say(event="preparing", what="joining a year of flights with the weather")
    flights = data.load()
    _say(event="preparing", what="training the delay model")
    model = DelayModel(flights, seed=arguments.seed)
    canary = Canary(
        DelayModel(flights, seed=arguments.seed, balanced=True),
        day_at(arguments.days, CANARY_FROM),
    )
    publisher = Publisher(arguments.bootstrap)

    def server_of(served: data.Flights, breaks: list[Break], canary: Canary | None) -> Server:
        topics = {"topic": arguments.topic, "label_topic": arguments.label_topic}
        return Server(served, model, publisher, breaks, canary=canary, **topics)

    if arguments.baseline is not None:
        _say(event="preparing", what="writing January for the baseline")
        server_of(flights, [], None).write_baseline(arguments.baseline, BASELINE_DAYS)
    flights = flights.head(arguments.days)
    server = server_of(flights, planned_breaks(flights, arguments.days), canary)
    _say(event="ready", flights=len(flights), threshold=model.threshold)
    if not sys.stdin.readline():
        return 1
    stop = threading.Event()
    started = time.monotonic()

    def await_stop() -> None:
        while sys.stdin.readline().strip() == ROLL_BACK:
            canary.is_rolled_back = True
            _say(event="rolled_back", at_s=round(time.monotonic() - started, 3))
        stop.set()

    threading.Thread(target=await_stop, name="stdin", daemon=True).start()

    def say_break(fault: Break) -> None:
        _say(
            event="injected",
            what=fault.what,
            feed=fault.feed,
            streams=fault.streams,
            features=fault.features,
            at_s=round(time.monotonic() - started, 3),
            sim_ms=fault.from_ms,
        )

    end_ms = data.end_of(arguments.days)
    speed = (end_ms - data.YEAR_START_MS) / arguments.duration_s
    now_ms, reported_s, is_canary_said = data.YEAR_START_MS, 0.0, False
    while now_ms < end_ms and not stop.is_set():
        elapsed_s = time.monotonic() - started
        clock_ms = min(data.YEAR_START_MS + int(elapsed_s * speed), end_ms)
        now_ms = min(clock_ms, now_ms + LONGEST_STEP_MS)
        if not is_canary_said and now_ms >= canary.from_ms:
            is_canary_said = True
            _say(
                event="canary",
                version=CANARY_VERSION,
                sim_ms=canary.from_ms,
                at_s=round(elapsed_s, 3),
            )
        server.advance(now_ms, say_break)
        if elapsed_s - reported_s >= REPORT_EVERY_S:
            reported_s = elapsed_s
            _say(event="tick", produced=server.served, labels=server.labels, sim_ms=now_ms)
        if now_ms == clock_ms:
            stop.wait(TICK_S)
    unanswered = publisher.flush()
    _say(
        event="done",
        produced=publisher.acknowledged.get(arguments.topic, 0),
        labels=publisher.acknowledged.get(arguments.label_topic, 0),
        failed=publisher.failed + unanswered,
        failure=publisher.first_failure or ("no delivery report in time" if unanswered else ""),
        elapsed_s=round(time.monotonic() - started, 3),
    )
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="model_server", description=__doc__)
    parser.add_argument("--bootstrap", required=True, help="brokers, host:port")
    parser.add_argument("--topic", required=True, help="topic for inference events; must exist")
    parser.add_argument("--label-topic", required=True, help="topic for labels; must exist")
    parser.add_argument("--days", type=int, required=True, help="days of 2013 to serve, 1 to 365")
    parser.add_argument("--duration-s", type=float, required=True, help="wall seconds they take")
    parser.add_argument("--seed", type=int, default=0, help="seed of the training")
    parser.add_argument("--baseline", type=Path, help="file for January's events, as JSON lines")
    # Ctrl-C in the terminal is the parent's to handle; it stops this process through stdin.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return _run(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())

"""A model server on an accelerated clock: `python -m agent.demo.model_server --help`.

Serves the flights of 2013 in order of scheduled departure. Each is one request to the model and one
event on the topic of inferences; when the flight lands, its label goes to the topic of labels.
Record timestamps are the simulated time, as they would be in a replayed history.

It talks with the process that started it in JSON lines: it writes `ready`, waits for a line on
stdin, then writes `tick` (4 a second), `injected` and, at the end, `done`. Another line on stdin,
or its end, stops it; what was produced is flushed all the same.
"""

from __future__ import annotations

import argparse
import heapq
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import orjson

from agent.demo import flights as data
from agent.demo.model import NAME, VERSION, DelayModel

if TYPE_CHECKING:
    from numpy.typing import NDArray

KM_PER_MILE: Final = 1.609344
MICRO_BATCH: Final = 128  # rows of one model call; they share its latency, as batched requests do
TICK_S: Final = 0.02
LONGEST_STEP_MS: Final = 6 * 3_600_000  # simulated; a server that is behind still reports and stops
REPORT_EVERY_S: Final = 0.25
FLUSH_TIMEOUT_S: Final = 20.0


@dataclass(frozen=True)
class Break:
    """An upstream fault: from `from_ms` (simulated) on, `apply` changes the model's inputs in place."""

    what: str
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

    def at(share: float) -> int:
        """The beginning of a window, so that the first one concerned is wholly so."""
        return data.YEAR_START_MS + int(days * share) * data.DAY_MS

    everywhere = tuple(flights.categories["origin"])
    feeds = data.FEEDS
    return [
        Break("JFK weather feed turned null", ("JFK",), feeds["weather"], at(0.5), silence_weather),
        Break(
            "distance feed changed unit: miles to km",
            everywhere,
            feeds["distance"],
            at(0.66),
            kilometres,
        ),
    ]


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
    ) -> None:
        self._flights, self._model, self._publisher = flights, model, publisher
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
        scores, seconds = self._model.predict(inputs)
        latency_ms = round(seconds * 1e3, 4)
        columns = self._columns(inputs)
        categories = self._flights.categories["origin"]
        for i in range(start, stop):
            row = i - start
            score = round(float(scores[row]), 6)
            time_ms = int(self._flights.departs_ms[i])
            origin = categories[self._flights.codes["origin"][i]]
            request = self._id(i)
            event = {
                "id": request,
                "ts": time_ms,
                "model": NAME,
                "version": VERSION,
                "features": {name: columns[name][row] for name in data.FEATURES},
                "prediction": {
                    "label": "late" if score > self._model.threshold else "on_time",
                    "score": score,
                    "probabilities": {"late": score, "on_time": round(1.0 - score, 6)},
                },
                "latency_ms": latency_ms,
                "status": "ok",
                "segment": {"origin": origin},
            }
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


def _say(**message: Any) -> None:
    """One JSON line on stdout. A parent that has gone away is noticed through stdin."""
    try:
        sys.stdout.buffer.write(orjson.dumps(message) + b"\n")
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        sys.exit(1)


def _run(arguments: argparse.Namespace) -> int:
    _say(event="preparing", what="joining a year of flights with the weather")
    flights = data.load()
    _say(event="preparing", what="training the delay model")
    model = DelayModel(flights, seed=arguments.seed)
    flights = flights.head(arguments.days)
    publisher = Publisher(arguments.bootstrap)
    server = Server(
        flights,
        model,
        publisher,
        planned_breaks(flights, arguments.days),
        topic=arguments.topic,
        label_topic=arguments.label_topic,
    )
    _say(event="ready", flights=len(flights), threshold=model.threshold)
    if not sys.stdin.readline():
        return 1
    stop = threading.Event()

    def await_stop() -> None:
        sys.stdin.readline()
        stop.set()

    threading.Thread(target=await_stop, name="stdin", daemon=True).start()

    started = time.monotonic()

    def say_break(fault: Break) -> None:
        _say(
            event="injected",
            what=fault.what,
            streams=fault.streams,
            features=fault.features,
            at_s=round(time.monotonic() - started, 3),
            sim_ms=fault.from_ms,
        )

    end_ms = data.end_of(arguments.days)
    speed = (end_ms - data.YEAR_START_MS) / arguments.duration_s
    now_ms, reported_s = data.YEAR_START_MS, 0.0
    while now_ms < end_ms and not stop.is_set():
        elapsed_s = time.monotonic() - started
        clock_ms = min(data.YEAR_START_MS + int(elapsed_s * speed), end_ms)
        now_ms = min(clock_ms, now_ms + LONGEST_STEP_MS)
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
    # Ctrl-C in the terminal is the parent's to handle; it stops this process through stdin.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return _run(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())

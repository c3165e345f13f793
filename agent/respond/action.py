"""One action at work: which verdicts it takes, what waits, how often it tries, what became of each.

    offered -> held (debounce) -> queued -> tried, again and again -> one outcome

Outcomes
    delivered    the receiver took it
    refused      the receiver will always refuse it
    failed       not delivered within `give_up_s` of being offered
    left         not delivered before the process stopped: a process that keeps state tells it again
    dropped      the queue was full, or the receiver is gone for good
    held_back    it ended, or became something else, before `hold_s`
    repeated     delivered before a restart: not sent again
    dry_run      would have been sent

Invariants
1. `offer` never waits. Held and queued verdicts together are at most `queue`, of an alarm one is held.
2. Verdicts are tried in the order in which they are due, one at a time, at most `max_per_minute` tries.
3. An end (`resolved`) is told only of an alarm whose beginning was told, or is about to be; unless the
   action wants no beginnings.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

from agent.config import Action as Options
from agent.emit.backoff import Backoff
from agent.emit.complaints import Complaints
from agent.errors import PermanentExportError, TransientExportError
from agent.respond.channel import Channel
from agent.respond.event import Event, alarm_of
from agent.respond.http import GoneError
from agent.telemetry import Telemetry
from agent.types import Json
from agent.verdict import State, Verdict

log = logging.getLogger(__name__)

#: Alarms whose beginning was told, to tell their end.
MAX_TOLD: Final = 10_000
_MINUTE_S: Final = 60.0
_ENDS: Final = frozenset((State.RESOLVED, State.OK))


@dataclass(slots=True)
class Item:
    """A verdict on its way. `settled`: to be called once, when it has its outcome."""

    event: Event
    settled: Callable[[], None]
    offered_s: float
    due_s: float
    n_tries: int = 0
    said: str = ""  # by the last try that failed


#: Told of each outcome: the action, the item, the outcome's name.
OnOutcome = Callable[["ActionRunner", Item, str], None]


class ActionRunner:
    """One action. All on one loop; `on_outcome` is called before the item is settled."""

    def __init__(
        self,
        options: Options,
        channel: Channel,
        telemetry: Telemetry,
        *,
        on_outcome: OnOutcome,
        was_delivered: Callable[[str, str], bool],
        dry_run: bool = False,
        clock: Callable[[], float] = time.monotonic,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.name = options.name
        self.dry_run = dry_run or options.dry_run
        self.channel = channel
        self._options = options
        self._telemetry = telemetry
        self._on_outcome = on_outcome
        self._was_delivered = was_delivered
        self._clock = clock
        self._backoff = Backoff(
            options.retry_initial_s,
            max(options.retry_initial_s, options.retry_max_s),
            uniform=uniform,
        )
        self._complaints = Complaints(log, clock=clock)
        self._held: OrderedDict[str, Item] = (
            OrderedDict()
        )  # all for as long: the first is due first
        self._queue: deque[Item] = deque()
        self._told: OrderedDict[str, None] = OrderedDict()
        self._tries: deque[float] = deque(maxlen=options.max_per_minute)
        self._arrived = asyncio.Event()
        self._hurried = asyncio.Event()
        self._turn = asyncio.Lock()
        self._gone = ""
        self._last: Json | None = None

    # ------------------------------------------------------------ in

    def wants(self, verdict: Verdict, own_actions: Sequence[str]) -> bool:
        """Whether it takes this verdict. `own_actions`: those that its monitor names, if any."""
        options = self._options
        if own_actions and self.name not in own_actions:
            return False
        if (
            verdict.state.value not in options.on
            or verdict.severity.value not in options.severities
        ):
            return False
        is_end = verdict.state is State.RESOLVED and State.FIRING.value in options.on
        if is_end and alarm_of(verdict) not in self._told:
            return False
        return _matches(verdict.stream.model, options.models) and (
            bool(own_actions) or _matches(verdict.monitor, options.monitors)
        )

    def passed(self, verdict: Verdict) -> None:
        """A verdict came that is perhaps not ours: what is held of its alarm holds no more."""
        alarm = alarm_of(verdict)
        item = self._held.pop(alarm, None)
        if item is not None:
            if item.event.verdict.state is State.FIRING:
                self._told.pop(alarm, None)
            self._outcome(item, "held_back")

    def offer(self, event: Event, settled: Callable[[], None]) -> None:
        """Take a verdict that it `wants`. Never waits."""
        now = self._clock()
        verdict = event.verdict
        hold_s = 0.0 if verdict.state in _ENDS else self._options.hold_s
        item = Item(event, settled, now, now + hold_s)
        if self._gone or self.n_waiting >= self._options.queue:
            item.said = self._gone or f"{self.n_waiting} verdicts wait"
            self._complaints.say("full", f"action {self.name}: a verdict is dropped: {item.said}")
            self._outcome(item, "dropped")
            return
        self._note_told(verdict)
        if hold_s:
            self._held[alarm_of(verdict)] = item
        else:
            self._queue.append(item)
        self._arrived.set()

    def restore(self, firing: Iterable[Verdict]) -> None:
        """Alarms that it `wants` and that fire since before this process: their beginnings were told."""
        wanted = list(firing)
        for verdict in wanted:
            self._note_told(verdict)
        if not self.dry_run:
            self.channel.restore(wanted)

    def _note_told(self, verdict: Verdict) -> None:
        alarm = alarm_of(verdict)
        if verdict.state is State.FIRING:
            self._told[alarm] = None
            while len(self._told) > MAX_TOLD:
                self._told.popitem(last=False)
        elif verdict.state is State.RESOLVED:
            self._told.pop(alarm, None)

    # ------------------------------------------------------------ out

    async def run(self) -> None:
        """Try what is due, until cancelled."""
        while True:
            await self._wait()
            async with self._turn:
                if self._queue:
                    await self._next()

    async def flush(self, timeout_s: float) -> None:
        """Try each verdict that is due once more within `timeout_s`; the others are left, not settled."""
        self._hurried.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s), self._turn:
                while self._queue:
                    await self._next()
        left = [*self._queue, *self._held.values()]
        self._queue.clear()
        self._held.clear()
        for item in left:
            self._count(item, "left")
        self._hurried.clear()

    async def close(self) -> None:
        await self.channel.close()

    async def _wait(self) -> None:
        """Until the queue has a verdict; those that were held long enough are put there."""
        while True:
            now = self._clock()
            due_s = None
            for alarm, item in list(self._held.items()):
                if item.due_s > now:
                    due_s = item.due_s
                    break
                self._queue.append(self._held.pop(alarm))
            if self._queue:
                return
            wait_s = due_s - now if due_s is not None else None
            self._arrived.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._arrived.wait()

    async def _next(self) -> None:
        """Bring the first verdict to its outcome. It stays where it is if this is cancelled."""
        item = self._queue[0]
        outcome = await self._delivered(item)
        self._queue.popleft()
        self._outcome(item, outcome)

    async def _delivered(self, item: Item) -> str:
        """Try until there is an outcome, which is returned."""
        if self._gone:
            return "dropped"
        if self._was_delivered(self.name, item.event.id):
            return "repeated"
        if self.dry_run:
            return "dry_run"
        limit_s = item.offered_s + self._options.give_up_s
        while True:
            await self._pause()
            item.n_tries += 1
            self._tries.append(self._clock())
            started, how = time.perf_counter(), "transient"
            try:
                await self.channel.deliver(item.event)
                how = "delivered"
            except TransientExportError as error:
                item.said = str(error)
                due_s = self._backoff.failed(self._clock(), error.retry_after_s)
                is_late, is_last = due_s > limit_s, self._hurried.is_set()
                self._complaints.say(
                    "transient",
                    f"action {self.name}: {error}; {'given up' if is_late or is_last else 'tried again'}",
                )
                if is_late or is_last:
                    return "failed" if is_late else "left"
                continue
            except PermanentExportError as error:
                how = "permanent"
                item.said = str(error)
                self._backoff.succeeded()
                if isinstance(error, GoneError):
                    self._gone = (
                        f"{error}: it wants nothing any more; remove the action, or restart"
                    )
                self._complaints.say("permanent", f"action {self.name}: {error}; not tried again")
                return "refused"
            except (
                Exception
            ) as error:  # a mistake in this program: it costs this verdict, not the agent
                how = "permanent"
                item.said = f"{type(error).__name__}: {error}"
                log.exception("action %s failed", self.name)
                return "failed"
            finally:
                self._telemetry.record(
                    "inferometer.actions.duration",
                    time.perf_counter() - started,
                    action=self.name,
                    outcome=how,
                )
            self._backoff.succeeded()
            return "delivered"

    async def _pause(self) -> None:
        """Until the receiver is due again, and the limit of tries lets one through."""
        due_s = self._backoff.not_before
        if len(self._tries) == self._tries.maxlen:
            due_s = max(due_s, self._tries[0] + _MINUTE_S)
        wait_s = due_s - self._clock()
        if wait_s > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._hurried.wait()

    def _outcome(self, item: Item, outcome: str) -> None:
        self._count(item, outcome)
        if outcome != "left":
            item.settled()

    def _count(self, item: Item, outcome: str) -> None:
        self._telemetry.add("inferometer.actions", action=self.name, outcome=outcome)
        self._last = {"outcome": outcome, "id": item.event.id, "said": item.said or None}
        self._on_outcome(self, item, outcome)

    # ------------------------------------------------------------ what is shown

    @property
    def n_waiting(self) -> int:
        return len(self._held) + len(self._queue)

    def state(self) -> Json:
        """Its part of `/v1/state`."""
        return {
            "name": self.name,
            "waiting": self.n_waiting,
            "dry_run": self.dry_run,
            "gone": self._gone or None,
            "last": self._last,
        }


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)

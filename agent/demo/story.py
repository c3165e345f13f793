"""What has happened in a demo so far: counts, faults, verdicts and actions, for the view and the report."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from agent.demo.configuration import CANARY_MONITOR, ON_CALL, ROLLBACK
from agent.demo.flights import DAY_MS, FEATURES
from agent.demo.model import VERSION

_RATE_SPAN_S: Final = 3.0
_FIRING: Final = "firing"
_MOST: Final = 0.5


@dataclass
class Injected:
    """An upstream fault that the model server made; the agent knows nothing of it."""

    what: str
    at_s: float
    sim_ms: int
    feed: str
    streams: frozenset[str]
    features: frozenset[str]
    after_s: float | None = None  # seconds until an alarm named its feed; None while none has


@dataclass
class Canary:
    """A version that is worse than its stable twin, from `at_s` on; None: it has not happened."""

    version: str
    at_s: float
    sim_ms: int
    after_s: float | None = None  # seconds until the alarm
    rolled_back_s: float | None = None  # seconds until the server took its traffic away

    @property
    def what(self) -> str:
        return f"canary v{self.version} is worse than its stable twin"


@dataclass
class Alarm:
    """One alarm: the verdict it fired with, and whether it still stands."""

    id: str
    verdict: Mapping[str, Any]
    at_s: float
    sim_ms: int
    fault: Injected | Canary | None = None
    is_open: bool = True

    @property
    def is_page(self) -> bool:
        return bool(self.verdict["severity"] == "page")

    @property
    def segments(self) -> list[str]:
        """The one airport that explains most of the alarm; none: it is about several."""
        causes = (cause for cause in self.verdict["attribution"] if cause["segment"])
        most = {c["segment"].get("origin") for c in causes if (c["share"] or 0.0) > _MOST}
        return [origin for origin in most if origin] if len(most) == 1 else []

    @property
    def features(self) -> list[str]:
        """Features among its causes, those of its source alone where it names one."""
        source = self.verdict["source"]
        named = [
            cause["feature"]
            for cause in self.verdict["attribution"]
            if cause["feature"] and source in (None, cause["source"])
        ]
        known = {name: at for at, name in enumerate(FEATURES)}
        return sorted(dict.fromkeys(named), key=lambda name: known.get(name, len(known)))

    def sentence(self) -> str:
        """What broke, in one line: source and airport, features, and the agent's words."""
        who = self.verdict["source"] or self.verdict["monitor"]
        if who == CANARY_MONITOR:
            who = f"canary v{self.verdict['stream']['version']}"
        names = ", ".join(self.features[:3])
        if len(self.features) > 3:
            names += f" +{len(self.features) - 3}"
        best = next((c for c in self.verdict["attribution"] if c["feature"]), None)
        detail = best["detail"] if best and best["detail"] else self.verdict["why"]
        parts = dict.fromkeys(
            (" ".join([who, *self.segments]), names, detail)
        )  # a feed of one feature
        return ": ".join(part for part in parts if part)


@dataclass
class Story:
    """Filled by the demo's loop; times are seconds since the model server's clock began."""

    days: int
    duration_s: float
    start_ms: int
    sim_ms: int = 0
    produced: int = 0
    labels_produced: int = 0
    injected: list[Injected] = field(default_factory=list)
    canary: Canary | None = None
    alarms: dict[str, Alarm] = field(default_factory=dict)
    verdicts: list[dict[str, Any]] = field(default_factory=list)
    actions: list[dict[str, Any]] = field(default_factory=list)
    state: Mapping[str, Any] = field(default_factory=dict)
    _history: deque[tuple[float, int, int]] = field(default_factory=deque)

    def take_state(self, state: Mapping[str, Any], at_s: float) -> None:
        self.state = state
        self._history.append((at_s, self.rows, self.labels))
        while len(self._history) > 2 and at_s - self._history[0][0] > _RATE_SPAN_S:
            self._history.popleft()

    def take_message(self, message: Mapping[str, Any]) -> None:
        """`tick`, `injected`, `canary`, `rolled_back` or `done` of the model server."""
        match message["event"]:
            case "injected":
                self.injected.append(
                    Injected(
                        message["what"],
                        message["at_s"],
                        message["sim_ms"],
                        message["feed"],
                        frozenset(message["streams"]),
                        frozenset(message["features"]),
                    )
                )
            case "canary":
                self.canary = Canary(message["version"], message["at_s"], message["sim_ms"])
            case "rolled_back" if self.canary is not None:
                self.canary.rolled_back_s = round(message["at_s"] - self.canary.at_s, 3)
            case "tick" | "done":
                self.produced = message["produced"]
                self.labels_produced = message["labels"]
                self.sim_ms = message.get("sim_ms", self.sim_ms)

    def take_event(self, action: str, event: Mapping[str, Any], at_s: float) -> bool:
        """A CloudEvent that the webhook received; True when it asks for the canary's end."""
        verdict = event["data"]
        at_s = round(at_s, 3)
        if action == ROLLBACK:
            self.actions.append(
                {
                    "action": action,
                    "at_s": at_s,
                    "id": event["id"],
                    "type": event["type"],
                    "subject": event["subject"],
                    "alarm": verdict["alarm"],
                    "verified": True,
                }
            )
            return bool(verdict["state"] == _FIRING)
        if action == ON_CALL:
            self.verdicts.append({"id": event["id"], "at_s": at_s, **verdict})
            self._alarm(verdict, at_s)
        return False

    def _alarm(self, verdict: Mapping[str, Any], at_s: float) -> None:
        id = verdict["alarm"]
        if verdict["state"] != _FIRING:
            if id in self.alarms:
                self.alarms[id].is_open = False
            return
        if id in self.alarms:
            return
        began = datetime.fromisoformat(verdict["window_start"])
        alarm = Alarm(id, verdict, at_s, int(began.timestamp() * 1000))
        alarm.fault = self._fault_behind(alarm)
        if alarm.fault is not None and alarm.fault.after_s is None:
            alarm.fault.after_s = round(at_s - alarm.fault.at_s, 3)
        self.alarms[id] = alarm

    def _fault_behind(self, alarm: Alarm) -> Injected | Canary | None:
        """What an alarm uncovers: it names the feed, or the version, and its window ended after the fault began."""
        verdict, end_ms = alarm.verdict, alarm.sim_ms + DAY_MS
        canary = self.canary
        if verdict["stream"]["version"] != VERSION:
            return canary if canary is not None and end_ms > canary.sim_ms else None
        for fault in self.injected:
            names = verdict["source"] == fault.feed and alarm.is_page
            if names and end_ms > fault.sim_ms and fault.features.intersection(alarm.features):
                return fault
        return None

    def broken(self, origin: str | None = None) -> set[str]:
        """Features that alarms name which are open and page; those of one airport, or of all."""
        return {
            name
            for alarm in self.alarms.values()
            if alarm.is_open and alarm.is_page and not isinstance(alarm.fault, Canary)
            for name in alarm.features
            if origin is None or not alarm.segments or origin in alarm.segments
        }

    @property
    def rows(self) -> int:
        return int(self._tally("rows"))

    @property
    def labels(self) -> int:
        return int(self._tally("labels"))

    @property
    def dropped(self) -> int:
        return sum((self.state.get("tally") or {}).get("dropped", {}).values())

    def _tally(self, name: str) -> int:
        return int((self.state.get("tally") or {}).get(name, 0))

    def rates(self) -> tuple[float, float]:
        """Rows and labels a second that the agent counted, over the last three seconds."""
        if len(self._history) < 2:
            return 0.0, 0.0
        (t0, r0, l0), (t1, r1, l1) = self._history[0], self._history[-1]
        span_s = max(t1 - t0, 1e-3)
        return (r1 - r0) / span_s, (l1 - l0) / span_s

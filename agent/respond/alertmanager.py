"""Alerts of Alertmanager's API v2: sent when an alarm fires, again while it does, and once more at its end.

Invariants
1. Labels say which alert it is, so they are those of the verdict that fired first, until it ends.
2. An alert that fires ends by itself `LIVES` resends after it was last sent: no agent, no alert.
3. An end is sent again for `ENDED_FOR_S`, as Prometheus does: a member of the cluster that was away, or
   that took only the end, hears of it.

Every member of a cluster is sent everything; one that accepts is enough, and the next resend reaches the
others. Source: prometheus.io/docs/alerting/latest/clients and .../alerts_api.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import orjson

from agent.config import Alertmanager as Options
from agent.emit.complaints import Complaints
from agent.emit.verdict_events import iso
from agent.errors import ExportError, PermanentExportError, TransientExportError
from agent.respond.event import Event, alarm_of
from agent.respond.http import Poster, place_of
from agent.types import Json
from agent.verdict import State, Verdict

log = logging.getLogger(__name__)

LIVES: Final = 4
ENDED_FOR_S: Final = 900.0
#: Alerts of one request.
BATCH: Final = 64
#: Alerts kept at a time; of more, the oldest is no longer sent again and ends by itself.
MAX_ALERTS: Final = 10_000

_PATH: Final = "/api/v2/alerts"
_NOT_A_LABEL: Final = re.compile(r"[^a-zA-Z0-9_]")


@dataclass(slots=True)
class _Alert:
    labels: dict[str, str]
    annotations: dict[str, str]
    starts_ms: int
    ended_ms: int | None = None  # None: it fires


class AlertmanagerChannel:
    """See `channel.Channel`. `option`: where it is configured, for messages."""

    def __init__(
        self,
        options: Options,
        option: str,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._options = options
        self._clock = clock
        self._alerts: dict[str, _Alert] = {}  # by alarm
        self._complaints = Complaints(log)
        self._urls = [url.rstrip("/") + _PATH for url in options.urls]
        self._posters = [
            Poster(
                option,
                headers=options.headers,
                headers_file=options.headers_file,
                tls=options.tls,
                timeout_s=options.timeout_s,
            )
            for _ in options.urls
        ]

    async def deliver(self, event: Event) -> None:
        """Take the verdict in, and send its alert."""
        alert = self._take(event.verdict)
        await self._send([self._document(alert)])

    def restore(self, firing: Iterable[Verdict]) -> None:
        for verdict in firing:
            self._take(verdict)

    async def run(self) -> None:
        """Send again what fires, and what has ended lately."""
        while True:
            await asyncio.sleep(self._options.resend_s)
            await self.resend()

    async def resend(self) -> None:
        """One round. A failure is said, and made good by the next."""
        before_ms = (self._clock() - ENDED_FOR_S) * 1000
        for alarm, alert in list(self._alerts.items()):
            if alert.ended_ms is not None and alert.ended_ms < before_ms:
                del self._alerts[alarm]
        documents = [self._document(alert) for alert in self._alerts.values()]
        for start in range(0, len(documents), BATCH):
            try:
                await self._send(documents[start : start + BATCH])
            except ExportError as error:
                self._complaints.say("resend", f"alerts could not be sent again: {error}")
            except (
                Exception
            ):  # a mistake in this program: alerts end by themselves, the agent does not
                log.exception("alerts could not be sent again")

    async def close(self) -> None:
        for poster in self._posters:
            await poster.close()

    def _take(self, verdict: Verdict) -> _Alert:
        alarm = alarm_of(verdict)
        known = self._alerts.get(alarm)
        now_ms = int(self._clock() * 1000)
        alert = known or _Alert({}, {}, min(verdict.window_end_ms, now_ms))
        if known is None:
            alert.labels = labels_of(verdict, self._options.labels)
        alert.annotations = annotations_of(verdict)
        alert.ended_ms = now_ms if verdict.state is State.RESOLVED else None
        self._alerts.pop(alarm, None)
        self._alerts[alarm] = alert  # the newest is the last
        while len(self._alerts) > MAX_ALERTS:
            del self._alerts[next(iter(self._alerts))]
        return alert

    def _document(self, alert: _Alert) -> Json:
        ends_ms = alert.ended_ms
        if ends_ms is None:
            ends_ms = int((self._clock() + LIVES * self._options.resend_s) * 1000)
        return {
            "labels": alert.labels,
            "annotations": alert.annotations,
            "startsAt": iso(min(alert.starts_ms, ends_ms)),
            "endsAt": iso(ends_ms),
        }

    async def _send(self, documents: list[Json]) -> None:
        """To every member. Raises what the last one said when none accepted."""
        body = orjson.dumps(documents)
        headers = {"content-type": "application/json"}
        failures: list[ExportError] = []
        for url, poster in zip(self._urls, self._posters, strict=True):
            try:
                await poster.post(url, body, headers)
            except (TransientExportError, PermanentExportError) as error:
                failures.append(error)
                if len(self._urls) > 1:
                    self._complaints.say(place_of(url), f"{error}")
        if len(failures) == len(self._urls):
            raise next((f for f in failures if isinstance(f, TransientExportError)), failures[-1])


def labels_of(verdict: Verdict, more: dict[str, str]) -> dict[str, str]:
    """What tells alerts apart: the same from the first to the last verdict of an alarm."""
    stream = verdict.stream
    found = {
        **more,
        "alertname": verdict.monitor,
        "severity": verdict.severity.value,
        "model": stream.model,
        "version": stream.version,
        "source": verdict.source or "",
        "alarm": alarm_of(verdict),
        **{f"segment_{_NOT_A_LABEL.sub('_', name)}": value for name, value in stream.segment},
    }
    return {name: value for name, value in found.items() if value}


def annotations_of(verdict: Verdict) -> dict[str, str]:
    """What a person reads; it may change while the alert fires."""
    causes = [
        " ".join(filter(None, (cause.source, cause.feature, cause.statistic)))
        for cause in verdict.attribution[:5]
    ]
    found = {
        "summary": verdict.why or f"{verdict.monitor} is {verdict.state.value}",
        "feature": verdict.feature or "",
        "value": f"{verdict.value:g}",
        "threshold": f"{verdict.threshold:g}",
        "rows": str(verdict.rows),
        "window": f"{iso(verdict.window_start_ms)}/{iso(verdict.window_end_ms)}",
        "explained_by": "; ".join(causes),
    }
    return {name: value for name, value in found.items() if value}

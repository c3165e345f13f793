"""Monitors that read no value in a whole backtest: a name mistyped, or a metric that values of this kind do not have.

Such a monitor never fires, so it looks like one that is content. It is said in a note, which names what is near,
and by one `blind` verdict for each stream that the monitor selects.
"""

from __future__ import annotations

import difflib
import math
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from typing import Final

from agent.config import Monitor
from agent.config.monitors import JUDGED, STREAM
from agent.judge.explanation import listed
from agent.judge.sources import matches
from agent.judge.values import has, owners_of
from agent.types import Column, Json, Kind, StreamKey
from agent.verdict import Severity, State, Verdict

_MOST_NEAR: Final = 3


class Reads:
    """Counts values by monitor; told those of every window that is judged, also where there are none."""

    def __init__(self) -> None:
        self.values: Counter[str] = Counter()
        self.asked: set[str] = set()

    def see(
        self, monitor: Monitor, stream: StreamKey, values: Mapping[Column | None, float]
    ) -> None:
        """The values of one window of one stream."""
        del stream
        self.asked.add(monitor.name)
        self.values[monitor.name] += sum(math.isfinite(v) for v in values.values())


def unread(
    monitors: Sequence[Monitor],
    reads: Reads,
    inventory: Json,
    width_ms: int,
    told: Container[str] = (),
) -> tuple[list[str], list[Verdict]]:
    """Notes and `blind` verdicts, of the last window, of monitors that select a stream and read nothing of it.

    told  monitors that have something to say themselves: too few rows, no baseline, an alarm
    """
    notes, verdicts = [], []
    for monitor in monitors:
        if reads.values[monitor.name] or monitor.name in told:
            continue
        streams = {
            StreamKey(model["model"], version["version"]): version
            for model in inventory["models"]
            for version in model["versions"]
            if matches(monitor.select.model, model["model"])
            and matches(monitor.select.version, version["version"])
        }
        is_asked = monitor.name in reads.asked or monitor.metric in JUDGED
        why = _why(monitor, list(streams.values()), is_asked=is_asked)
        if not streams or not why:
            continue
        notes.append(f'monitor "{monitor.name}" reads nothing: {why}')
        verdicts += [
            _blind(monitor, stream, version["last_seen_ms"], width_ms, why)
            for stream, version in streams.items()
        ]
    return notes, verdicts


def _why(monitor: Monitor, versions: Sequence[Json], *, is_asked: bool) -> str:
    """Why there is no value; "" where nothing is wrong with what it selects."""
    metric, pattern = monitor.metric, monitor.select.feature
    if not is_asked:
        segment = monitor.select.segment or {}
        wanted = ", ".join(f"{name}={value}" for name, value in sorted(segment.items()))
        return f"no segment is {wanted}; correct select.segment" if segment else ""
    if metric in STREAM:
        return "no event has a latency" if metric.startswith("latency_") else ""
    features: dict[str, str | None] = {}
    outputs: dict[str, str | None] = {}
    for version in versions:
        features |= version["features"]
        outputs |= version["outputs"]
    if pattern is None:
        taken = features
    else:
        taken = {n: k for n, k in (features | outputs).items() if matches(pattern, n)}
    if not taken:
        return f"no feature is {pattern or '*'}; {_near(pattern or '*', [*features, *outputs])}"
    if metric in JUDGED:
        return ""
    if not any(has(metric, Kind(kind) if kind is not None else None) for kind in taken.values()):
        kinds = listed([f"{name} is {kind}" for name, kind in sorted(taken.items())])
        return f"{kinds}; {metric} is of {owners_of(metric)}: correct one of the two"
    return f"no window has a {metric} of {listed(sorted(taken))}, or the baseline does not have it"


def _near(pattern: str, names: Sequence[str]) -> str:
    """What may have been meant: an output named without its role, else the names most alike, else all."""
    near = [name for name in names if name.endswith(f".{pattern}")]
    near = near or difflib.get_close_matches(pattern, names, _MOST_NEAR)
    return f"is it {' or '.join(near)}?" if near else f"the events have {listed(sorted(names))}"


def _blind(monitor: Monitor, stream: StreamKey, end_ms: int, width_ms: int, why: str) -> Verdict:
    return Verdict(
        monitor=monitor.name,
        stream=stream,
        window_start_ms=end_ms - width_ms,
        window_end_ms=end_ms,
        state=State.BLIND,
        previous=State.BLIND,
        severity=Severity.INFO,
        value=0.0,
        threshold=0.0,
        metric=monitor.metric,
        why=why,
    )

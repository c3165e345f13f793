"""What monitors will watch, before anything is started: streams, cells, series, memory and processor time a window.

From declared models upper bounds; from a sample what it really holds. Memory is that of a learned baseline;
time was measured at 20 columns (docs/monitoring.md). Series are upper bounds either way: a status is a series once a
monitor was in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from agent.config import Config, Monitor
from agent.config.monitors import DISTANCES, JUDGED, STREAM
from agent.judge.bounds import takes
from agent.judge.reference import ModelKey
from agent.judge.rules import rules_of
from agent.judge.sources import matches
from agent.types import StreamKey
from agent.verdict import Severity

#: Cells of a column: shape, loc, missing; of the stream: volume.
_CELLS: Final = 3
#: Seconds of one core for a column of a window: read, measured, judged; its shown distances; and for a bound.
COLUMN_S: Final = 55e-6
DISTANCES_S: Final = 120e-6
BOUND_S: Final = 5e-6
#: Bytes of a column's baseline with what is derived from it, and of its panes while it is learned.
_COLUMN_BYTES: Final = 12_000
_LEARNING_BYTES: Final = 64 * 1_500
#: Statuses of a quiet window, and of an alarm at one severity: ok, learning, blind; pending, firing, resolved, ok.
_QUIET, _ALARM = 3, 4
#: `inference.verdict.value` and `.threshold`.
_NUMBERS: Final = 2
#: Names that the defaults' verdicts go under: quality, drift, state, freshness.
_NAMES_OF_DEFAULTS: Final = 4
#: Distances of one column at most: psi, js, hellinger, ks, wasserstein, auc, missing, violations.
_DISTANCES: Final = 8


@dataclass(frozen=True, slots=True)
class Watch:
    """One monitor: how many streams and values it watches, what a window of all of them costs, and how many series
    of `inference.verdict.*` it can have."""

    monitor: str
    metric: str
    streams: int
    values: int
    cpu_s: float
    series: int


@dataclass(frozen=True, slots=True)
class Forecast:
    """All monitors.

    memory_bytes    baselines and evidence; `learning_bytes` on top until they are learned
    verdict_series  of all monitors, and of the inventory; `drift_series` of distances from baselines
    """

    watches: list[Watch]
    cpu_s: float
    memory_bytes: int
    learning_bytes: int
    warnings: list[str]
    verdict_series: int = 0
    drift_series: int = 0


def forecast(
    config: Config, streams: Mapping[StreamKey, int], *, is_declared: bool = False
) -> Forecast:
    """`streams`: columns of each stream that is expected.

    is_declared  from declarations, which know models, but no names of versions and segments
    """
    if not config.judge.enabled:
        return Forecast([], 0.0, 0, 0, [])
    wholes: dict[ModelKey, int] = {}
    segments: dict[ModelKey, list[StreamKey]] = {}
    for stream, columns in streams.items():
        key = ModelKey(stream.model, stream.version)
        wholes[key] = max(wholes.get(key, 0), columns)
        if stream.segment:
            segments.setdefault(key, []).append(stream)
    watches: list[Watch] = []
    for selected in rules_of(config):
        keys = [key for key in wholes if selected.takes(key)]
        n = len(keys) + sum(len(segments.get(key, ())) for key in keys)
        values = sum(wholes[key] * (1 + len(segments.get(key, ()))) for key in keys)
        name = selected.rule.name or "defaults"
        metric = ", ".join(sorted(selected.rule.channels))
        cost = COLUMN_S * values
        if not selected.rule.name and config.export.drift != "none":
            cost += DISTANCES_S * sum(wholes[key] for key in keys)
        names = 1 if selected.rule.name else _NAMES_OF_DEFAULTS
        statuses = _QUIET + _ALARM
        if selected.rule.severity is Severity.PAGE:  # what is not sure enough to page is a ticket
            statuses += _ALARM
        series = names * _series(statuses, len(keys), len({key.model for key in keys}))
        watches.append(Watch(name, metric, n, values * _CELLS + len(keys), cost, series))
    watches += [
        _bound(monitor, streams, wholes)
        for monitor in config.monitors
        if monitor.metric not in JUDGED
    ]
    columns = sum(wholes[key] * (1 + len(segments.get(key, ()))) for key in wholes)
    models = {model.name for model in config.models} | {key.model for key in wholes}
    return Forecast(
        watches,
        sum(watch.cpu_s for watch in watches),
        columns * _COLUMN_BYTES,
        sum(wholes.values()) * _LEARNING_BYTES if config.judge.baseline_file is None else 0,
        _unmatched(config, streams) if is_declared else _warnings(watches, bool(streams)),
        sum(watch.series for watch in watches)
        + _series(_QUIET + _ALARM, len(models) + len(wholes), len(models)),  # the inventory's
        _drift_series(config, sum(wholes.values())),
    )


def _series(statuses: int, streams: int, models: int) -> int:
    """Of a monitor on so many streams: each has its status, and numbers; transitions are counted by model."""
    return streams * (statuses + _NUMBERS) + models * statuses


def _drift_series(config: Config, columns: int) -> int:
    """Distances of whole models; those of segments are not shown."""
    each = {"none": 0, "values": 1, "bounds": 3}[config.export.drift]
    return min(config.export.max_drift_series, columns * _DISTANCES * each)


def _bound(
    monitor: Monitor, streams: Mapping[StreamKey, int], wholes: Mapping[ModelKey, int]
) -> Watch:
    known = [(StreamKey(key.model, key.version), columns) for key, columns in wholes.items()]
    known += [(stream, columns) for stream, columns in streams.items() if stream.segment]
    chosen = [
        columns
        for stream, columns in known
        if takes(monitor, ModelKey(stream.model, stream.version), dict(stream.segment))
    ]
    values = len(chosen) if monitor.metric in STREAM else sum(chosen)
    cost = DISTANCES_S if monitor.metric in DISTANCES and monitor.baseline else BOUND_S
    models = {stream.model for stream, _ in known}
    series = _series(_QUIET + _ALARM, len(chosen), len(models))
    return Watch(monitor.name, monitor.metric, len(chosen), values, values * cost, series)


def _unmatched(config: Config, streams: Mapping[StreamKey, int]) -> list[str]:
    models = sorted({stream.model for stream in streams})
    return [
        f'monitor "{monitor.name}" selects none of the declared models: select.model is '
        f"{monitor.select.model}; models are {', '.join(models[:5])}"
        for monitor in config.monitors
        if models and not any(matches(monitor.select.model, model) for model in models)
    ]


def _warnings(watches: Sequence[Watch], has_streams: bool) -> list[str]:
    return [
        f'monitor "{watch.monitor}" selects nothing of what is expected; check its select, or declare the model.'
        for watch in watches
        if has_streams and not watch.streams
    ]

"""Replays files through the judge: the same decode, sketch, fold and judge code as `run`.

Time is the windows' own: the same files and configuration give the same verdicts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from agent.backtest.learn import Learning, Values
from agent.backtest.unread import Reads, unread
from agent.config import Config, Monitor
from agent.config.contract import ModelContract
from agent.config.monitors import JUDGED
from agent.errors import ConfigError
from agent.fold.base import Fold
from agent.fold.effects import Effects
from agent.fold.shown import Shown
from agent.ingest.files import STDIN
from agent.judge.engine import Judge
from agent.judge.explanation import listed
from agent.judge.few import too_few
from agent.judge.learner import cut
from agent.judge.read import read_json, read_notes
from agent.judge.reference import ModelKey, Reference
from agent.judge.score_tables import tables_of
from agent.judge.sources import matches
from agent.replay import Progress, sketch_files
from agent.types import Exemplar, Irregular, Json, Role, StreamKey, Tally
from agent.verdict import Cause, Drift, Judged, Severity, State, Verdict, shown_name, stream_json

#: Rows of a window where rows carry no time: a twentieth of them, within these.
LEAST_ROWS: Final = 500
MOST_ROWS: Final = 10_000
#: Files with more late rows than this are not in the order of time.
_MOST_LATE: Final = 0.05
_MOST_NAMED: Final = 5
#: Stated where no chance is left to speak of.
MOST_SCORE: Final = 999.0


@dataclass
class Timeline:
    """What a backtest found. `windows`: starts of all windows with rows, ascending."""

    verdicts: list[Verdict] = field(default_factory=list)
    drift: list[Drift] = field(default_factory=list)
    windows: list[int] = field(default_factory=list)
    width_ms: int = 60_000
    read: Tally = field(default_factory=Tally)
    by_rows: int | None = None
    notes: list[str] = field(default_factory=list)
    inventory: Json = field(default_factory=dict)
    learning: Learning = field(default_factory=Learning)
    unread: list[Verdict] = field(default_factory=list)  # of monitors that read no value

    @property
    def rows(self) -> int:
        """All that were read."""
        return self.read.rows

    @property
    def alarms(self) -> list[list[Verdict]]:
        """Verdicts of each alarm, in the order in which alarms opened."""
        found: dict[str, list[Verdict]] = {}
        for verdict in self.verdicts:
            if verdict.alarm:
                found.setdefault(verdict.alarm, []).append(verdict)
        return list(found.values())

    @property
    def pages(self) -> list[list[Verdict]]:
        """Alarms that would have paged somebody: fired, at severity page."""
        return [
            alarm
            for alarm in self.alarms
            if any(v.state is State.FIRING and v.severity is Severity.PAGE for v in alarm)
        ]


def run(
    files: Sequence[Path],
    config: Config,
    references: Sequence[Reference] = (),
    contracts: Sequence[ModelContract] = (),
    *,
    named: Mapping[str, Reference] | None = None,
    rows_per_window: int | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Timeline:
    """Judge every window of the files. Raises ConfigError and SourceError as `replay` does.

    named  references of `baselines`, by name
    """
    config = _with_model(config, references)

    def judged(rows_per_window: int | None) -> tuple[Timeline, Fold, Reads]:
        learning, reads = Learning(), Reads()

        def see(monitor: Monitor, stream: StreamKey, values: Values) -> None:
            learning.see(monitor, stream, values)
            reads.see(monitor, stream, values)

        judge = Judge(
            config,
            references,
            contracts,
            by_rows=rows_per_window is not None,
            named=named,
            on_values=see,
            with_drift=True,
        )
        timeline, fold = _run(files, config, judge, references, rows_per_window, on_progress)
        timeline.notes = judge.notes if rows_per_window is None else []
        timeline.learning = learning
        return timeline, fold, reads

    if rows_per_window is None:
        timeline, fold, reads = judged(None)
        problem = _why_not_by_time(fold, timeline)
        if problem and STDIN not in files:
            rows_per_window = min(MOST_ROWS, max(LEAST_ROWS, fold.tally.rows // 20))
            notes = [f"{problem}: windows of {rows_per_window:,} rows in the order of the files"]
            timeline, fold, reads = judged(rows_per_window)
            timeline.notes = notes
    else:
        timeline, fold, reads = judged(rows_per_window)
    if not fold.tally.rows:
        dropped = ", ".join(f"{why} {n:,}" for why, n in sorted(fold.tally.dropped.items()) if n)
        raise ConfigError(
            f"no rows in {fold.tally.records:,} records"
            f"{f' (dropped: {dropped})' if dropped else ''}; "
            "give events with a model, or name the model with --model"
        )
    timeline.read = fold.tally
    timeline.notes[:0] = _other_features(timeline, references)
    timeline.notes += read_notes(fold.tally)
    late = fold.tally.irregular[Irregular.LATE] + fold.tally.irregular[Irregular.FUTURE]
    if late and rows_per_window is None:
        timeline.notes.append(f"{late:,} of {fold.tally.rows:,} rows were late: in no window")
    _note_models(timeline, fold, references)
    _note_monitors(timeline, fold, config, reads)
    if rows_per_window is None:
        timeline.notes += _too_few_rows(timeline)
    return timeline


def _run(
    files: Sequence[Path],
    config: Config,
    judge: Judge,
    references: Sequence[Reference],
    rows_per_window: int | None,
    on_progress: Callable[[Progress], None] | None,
) -> tuple[Timeline, Fold]:
    judged = Judged()
    windows: set[int] = set()
    width_ms = int(config.windows.width_s * 1000)

    held: list[Effects] = []

    def take(effects: Effects) -> None:
        if effects.sealed:
            held.append(effects)
        if len(held) > 1:
            tell(held.pop(0))

    def tell(effects: Effects, last: int | None = None) -> None:
        sealed = [p for p in effects.sealed if p.window != last]
        sealed += cut([p for p in effects.sealed if p.window == last])
        until = effects.sealed_until
        judged.add(judge.sealed(sealed, until, until * width_ms * 1_000_000))
        windows.update(p.start_ms for p in sealed if p.rows)

    fold = sketch_files(
        files,
        config,
        on_progress=on_progress,
        on_effects=take,
        rows_per_window=rows_per_window,
        tables=tables_of(config, references),
        on_links=_linked(config, judge) if rows_per_window is None else None,
    )
    for effects in held:
        # Where the files end says nothing of how many rows their last window was to have.
        tell(effects, max(p.window for p in effects.sealed))
    return (
        Timeline(
            verdicts=judged.verdicts,
            drift=judged.drift,
            windows=sorted(windows),
            width_ms=width_ms,
            by_rows=rows_per_window,
            inventory=judge.inventory(),
        ),
        fold,
    )


def _linked(config: Config, judge: Judge) -> Callable[[list[Exemplar]], None] | None:
    """Tells the judge which bins requests are in, of columns that may be shown beside a trace."""
    if not (config.traces.enabled and config.judge.enabled):
        return None
    shown = Shown(config)
    return lambda links: judge.linked(link for link in links if shown.exemplars(link.column))


def _with_model(config: Config, references: Sequence[Reference]) -> Config:
    """Events that name no model are those of the reference's only one."""
    models = {key.model for reference in references for key in reference.models}
    if config.decode.default_model is not None or len(models) != 1:
        return config
    decode = msgspec.structs.replace(config.decode, default_model=models.pop())
    return msgspec.structs.replace(config, decode=decode)


def _why_not_by_time(fold: Fold, timeline: Timeline) -> str:
    late = fold.tally.irregular[Irregular.LATE] + fold.tally.irregular[Irregular.FUTURE]
    if late > _MOST_LATE * fold.tally.rows:
        return f"{late:,} of {fold.tally.rows:,} rows are not in the order of their time"
    if timeline.windows and timeline.windows[-1] <= 0:
        return "rows carry no time"
    return ""


def _note_models(timeline: Timeline, fold: Fold, references: Sequence[Reference]) -> None:
    if not references:
        return
    known = {key.model for reference in references for key in reference.models}
    strange = sorted({key.model for key in fold.streams} - known)
    if strange:
        timeline.notes.append(
            f"no baseline for {', '.join(strange[:5])}: learned from the first windows "
            f"(the reference has {', '.join(sorted(known)[:5])}; --model names events that name none)"
        )


def _other_features(timeline: Timeline, references: Sequence[Reference]) -> list[str]:
    """Models of which the events have fewer than half of the reference's features: it may be that of other data."""
    found = []
    for model in timeline.inventory["models"]:
        for version in model["versions"]:
            key = ModelKey(model["model"], version["version"])
            whole = next((w for r in references if (w := r.whole(key)) is not None), None)
            columns = whole.profile.columns if whole is not None else ()
            expected = {shown_name(c) for c in columns if c.role is Role.FEATURE}
            shared = expected & version["features"].keys()
            if 2 * len(shared) < len(expected):
                name = f"{key.model} {key.version}".strip()
                share = f"{len(shared):,} of {len(expected):,}" if shared else "none"
                found.append(
                    f"{name}: the reference has {listed(sorted(expected))}; the events have "
                    f"{listed(sorted(version['features']))}, and share {share}: another file?"
                )
    if len(found) > _MOST_NAMED:
        found[_MOST_NAMED:] = [
            f"... and {len(found) - _MOST_NAMED:,} more models of other features"
        ]
    return found


def _too_few_rows(timeline: Timeline) -> list[str]:
    """Models whose windows are too small to be judged."""
    models = [
        (
            f"{model['model']} {version['version']}".strip(),
            version["rows"],
            (version["last_seen_ms"] - version["first_seen_ms"]) / 1000,
            version["rows"] / version["windows"],
        )
        for model in timeline.inventory["models"]
        for version in model["versions"]
    ]
    return too_few(models, timeline.width_ms / 1000)


def _note_monitors(timeline: Timeline, fold: Fold, config: Config, reads: Reads) -> None:
    seen = listed(sorted({f"{key.model} {key.version}".strip() for key in fold.streams}))
    for monitor in config.monitors:
        if not any(
            matches(monitor.select.model, key.model)
            and matches(monitor.select.version, key.version)
            for key in fold.streams
        ):
            timeline.notes.append(
                f'monitor "{monitor.name}" selects nothing: no stream is model {monitor.select.model}, '
                f"version {monitor.select.version}; the events have {seen}"
            )
            continue
        own = [v for v in timeline.verdicts if v.monitor == monitor.name]
        windows = {v.window_start_ms for v in own}
        is_lost = all(v.state in (State.LEARNING, State.BLIND) for v in own)
        if is_lost and 2 * len(windows) >= len(timeline.windows):
            timeline.notes.append(
                f'monitor "{monitor.name}" judged nothing in {len(windows):,} of '
                f"{len(timeline.windows):,} windows; the last: {own[-1].why}"
            )
    if config.judge.enabled:
        # What is judged says in every window how it is, whatever it reads.
        judged = {monitor.name for monitor in config.monitors if monitor.metric in JUDGED}
        told = {v.monitor for v in timeline.verdicts if v.alarm or v.monitor not in judged}
        notes, timeline.unread = unread(
            config.monitors, reads, timeline.inventory, timeline.width_ms, told
        )
        timeline.notes += notes


# ---------------------------------------------------------------- document


def document(timeline: Timeline) -> Json:
    """The document of `backtest --json`. Times are epoch milliseconds.

    rows, dropped, irregular  what was read, and what could not be, by reason
    verdicts  every window that is not ok, and every transition; last those of monitors that read no value
    bound     largest distance of the true value from `value`; null where no bound exists
    """
    return {
        "windows": len(timeline.windows),
        **read_json(timeline.read),
        "verdicts": [
            *(verdict_json(v) for v in timeline.verdicts if is_told(v)),
            *(verdict_json(v) for v in timeline.unread),
        ],
        "drift": [_drift_json(d) for d in timeline.drift],
        "pages": len(timeline.pages),
    }


def is_told(verdict: Verdict) -> bool:
    """Whether a verdict is worth a line: all but a quiet window after a quiet one."""
    return verdict.state is not State.OK or verdict.is_transition


def verdict_json(verdict: Verdict) -> Json:
    return {
        "monitor": verdict.monitor,
        "stream": stream_json(verdict.stream),
        "feature": verdict.feature,
        "source": verdict.source,
        "window_start": verdict.window_start_ms,
        "window_end": verdict.window_end_ms,
        "state": str(verdict.state),
        "value": _finite(verdict.value),
        "threshold": _finite(verdict.threshold),
        "attribution": [_cause_json(cause) for cause in verdict.attribution],
        "previous": str(verdict.previous),
        "severity": str(verdict.severity),
        "metric": verdict.metric,
        "alarm": verdict.alarm,
        "rows": verdict.rows,
        "baseline": verdict.baseline,
        "minimum_effect": verdict.minimum_effect,
        "why": verdict.why,
    }


def _cause_json(cause: Cause) -> Json:
    return {
        "feature": cause.feature,
        "source": cause.source,
        "segment": dict(cause.segment) if cause.segment is not None else None,
        "statistic": cause.statistic,
        "score": min(MOST_SCORE, cause.score),
        "share": cause.share,
        "detail": cause.detail,
        "trace_ids": list(cause.trace_ids),
    }


def _drift_json(drift: Drift) -> Json:
    return {
        "stream": stream_json(drift.stream),
        "feature": shown_name(drift.column),
        "window_start": drift.window_start_ms,
        "metric": drift.metric,
        "value": _finite(drift.value),
        "bound": _finite(max(drift.high - drift.value, drift.value - drift.low)),
        "low": _finite(drift.low),
        "high": _finite(drift.high),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None

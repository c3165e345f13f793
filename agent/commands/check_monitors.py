"""Monitors against each other and against the references that are given: mistakes that no option shows by itself.

What needs the baseline and is not in it is a ConfigError; what may yet turn up on the stream is a warning.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from agent.config import Config, Monitor
from agent.config.monitors import DISTANCES, JUDGED, STREAM
from agent.errors import ConfigError
from agent.fold.profile import ProfileColumn
from agent.judge.explanation import listed
from agent.judge.reference import Reference, read_reference
from agent.judge.sources import matches
from agent.judge.values import has, owners_of
from agent.verdict import shown_name


def require_bounds(monitors: Sequence[Monitor], source: Path | None = None) -> None:
    """ConfigError for two monitors whose bounds leave no value between them. `source` as in `check_monitors`."""
    problem = next(_contradictions(monitors), None)
    if problem is not None:
        raise ConfigError(_at(source) + problem)


def check_monitors(
    config: Config, source: Path | None = None, *, knows_all: bool = True
) -> list[str]:
    """Warnings, a line each. Raises ConfigError for the first mistake.

    source     the configuration's file, for messages. References were read before, so they can be
    knows_all  whether a model that the reference does not have is a mistake: files of a backtest are often of one
               model of several, and it says itself which monitors select nothing
    """
    require_bounds(config.monitors, source)
    if not config.judge.enabled:
        return []
    default = config.judge.baseline_file
    found: list[str] = []
    for index, monitor in enumerate(config.monitors):
        spec = config.baselines.get(monitor.baseline) if monitor.baseline is not None else None
        file = spec.file if spec is not None and spec.file is not None else default
        if file is None:
            continue
        reference = read_reference(Path(file))
        if not knows_all and not _models(monitor, reference):
            continue
        problem = _lost(config, monitor, reference, file)
        if problem is None:
            continue
        line = f'monitors[{index}] ("{monitor.name}").{problem}'
        if _needs_baseline(monitor):
            raise ConfigError(_at(source) + line)
        found.append(line)
    return found


def _at(source: Path | None) -> str:
    return "" if source is None else f"{source}: "


def _models(monitor: Monitor, reference: Reference) -> list[str]:
    """Models of the reference that a monitor selects."""
    known = sorted({key.model for key in reference.models})
    return [name for name in known if matches(monitor.select.model, name)]


def _needs_baseline(monitor: Monitor) -> bool:
    when = monitor.when
    return (
        monitor.metric in JUDGED
        or monitor.metric in DISTANCES
        or (when is not None and when.changes_by is not None)
    )


def _contradictions(monitors: Sequence[Monitor]) -> Iterator[str]:
    """Two bounds on the same value that leave none between them: one of the two fires in every window."""
    for second, b in enumerate(monitors):
        for first, a in enumerate(monitors[:second]):
            same = (a.metric, a.select, a.baseline) == (b.metric, b.select, b.baseline)
            if not same or a.when is None or b.when is None:
                continue
            for above, below in ((a.when.above, b.when.below), (b.when.above, a.when.below)):
                if above is not None and below is not None and below > above:
                    yield (
                        f'monitors[{second}] ("{b.name}").when leaves no value of {b.metric} with '
                        f'monitors[{first}] ("{a.name}"): one fires above {above:g}, the other below {below:g}; '
                        "correct a bound, or select other streams"
                    )


def _lost(config: Config, monitor: Monitor, reference: Reference, file: str) -> str | None:
    """Why a monitor finds nothing in its reference, and what to do."""
    select = monitor.select
    models = _models(monitor, reference)
    if not models:
        known = sorted({key.model for key in reference.models})
        if any(matches(select.model, model.name) for model in config.models):
            return None  # learns a baseline of its own
        return (
            f"select.model is {select.model}; {file} has {listed(known)}: correct the pattern, "
            "or declare the model under `models` to let it learn a baseline"
        )
    columns: dict[str, ProfileColumn] = {}
    for key in sorted(reference.models):
        if key.model in models:
            held = reference.models[key].profile.columns
            columns |= {shown_name(column): found for column, found in held.items()}
    if select.feature is None or monitor.metric in STREAM:
        return None
    own = {name: held for name, held in columns.items() if matches(select.feature, name)}
    if not own:
        return (
            f"select.feature is {select.feature}; {file} has {listed(sorted(columns))}: "
            "correct the pattern, or build the reference anew"
        )
    if not any(has(monitor.metric, held.kind) for held in own.values()):
        kinds = sorted({str(held.kind.name).lower() for held in own.values() if held.kind})
        return (
            f"select.feature is {select.feature}, of kind {listed(kinds)} in {file}; metric {monitor.metric} "
            f"is of {owners_of(monitor.metric)}: correct one of the two"
        )
    return None

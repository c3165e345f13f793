"""Series and bytes that a configuration can produce, before anything is started.

From the configuration: upper bounds, added up from `fold.costs`, the same numbers that admission
charges. From a sample file: the events go through the real decode, sketch and fold, and what an
export would hold is counted.

A series is one OTLP data stream (metric and attributes). On `/metrics` a histogram is several series.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from agent.config import Config
from agent.types import Attributes, Json, StreamKey

if TYPE_CHECKING:
    from agent.fold.base import Fold
    from agent.judge.forecast import Forecast


@dataclass(frozen=True, slots=True)
class Line:
    """What one model, or a sum, takes."""

    name: str
    streams: int
    series: int
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Sample:
    """What a sample really produced. `streams` are one line each; `memory_bytes` as the budget counts it."""

    file: str
    rows: int
    dropped: int
    streams: list[Line]
    total: Line
    folded: list[str]  # first names of streams that the budget had no room for
    unsketched_columns: int  # of all streams, past a limit
    unsketched_values: int
    columns: dict[StreamKey, int] = field(default_factory=dict)  # of each stream


@dataclass(frozen=True, slots=True)
class Plan:
    """A prediction. `limit` is the hard bound whatever arrives."""

    models: list[Line]
    declared: Line
    limit: Line
    elsewhere_bytes: dict[str, int]  # bounds of memory outside of the base
    sample: Sample | None
    monitors: Forecast | None = None  # what will be judged
    warnings: list[str] = field(default_factory=list)

    @property
    def expected(self) -> Line | None:
        """Of the sample, else of the declared models; series with those of verdicts and drift. None: neither."""
        of_models = self.sample.total if self.sample is not None else self.declared
        if self.sample is None and not self.models:
            return None
        judged = self.monitors
        more = judged.verdict_series + judged.drift_series if judged is not None else 0
        return dataclasses.replace(of_models, name="expected", series=of_models.series + more)


def predict(config: Config, sample: Path | None = None) -> Plan:
    """Add up the declared models, and count the sample when there is one. Raises as `replay` does."""
    from agent.fold.costs import Costs
    from agent.judge.forecast import forecast

    costs = Costs(config)
    models = []
    for model in config.models:
        streams = model.versions * model.segments
        cost = costs.declared_stream(model.features, model.categorical).times(streams)
        models.append(Line(model.name, streams, cost.series, cost.memory_bytes))
    declared = Line(
        "declared",
        sum(m.streams for m in models),
        sum(m.series for m in models),
        sum(m.memory_bytes for m in models),
    )
    budget = config.budget
    limit = Line("budget", budget.max_streams, budget.max_series, budget.max_memory_bytes)
    counted = _sample(config, sample) if sample is not None else None
    plan = Plan(
        models=models,
        declared=declared,
        limit=limit,
        elsewhere_bytes={
            "delta of each kernel thread (delivery.cut_max_bytes)": config.delivery.cut_max_bytes,
            "fetched, not yet sketched (kafka.buffer_max_bytes)": config.kafka.buffer_max_bytes,
            "pairs of columns, where the baseline says how (judge.pairs_max_bytes)": _pairs_bytes(
                config
            ),
            "directions of vectors, as much again (judge.vectors)": _vectors_bytes(config),
        },
        sample=counted,
        monitors=forecast(
            config,
            counted.columns if counted is not None else _expected(config),
            is_declared=counted is None,
        ),
    )
    plan.warnings.extend(_warnings(plan))
    if plan.monitors is not None:
        plan.warnings.extend(plan.monitors.warnings)
    return plan


def _expected(config: Config) -> dict[StreamKey, int]:
    """Columns of every stream that the declared models can have, up to the budget; versions and segments,
    of which only the number is known, are named by it."""
    streams = (
        (
            StreamKey(model.name, f"#{version}", (("#", f"{segment}"),) if segment else ()),
            model.features,
        )
        for model in config.models
        for version in range(model.versions)
        for segment in range(model.segments)
    )
    return dict(itertools.islice(streams, config.budget.max_streams))


def _pairs_bytes(config: Config) -> int:
    """In the base. What kernel threads hold of them is part of their deltas."""
    judge = config.judge
    is_scored = judge.enabled and judge.pairs == "auto" and judge.baseline_file is not None
    return judge.pairs_max_bytes if is_scored else 0


def _vectors_bytes(config: Config) -> int:
    """In the base, of columns that hold arrays of numbers."""
    judge = config.judge
    return judge.pairs_max_bytes if judge.enabled and judge.vectors == "auto" else 0


def _sample(config: Config, path: Path) -> Sample:
    from agent.replay import sketch_files

    return count(sketch_files([path], config), str(path))


def count(fold: Fold, name: str) -> Sample:
    """What `fold` would export now, and what its streams were granted. Changes nothing."""
    from agent.fold.admission import name_of

    series: Counter[tuple[tuple[str, str], ...]] = Counter()
    for metric in fold.snapshot(0).metrics:
        if metric.name.startswith("inference."):
            series.update(_identity(point.attributes) for point in metric.points)
    lines = []
    for key, stream in fold.streams.items():
        own = series.pop(_identity(stream.attributes), 0)
        lines.append(Line(name_of(key), 1, own, stream.granted.memory_bytes))
    lines.sort(key=lambda line: (-line.series, line.name))
    if rest := series.total():  # of models, not of one stream
        lines.append(Line("labels", 0, rest, 0))
    return Sample(
        file=name,
        rows=fold.tally.rows,
        dropped=fold.tally.dropped.total(),
        streams=lines,
        total=Line(
            "in all",
            sum(line.streams for line in lines),
            sum(line.series for line in lines),
            sum(line.memory_bytes for line in lines),
        ),
        folded=list(fold.state(0)["budget"]["folded"]),
        unsketched_columns=sum(len(stream.unsketched) for stream in fold.streams.values()),
        unsketched_values=fold.n_unsketched_values,
        columns={key: len(stream.columns) for key, stream in fold.streams.items()},
    )


def _identity(attributes: Attributes) -> tuple[tuple[str, str], ...]:
    """The attributes that name a stream, out of those of one of its points."""
    return tuple(
        (name, str(value))
        for name, value in attributes
        if name.startswith(("inference.model.", "inference.segment."))
    )


def as_json(plan: Plan) -> Json:
    """The document of `--json`."""
    document = dataclasses.asdict(plan)
    if document["sample"] is not None:
        del document["sample"]["columns"]  # keyed by streams: for the forecast only
    return document


def as_table(plan: Plan) -> str:
    """A table for people; ends with a newline."""
    rows: list[Line | None] = []
    if plan.models:
        rows += [*plan.models, None, dataclasses.replace(plan.declared, name="declared in all")]
    rows.append(dataclasses.replace(plan.limit, name="hard limit (budget)"))
    text = _table(rows)
    if not plan.models:
        text += (
            "\nNo models are declared: only the hard limit can be said. List them under `models`,\n"
        )
        text += "or give a sample of the topic with --sample FILE.\n"
    text += "\nMemory beside the base, at most:\n"
    for name, size_bytes in plan.elsewhere_bytes.items():
        text += f"  {_bytes(size_bytes):>10}  {name}\n"
    if plan.sample is not None:
        sample = plan.sample
        dropped = f", {sample.dropped:,} dropped" if sample.dropped else ""
        text += f"\n{sample.file}: {sample.rows:,} rows{dropped}, as exported and held after the last one\n"
        text += _table([*sample.streams, None, sample.total])
    if plan.monitors is not None and plan.monitors.watches:
        text += _watched(plan.monitors)
    for warning in plan.warnings:
        text += f"\nWarning: {warning}\n"
    return text


def _table(rows: list[Line | None]) -> str:
    names = [row.name for row in rows if row is not None]
    width = max(24, *(len(name) for name in names))
    text = f"{'':{width}}  {'streams':>9}  {'series':>9}  {'memory':>10}\n"
    for row in rows:
        if row is None:
            text += "-" * (width + 34) + "\n"
        else:
            text += f"{row.name:{width}}  {row.streams:>9,}  {row.series:>9,}  {_bytes(row.memory_bytes):>10}\n"
    return text


def _watched(monitors: Forecast) -> str:
    """What is judged, a line each monitor."""
    width = max(24, *(len(watch.monitor) for watch in monitors.watches))
    text = f"\nJudged in every window\n{'':{width}}  {'streams':>9}  {'values':>9}  {'series':>9}  {'CPU':>10}  metric\n"
    for watch in monitors.watches:
        text += (
            f"{watch.monitor:{width}}  {watch.streams:>9,}  {watch.values:>9,}  {watch.series:>9,}  "
            f"{1000 * watch.cpu_s:>7,.1f} ms  {watch.metric}\n"
        )
    text += (
        f"Series beside those above, at most: {monitors.verdict_series:,} of verdicts, "
        f"{monitors.drift_series:,} of drift\n"
    )
    text += f"Baselines and evidence: {_bytes(monitors.memory_bytes)}"
    if monitors.learning_bytes:
        text += f", and {_bytes(monitors.learning_bytes)} more while they are learned"
    return text + "\n"


def _bytes(n: int) -> str:
    return f"{n / (1 << 20):,.1f} MiB" if n >= 1 << 20 else f"{n / 1024:,.1f} KiB"


def _warnings(plan: Plan) -> list[str]:
    from agent.fold.costs import overflow_share

    found = []
    for what, option, needed, limit in (
        ("streams", "max_streams", plan.declared.streams, plan.limit.streams),
        ("series", "max_series", plan.declared.series, plan.limit.series),
        ("bytes", "max_memory_bytes", plan.declared.memory_bytes, plan.limit.memory_bytes),
    ):
        kept = 0 if what == "streams" else overflow_share(limit)
        if needed > limit - kept:
            found.append(
                f"the declared models can need {needed:,} {what}; budget.{option} is {limit:,}"
                f"{f', of which {kept:,} are kept for overflow' if kept else ''}. "
                "What does not fit folds into `_overflow`; raise the budget or split the group."
            )
    if plan.sample is not None and plan.sample.folded:
        names = ", ".join(plan.sample.folded[:5])
        found.append(f"the sample did not fit the budget: {names} ... folded into `_overflow`.")
    if plan.sample is not None and plan.sample.unsketched_values:
        found.append(
            f"{plan.sample.unsketched_columns:,} columns of the sample, {plan.sample.unsketched_values:,} "
            "values, are past budget.max_features_per_stream or the budget: counted, not sketched."
        )
    return found

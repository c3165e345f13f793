"""Every metric the agent emits: one table, from which `docs/metrics.md` is generated.

Exporters take the instrument, unit and description from here, so a point and its documentation
cannot disagree; tests hold every emitted point against `check`.

Units are UCUM. A feature's or prediction's value is in a unit that only its producer knows: its
unit is the annotation `{value}`, not `1`, so that no consumer appends `_ratio` to its name.
"""

from __future__ import annotations

import enum
import sys
from dataclasses import dataclass, replace
from typing import Final

from agent.types import HistogramPoint, Metric, NumberPoint


class Instrument(enum.StrEnum):
    """How points of a metric behave over time."""

    COUNTER = "counter"  # monotonic sum
    UPDOWNCOUNTER = "updowncounter"  # sum that may fall
    GAUGE = "gauge"
    EXP_HISTOGRAM = "exp_histogram"


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute of a metric. `keyword` is its name as an argument of `Telemetry` methods."""

    name: str  # ends in `.*` for a family, as `inference.segment.*`
    keyword: str
    description: str
    required: bool = True


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """What is promised about one metric. `constants` are attributes with one value, always set."""

    name: str
    instrument: Instrument
    unit: str
    description: str
    attributes: tuple[Attribute, ...] = ()
    constants: tuple[tuple[str, str], ...] = ()


class RegistryError(ValueError):
    """A point that the registry does not allow: a mistake in this program, never in its input."""


MODEL = Attribute("inference.model.name", "model", "Model name; `_overflow` past the budget.")
VERSION = Attribute(
    "inference.model.version", "version", "Model version; left out when unknown.", required=False
)
SEGMENT = Attribute(
    "inference.segment.*", "segment", "One attribute for each segment name.", required=False
)
FEATURE = Attribute("inference.feature.name", "feature", "Feature name, nested ones dotted.")
OUTPUT = Attribute(
    "inference.prediction.output",
    "output",
    "Output name: `value`, `label`, `score`, `probabilities.<class>`, `vector`, or a key of the producer.",
)
USAGE = Attribute("inference.usage.type", "type", "`input` or `output`.")
CATEGORY = Attribute("inference.category.value", "category", "The value itself.")

MONITOR = Attribute("inference.monitor.name", "monitor", "Monitor that judges.")
VERDICT_STATE = Attribute(
    "inference.verdict.state",
    "state",
    "`ok`, `learning`, `blind`, `pending`, `firing` or `resolved`.",
)
SEVERITY = Attribute(
    "inference.verdict.severity", "severity", "`page`, `ticket` or `info`: who should look."
)
COLUMN = Attribute(
    "inference.column.name",
    "column",
    "What is neither feature nor prediction: `latency`, `usage.<type>`.",
    required=False,
)
BOUND = Attribute(
    "inference.drift.bound",
    "bound",
    "`value`: the estimate; `low`, `high`: certified bounds of the true distance, where they differ.",
)
ACTION = Attribute("inferometer.action.name", "action", "Name of the action in `respond.actions`.")

REASON = Attribute("inferometer.reason", "reason", "Bounded list, see `docs/events.md`.")
TIER = Attribute("inferometer.tier", "tier", "Decoder: `orjson` or `table`.")
STATE = Attribute("inferometer.budget.state", "state", "`used` or `limit`.")
SIGNAL = Attribute("inferometer.signal", "signal", "`metrics`, `traces` or `logs`.")
OUTCOME = Attribute("inferometer.outcome", "outcome", "What became of it.")
WHY = Attribute(
    "inferometer.why", "why", "`error`, `slow`, `out_of_range`, `base_rate`, or `self`."
)
TOPIC = Attribute("messaging.destination.name", "topic", "Topic.")
PARTITION = Attribute("messaging.destination.partition.id", "partition", "Partition number.")
GROUP = Attribute("messaging.consumer.group.name", "group", "Consumer group.", required=False)

STREAM: Final = (MODEL, VERSION, SEGMENT)

_C, _U, _G, _H = (
    Instrument.COUNTER,
    Instrument.UPDOWNCOUNTER,
    Instrument.GAUGE,
    Instrument.EXP_HISTOGRAM,
)


def _inference() -> list[MetricSpec]:
    """What the sketches say about models. Written by the fold alone."""
    specs = [
        MetricSpec("inference.rows", _C, "{row}", "Rows counted: one model input each.", STREAM),
        MetricSpec("inference.errors", _C, "{row}", "Rows whose status is not a success.", STREAM),
        MetricSpec(
            "inference.rows.late",
            _C,
            "{row}",
            "Rows whose window was already sealed: in the totals, in no window.",
            STREAM,
        ),
        MetricSpec(
            "inference.rows.future",
            _C,
            "{row}",
            "Rows with an event time beyond the allowed skew: in the totals, in no window.",
            STREAM,
        ),
        MetricSpec("inference.labels", _C, "{label}", "Labels received.", (MODEL,)),
        MetricSpec("inference.latency", _H, "s", "Latency that the producer reported.", STREAM),
        MetricSpec(
            "inference.usage.tokens", _H, "{token}", "Tokens of one request.", (*STREAM, USAGE)
        ),
        MetricSpec("inference.usage.ttft", _H, "s", "Time to the first token.", STREAM),
    ]
    for family, what, own in (
        ("feature", "feature", FEATURE),
        ("prediction", "prediction output", OUTPUT),
    ):
        at = (*STREAM, own)
        name = f"inference.{family}"
        specs += [
            MetricSpec(
                f"{name}.value",
                _H,
                "{value}",
                f"Values of a numeric {what} (of a vector: its Euclidean norm). |x| up to 2^-64 counts as zero.",
                at,
            ),
            MetricSpec(
                f"{name}.sum",
                _U,
                "{value}",
                f"Sum of a numeric {what} that may be negative (its histogram carries no sum).",
                at,
            ),
            MetricSpec(
                f"{name}.missing", _C, "{row}", f"Rows without this {what}, or with null.", at
            ),
            MetricSpec(
                f"{name}.violations",
                _C,
                "{row}",
                f"Values of another type than this {what} has; never coerced.",
                at,
            ),
            MetricSpec(f"{name}.non_finite", _C, "{row}", "Values NaN or infinite.", at),
            MetricSpec(
                f"{name}.over_range", _C, "{row}", "Values beyond 2^64, in the last bucket.", at
            ),
            MetricSpec(f"{name}.true", _C, "{row}", f"True values of a boolean {what}.", at),
            MetricSpec(
                f"{name}.distinct",
                _G,
                "{value}",
                "Distinct values in the last sealed window, estimated.",
                at,
            ),
            MetricSpec(f"{name}.min", _G, "{value}", "Least value in the last sealed window.", at),
            MetricSpec(
                f"{name}.max", _G, "{value}", "Greatest value in the last sealed window.", at
            ),
            MetricSpec(
                f"{name}.category",
                _G,
                "{row}",
                "Rows with a frequent value in the last sealed window, at most 5 % too many; only with `export.top_categories`.",
                (*at, CATEGORY),
            ),
        ]
    specs += [
        MetricSpec("inference.window.rows", _G, "{row}", "Rows of the last sealed window.", STREAM),
        MetricSpec(
            "inference.window.start", _G, "s", "Start of the last sealed window, Unix time.", STREAM
        ),
        MetricSpec(
            "inference.window.coverage",
            _G,
            "1",
            "Share of the partitions that had reached the end of the last sealed window; below 1 it was sealed as partial.",
            STREAM,
        ),
    ]
    return specs + _verdicts()


#: Distances as `verdict.Drift.metric` names them: unit and meaning. What is measured in nats has no
#: unit of its own in UCUM; an annotation keeps consumers from appending `_ratio`.
DRIFTS: Final = {
    "psi": ("{nat}", "Population stability index over the baseline's cells."),
    "js": ("{nat}", "Jensen-Shannon divergence over the baseline's cells."),
    "hellinger": ("1", "Hellinger distance over the baseline's cells."),
    "ks": ("1", "Largest difference of the cumulative distributions (Kolmogorov-Smirnov)."),
    "wasserstein": ("{value}", "Wasserstein-1 distance, in the column's own unit."),
    "auc": ("1", "P(a value of the window is above one of the baseline), ties half."),
    "chi2": ("{chi2}", "Pearson's chi-square of categories, divided by the rows."),
    "unseen": ("1", "Share of rows with a category that the baseline does not know."),
    "missing": ("1", "Share of rows without a value."),
    "true_rate": ("1", "Share of true values of a boolean."),
    "violations": ("1", "Share of values of another type than the column has."),
}


def _verdicts() -> list[MetricSpec]:
    """What judging says of windows. Written with the fold, so as exact as its counts.

    The status is an updowncounter, as semantic conventions make state sets: summed over monitors it is
    the number of verdicts in a state. Names are of the observed models (`inference.*`), not the agent.
    """
    what = (MONITOR, *STREAM)
    specs = [
        MetricSpec(
            "inference.verdict.status",
            _U,
            "{verdict}",
            "1 for the state that a monitor is in for a stream, 0 for the states it has left.",
            (*what, VERDICT_STATE, SEVERITY),
        ),
        MetricSpec(
            "inference.verdict.transitions",
            _C,
            "{transition}",
            "Verdicts whose state is not the one before, by the new state.",
            (MODEL, MONITOR, VERDICT_STATE, SEVERITY),
        ),
        MetricSpec(
            "inference.verdict.value",
            _G,
            "{value}",
            "What the monitor's rule compares, in the last judged window; unit as in the verdict's event.",
            what,
        ),
        MetricSpec(
            "inference.verdict.threshold",
            _G,
            "{value}",
            "What the rule compares it with.",
            what,
        ),
    ]
    where = (
        *STREAM,
        replace(FEATURE, required=False),
        replace(OUTPUT, required=False),
        COLUMN,
        BOUND,
    )
    specs += [
        MetricSpec(f"inference.drift.{name}", _G, unit, f"{meaning} Last judged window.", where)
        for name, (unit, meaning) in DRIFTS.items()
    ]
    return specs


def _own() -> list[MetricSpec]:
    """What the agent says about itself."""
    return [
        MetricSpec(
            "inferometer.info",
            _G,
            "{info}",
            "Always 1; the attributes say what runs.",
            (Attribute("inferometer.version", "version", "Version of the agent."),),
        ),
        MetricSpec("inferometer.records", _C, "{record}", "Kafka records decoded, or refused."),
        MetricSpec("inferometer.events", _C, "{event}", "Events found in records."),
        MetricSpec("inferometer.rows", _C, "{row}", "Rows decoded, by decoder.", (TIER,)),
        MetricSpec(
            "inferometer.dropped",
            _C,
            "{event}",
            "Records or events not counted as rows.",
            (REASON,),
        ),
        MetricSpec(
            "inferometer.irregular",
            _C,
            "{row}",
            "Rows counted in spite of something odd.",
            (REASON,),
        ),
        MetricSpec(
            "inferometer.overload.ratio",
            _G,
            "1",
            "Share of the records that are decoded now: below 1 while load is shed. No count is scaled by it.",
        ),
        MetricSpec(
            "inferometer.overload.behind",
            _G,
            "s",
            "Time to read what waits in the log at the present rate, with `overload.mode: shed`.",
        ),
        MetricSpec("inferometer.cuts", _C, "{cut}", "Deltas frozen into chunks."),
        MetricSpec("inferometer.chunks", _C, "{chunk}", "Chunks folded."),
        MetricSpec(
            "inferometer.seals",
            _C,
            "{window}",
            "Windows sealed, per stream.",
        ),
        MetricSpec(
            "inferometer.budget.streams",
            _G,
            "{stream}",
            "Stream keys against the budget.",
            (STATE,),
        ),
        MetricSpec(
            "inferometer.budget.series", _G, "{series}", "Time series against the budget.", (STATE,)
        ),
        MetricSpec(
            "inferometer.budget.memory", _G, "By", "Sketch memory against the budget.", (STATE,)
        ),
        MetricSpec(
            "inferometer.overflow.folded",
            _C,
            "{stream}",
            "Streams folded into overflow streams because the budget was used up.",
        ),
        MetricSpec(
            "inferometer.unsketched.values",
            _C,
            "{value}",
            "Values of columns past `budget.max_features_per_stream` or the budget: counted, in no sketch.",
        ),
        MetricSpec(
            "inferometer.unsketched.columns",
            _G,
            "{column}",
            "Columns past `budget.max_features_per_stream` or the budget, of all streams.",
        ),
        MetricSpec(
            "inferometer.export.failures",
            _C,
            "{request}",
            "Export requests that failed: `transient`, `permanent`, or `too_large` (never sent).",
            (SIGNAL, OUTCOME),
        ),
        MetricSpec(
            "inferometer.export.points",
            _C,
            "{point}",
            "Points or spans: `accepted`, `rejected` by the receiver, or `dropped` here.",
            (SIGNAL, OUTCOME),
        ),
        MetricSpec(
            "inferometer.export.bytes", _C, "By", "Bytes accepted, before compression.", (SIGNAL,)
        ),
        MetricSpec(
            "inferometer.export.duration", _H, "s", "Time of one export request.", (SIGNAL, OUTCOME)
        ),
        MetricSpec("inferometer.loop.lag", _G, "s", "How late the event loop's timers ran."),
        MetricSpec("inferometer.rss", _G, "By", "Resident memory of the process."),
        MetricSpec(
            "inferometer.freshness", _G, "s", "Wall clock minus the newest folded event time."
        ),
        MetricSpec("inferometer.watermark.lag", _G, "s", "Wall clock minus the low watermark."),
        MetricSpec(
            "inferometer.dead_letters",
            _C,
            "{record}",
            "Records sent to the dead-letter topic: `sent`, `failed`, or `dropped` (queue full).",
            (OUTCOME,),
        ),
        MetricSpec(
            "inferometer.spans",
            _C,
            "{span}",
            "Spans: `kept` to be sent, `over_budget` of `traces.max_per_s`, or `queue_full`.",
            (OUTCOME, WHY),
        ),
        MetricSpec(
            "inferometer.budget.drift",
            _G,
            "{series}",
            "Series of `inference.drift.*` against `export.max_drift_series`.",
            (STATE,),
        ),
        MetricSpec(
            "inferometer.budget.judge",
            _G,
            "By",
            "Memory of judging, by estimate, against `judge.max_memory_bytes`.",
            (STATE,),
        ),
        MetricSpec(
            "inferometer.judge.refused",
            _C,
            "{window}",
            "Windows of models that are not judged: the memory of judging is used up.",
        ),
        MetricSpec("inferometer.judge.duration", _H, "s", "Processor time of judging what sealed."),
        MetricSpec(
            "inferometer.judge.errors",
            _C,
            "{error}",
            "Inputs whose judging failed by a mistake in this program: their verdicts are missing.",
        ),
        MetricSpec(
            "inferometer.verdicts.dropped",
            _C,
            "{verdict}",
            "Transitions that no event and no action told of: too many at once.",
        ),
        MetricSpec(
            "inferometer.actions",
            _C,
            "{action}",
            "Actions: `delivered`, `refused` for good, `failed` after all tries, `dropped` (queue full, or the receiver is gone), `held_back` (over before `hold_s`), `repeated` (delivered before a restart), `left` (the agent stopped), or `dry_run`.",
            (ACTION, OUTCOME),
        ),
        MetricSpec(
            "inferometer.actions.waiting", _G, "{action}", "Actions in the queue.", (ACTION,)
        ),
        MetricSpec(
            "inferometer.actions.duration",
            _H,
            "s",
            "Time of one try: `delivered`, `transient` or `permanent`.",
            (ACTION, OUTCOME),
        ),
        MetricSpec("inferometer.rebalances", _C, "{rebalance}", "Assignments of partitions."),
        MetricSpec(
            "inferometer.commits",
            _C,
            "{commit}",
            "Offset commits: `accepted`, `refused` for some partitions, `fenced`, or `failed`.",
            (OUTCOME,),
        ),
        MetricSpec("inferometer.journal.bytes", _C, "By", "Bytes of journal written and synced."),
        MetricSpec("inferometer.journal.entries", _C, "{entry}", "Entries written and synced."),
        MetricSpec(
            "inferometer.journal.sync.duration", _H, "s", "Time to write and sync what waited."
        ),
        MetricSpec(
            "inferometer.journal.errors",
            _C,
            "{error}",
            "Writes to the volume that failed: nothing is committed until one succeeds.",
        ),
        MetricSpec("inferometer.snapshot.bytes", _G, "By", "Size of the newest snapshot."),
        MetricSpec("inferometer.snapshot.duration", _H, "s", "Time to write a snapshot."),
        MetricSpec("inferometer.snapshot.age", _G, "s", "Time since the newest snapshot."),
        MetricSpec(
            "inferometer.state.fallbacks",
            _C,
            "{fallback}",
            "What was not as it should be when the volume was read, or met the group's offsets.",
            (REASON,),
        ),
        MetricSpec(
            "inferometer.chunks.orphaned",
            _C,
            "{chunk}",
            "Durable chunks that do not count: the group's offsets went on without them.",
        ),
        MetricSpec(
            "inferometer.chunks.uncertain",
            _C,
            "{chunk}",
            "Durable chunks forgotten because the offsets no longer say whether they counted.",
        ),
        MetricSpec(
            "inferometer.chunks.missing",
            _C,
            "{chunk}",
            "Chunks that the group's offsets name and that are not here.",
        ),
        MetricSpec(
            "inferometer.chunks.misplaced",
            _C,
            "{record}",
            "At most this many records between the end of what an aggregator had counted of a partition and "
            "the chunk that goes on: in no total (`gap`), or counted again (`overlap`).",
            (REASON,),
        ),
        MetricSpec(
            "inferometer.shard.lag",
            _G,
            "{record}",
            "Records of an aggregator's shard of the chunk topic that wait to be read.",
        ),
        MetricSpec(
            "inferometer.shard.needed",
            _G,
            "{record}",
            "Records from the oldest that an aggregator still needs to the end of its shard.",
        ),
        MetricSpec(
            "inferometer.shard.waiting",
            _G,
            "{chunk}",
            "Whole chunks of which it is not known yet whether they count, or what comes before them.",
        ),
        MetricSpec(
            "inferometer.shard.held",
            _G,
            "By",
            "Parts of chunks in an aggregator's memory; at most `aggregate.buffer_max_bytes`, or one chunk.",
        ),
        MetricSpec(
            "inferometer.shard.foreign",
            _C,
            "{record}",
            "Records of a shard that were left out: not whole, or not made for this shard.",
        ),
        MetricSpec(
            "inferometer.offset.resets",
            _C,
            "{reset}",
            "Partitions that had to start anew because their offset was out of range.",
        ),
        MetricSpec(
            "inferometer.offset.lost",
            _C,
            "{record}",
            "At most this many records were deleted before they were read.",
        ),
        MetricSpec(
            "inferometer.consumer.restarts",
            _C,
            "{restart}",
            "Kafka consumers replaced because they made no progress or failed.",
        ),
        MetricSpec(
            "inferometer.fetch.bytes",
            _C,
            "By",
            "Bytes fetched: record batches as they lie in the log; with kafka.fetch: stock, record values.",
        ),
        MetricSpec(
            "inferometer.paused", _G, "{partition}", "Partitions paused at this time.", (REASON,)
        ),
        MetricSpec(
            "inferometer.partitions.unheard",
            _G,
            "{partition}",
            "Partitions that nothing was heard of for windows.owner_timeout_s: their leader is away, and the others do not wait for them.",
        ),
        MetricSpec(
            "messaging.client.consumed.messages",
            _C,
            "{message}",
            "Records delivered by the client; each counted once per delivery.",
            (TOPIC, PARTITION, GROUP),
            (("messaging.operation.name", "poll"), ("messaging.system", "kafka")),
        ),
        MetricSpec(
            "messaging.kafka.consumer.lag",
            _G,
            "{record}",
            "End of the log minus the read position. Not a semantic convention: none exists for lag.",
            (TOPIC, PARTITION, GROUP),
            (("messaging.system", "kafka"),),
        ),
    ]


METRICS: Final[dict[str, MetricSpec]] = {spec.name: spec for spec in (*_inference(), *_own())}

#: Attribute of the one series that takes what is past `Telemetry`'s limit of series, as in the SDK.
OVERFLOW_ATTRIBUTE = "otel.metric.overflow"


def spec_of(name: str) -> MetricSpec:
    """The spec of a metric; RegistryError when there is none."""
    try:
        return METRICS[name]
    except KeyError:
        raise RegistryError(f"metric {name!r} is not in agent/emit/registry.py; add it") from None


def check(metric: Metric) -> None:
    """Raise RegistryError unless name, attributes, point types and their invariants are as promised."""
    spec = spec_of(metric.name)
    for point in metric.points:
        _check_attributes(spec, point)
        if isinstance(point, HistogramPoint):
            if spec.instrument is not Instrument.EXP_HISTOGRAM:
                raise RegistryError(f"{spec.name} is a {spec.instrument}; got a histogram point")
            _check_histogram(spec, point)
        else:
            if spec.instrument is Instrument.EXP_HISTOGRAM:
                raise RegistryError(f"{spec.name} is a histogram; got a number point")
            _check_number(spec, point)


def _check_attributes(spec: MetricSpec, point: NumberPoint | HistogramPoint) -> None:
    names = [name for name, _ in point.attributes]
    if names != sorted(set(names)):
        raise RegistryError(f"{spec.name}: attributes {names} are not sorted and unique")
    if names == [OVERFLOW_ATTRIBUTE]:
        return
    constant = dict(spec.constants)
    for name, value in point.attributes:
        if name in constant:
            if value != constant[name]:
                raise RegistryError(f"{spec.name}: {name} is {value!r}, not {constant[name]!r}")
        elif not any(_matches(attribute, name) for attribute in spec.attributes):
            raise RegistryError(f"{spec.name}: attribute {name!r} is not in the registry")
        if type(value) not in (str, int, float, bool):
            raise RegistryError(f"{spec.name}: {name} has type {type(value).__name__}")
    for name in (*constant, *(a.name for a in spec.attributes if a.required)):
        if name not in names:
            raise RegistryError(f"{spec.name}: attribute {name!r} is missing")


def _matches(attribute: Attribute, name: str) -> bool:
    if attribute.name.endswith(".*"):
        return name.startswith(attribute.name[:-1]) and len(name) >= len(attribute.name)
    return name == attribute.name


def _check_number(spec: MetricSpec, point: NumberPoint) -> None:
    if type(point.value) not in (int, float):
        raise RegistryError(f"{spec.name}: value has type {type(point.value).__name__}")
    if spec.instrument is Instrument.GAUGE:
        if point.start_ns != 0:
            raise RegistryError(f"{spec.name}: a gauge has no start time; got {point.start_ns}")
        return
    _check_times(spec, point)
    if spec.instrument is Instrument.COUNTER and point.value < 0:
        raise RegistryError(f"{spec.name}: a counter is {point.value}; must not be negative")


def _check_times(spec: MetricSpec, point: NumberPoint | HistogramPoint) -> None:
    if not 0 < point.start_ns <= point.time_ns:
        raise RegistryError(
            f"{spec.name}: start {point.start_ns} must be above 0 and not above time {point.time_ns}"
        )


def _check_histogram(spec: MetricSpec, point: HistogramPoint) -> None:
    _check_times(spec, point)
    if point.ended:
        return
    total = int(point.positive.sum()) + int(point.negative.sum()) + point.zero_count
    if total != point.count:
        raise RegistryError(
            f"{spec.name}: count is {point.count}, buckets and zero count add up to {total}"
        )
    if point.sum is not None and int(point.negative.sum()):
        raise RegistryError(f"{spec.name}: a histogram with negative values carries no sum")


def markdown() -> str:
    """The text of `docs/metrics.md`."""
    lines = [
        "# Metrics",
        "",
        "Generated from `agent/emit/registry.py` by `python -m agent.emit.registry --markdown`; do not edit.",
        "",
        "Counters and histograms are cumulative (or delta, when asked) with an explicit start time. Histograms are",
        "base-2 exponential; `/metrics` shows them with explicit bounds at powers of two. `counter` is a monotonic",
        "sum, `updowncounter` a sum that may fall. Attributes in parentheses may be absent.",
        "",
    ]
    for prefix, title in (
        ("inference.", "What is observed: `inference.*`"),
        ("inferometer.", "The agent itself: `inferometer.*`"),
        ("messaging.", "The agent as a Kafka client: `messaging.*`"),
    ):
        specs = [spec for name, spec in METRICS.items() if name.startswith(prefix)]
        lines += [f"## {title}", "", "| metric | instrument | unit | attributes | what |"]
        lines += ["| --- | --- | --- | --- | --- |"]
        for spec in specs:
            named = [f"`{a.name}`" if a.required else f"(`{a.name}`)" for a in spec.attributes]
            named += [f"`{name}` = `{value}`" for name, value in spec.constants]
            what = spec.description.replace("|", "\\|")
            lines.append(
                f"| `{spec.name}` | {spec.instrument} | `{spec.unit}` | {', '.join(named)} | {what} |"
            )
        lines.append("")
    lines += ["## Attributes", "", "| attribute | meaning |", "| --- | --- |"]
    seen = {a.name: a for spec in METRICS.values() for a in spec.attributes}
    lines += [f"| `{name}` | {seen[name].description} |" for name in sorted(seen)]
    lines += [
        f"| `{OVERFLOW_ATTRIBUTE}` | Alone, on an `inferometer.*` or `messaging.*` series: the sum of what was past the limit of series of one metric. |",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    if sys.argv[1:] != ["--markdown"]:
        sys.exit("usage: python -m agent.emit.registry --markdown")
    sys.stdout.write(markdown())

"""Monitors as code: what to watch, against what, when to call somebody."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from agent.config.options import Options
from agent.verdict import Severity

#: Judged by the machinery of section: no `when`, one alarm per model and source.
JUDGED: Final = {
    "quality": "rules of the data-quality contract that are broken",
    "drift": "evidence of a change, against the budget",
    "state": "a distance from the baseline that has grown past `judge.allowed_psi`",
}
#: Distances from the baseline, by feature.
DISTANCES: Final = {
    "psi": "population stability index, less what noise makes of it",
    "js": "Jensen-Shannon divergence",
    "hellinger": "Hellinger distance",
    "ks": "Kolmogorov-Smirnov distance",
    "wasserstein": "Wasserstein-1 distance, in the feature's unit",
    "auc": "P(new > old) + P(equal) / 2; .5 is no shift",
    "chi2": "chi-square per row",
    "unseen": "share of values that the baseline never had",
}
#: Values of one feature in a window.
VALUES: Final = {
    "missing_rate": "share of rows without a value",
    "violation_rate": "share of values of another type",
    "true_rate": "share of true, of a boolean",
    "mean": "mean",
    "stddev": "standard deviation",
    "min": "smallest value",
    "max": "largest value",
    "p01": "1st percentile",
    "p05": "5th percentile",
    "p25": "25th percentile",
    "p50": "median",
    "p75": "75th percentile",
    "p95": "95th percentile",
    "p99": "99th percentile",
    "distinct": "different values",
}
#: Values of the stream as a whole.
STREAM: Final = {
    "volume": "rows of the window",
    "error_rate": "share of rows with an error",
    "latency_p50": "median latency, seconds",
    "latency_p95": "95th percentile of latency, seconds",
    "latency_p99": "99th percentile of latency, seconds",
    "freshness": "seconds since the last row",
}
#: Values between 0 and 1.
RATES: Final = frozenset(
    (
        "js",
        "hellinger",
        "ks",
        "auc",
        "unseen",
        "missing_rate",
        "violation_rate",
        "true_rate",
        "error_rate",
    )
)
#: Values from 0 on.
SIZES: Final = frozenset(("psi", "wasserstein", "chi2", "stddev", "distinct", *STREAM))
METRICS: Final = JUDGED | DISTANCES | VALUES | STREAM

Windows = Annotated[int, Meta(ge=1, le=10_000)]


class Select(Options, frozen=True, kw_only=True):
    """Which streams and features; patterns know `*` and `?`."""

    model: Annotated[str, Meta(min_length=1, description="Models.")] = "*"
    version: Annotated[str, Meta(description="Versions.")] = "*"
    segment: Annotated[
        dict[str, str] | None,
        Meta(
            description="Patterns by segment name: each such segment by itself. Default: all of a version together."
        ),
    ] = None
    feature: Annotated[
        str | None,
        Meta(
            description="Features; `prediction.score` and the like select outputs. Default: every feature."
        ),
    ] = None


class When(Options, frozen=True, kw_only=True):
    """When a value is too much. `changes_by` compares with the value in the baseline."""

    above: Annotated[float | None, Meta(description="Fires above.")] = None
    below: Annotated[float | None, Meta(description="Fires below.")] = None
    changes_by: Annotated[
        Annotated[float, Meta(gt=0)] | None,
        Meta(description="Fires when it differs from the baseline's by this share of it."),
    ] = None

    def __post_init__(self) -> None:
        if self.above is None and self.below is None and self.changes_by is None:
            raise ValueError("nothing is set; give above, below or changes_by")
        if self.above is not None and self.below is not None and self.below > self.above:
            raise ValueError(
                f"below is {self.below} and above {self.above}: every value fires; "
                "below must not be larger than above"
            )


class Monitor(Options, frozen=True, kw_only=True):
    """One rule."""

    name: Annotated[str, Meta(min_length=1, max_length=100, description="As verdicts name it.")]
    metric: Annotated[
        str, Meta(description=f"One of {', '.join(f'`{name}`' for name in METRICS)}.")
    ]
    select: Annotated[Select, Meta(description="What to watch; default: everything.")] = Select()
    baseline: Annotated[
        str | None,
        Meta(description="Name of one of `baselines`; default: `judge.baseline_file`, or learned."),
    ] = None
    when: Annotated[
        When | None,
        Meta(
            description="Bounds, for metrics that are values. quality, drift and state take none."
        ),
    ] = None
    for_windows: Annotated[
        Windows, Meta(description="Windows in a row that must break a bound before it fires.")
    ] = msgspec.field(default=1, name="for")
    min_rows: Annotated[int, Meta(ge=1, description="Windows with fewer rows are `blind`.")] = 20
    severity: Annotated[Severity, Meta(description="page, ticket or info.")] = Severity.PAGE
    budget: Annotated[
        Annotated[float, Meta(gt=0, le=3650)] | None,
        Meta(
            description="Days between false pages of a model, for drift and state; default: `judge.days_per_false_page`."
        ),
    ] = None
    actions: Annotated[
        list[str],
        Meta(description="Names of `respond.actions`; default: all that want its severity."),
    ] = msgspec.field(default_factory=list)

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise ValueError(f'metric is "{self.metric}"; must be one of {", ".join(METRICS)}')
        if self.metric == "quality" and self.baseline is not None:
            raise ValueError(
                "baseline is set; metric: quality is judged by the contract: remove it, or set judge.contract_file"
            )
        if self.metric in JUDGED:
            if self.select.segment is not None:
                raise ValueError(
                    f"select.segment is set; metric: {self.metric} is of the whole model, and names the segments that explain it: remove it, or watch a value such as psi"
                )
            if self.when is not None:
                raise ValueError(
                    f"when is set; metric: {self.metric} has no bounds: remove it, or watch a value such as psi"
                )
            if self.for_windows != 1:
                raise ValueError(
                    f"for is {self.for_windows}; metric: {self.metric} gathers evidence by itself: remove it"
                )
        else:
            if self.when is None:
                raise ValueError(
                    f"when is missing; metric: {self.metric} needs above, below or changes_by"
                )
            if self.budget is not None:
                raise ValueError(
                    f"budget is set; metric: {self.metric} has bounds of its own: use metric: drift, or remove it"
                )
        self._require_possible()
        if self.metric in STREAM and self.select.feature is not None:
            raise ValueError(
                f"select.feature is set; metric: {self.metric} is of the whole stream: remove it"
            )

    def _require_possible(self) -> None:
        """A bound that no value of the metric is beyond never fires."""
        when = self.when
        if when is None:
            return
        if self.metric in RATES and when.above is not None and when.above >= 1.0:
            raise ValueError(
                f"when.above is {when.above:g}; {self.metric} is between 0 and 1, so it never fires: "
                "5 % is 0.05"
            )
        if self.metric in RATES | SIZES and when.below is not None and when.below <= 0.0:
            raise ValueError(
                f"when.below is {when.below:g}; {self.metric} is never below 0, so it never fires: "
                "give a larger bound"
            )

"""Options of judging: what windows are judged against, and how often it may be wrong."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from agent.config.options import Options, Seconds
from agent.verdict import Severity


class Baseline(Options, frozen=True, kw_only=True):
    """What windows are judged against, by name. A baseline that windows feed stands still while one is pending
    or firing, so that drift does not become normal."""

    type: Annotated[
        Literal["file", "past", "hour", "decayed", "twin"],
        Meta(
            description="file: a reference; past: the last windows; hour: the same hour of the last days; "
            "decayed: all windows, older ones less and less; twin: another version in the same window."
        ),
    ]
    file: Annotated[
        str | None, Meta(description="Of `inferometer profile build`, for `type: file`.")
    ] = None
    windows: Annotated[int, Meta(ge=8, le=10_000, description="Windows that `past` keeps.")] = 200
    days: Annotated[int, Meta(ge=1, le=60, description="Days that `hour` keeps.")] = 14
    half_life_windows: Annotated[
        float, Meta(gt=0, le=100_000, description="After so many windows a row counts half.")
    ] = 100.0
    version: Annotated[
        str | None, Meta(description="The stable version that `twin` compares others with.")
    ] = None

    def __post_init__(self) -> None:
        if self.type == "file" and not self.file:
            raise ValueError(
                "file is not set; type: file needs one, made with `inferometer profile build DATA -o FILE`"
            )
        if self.type == "twin" and not self.version:
            raise ValueError(
                "version is not set; type: twin needs the stable version to compare with"
            )


class Judge(Options, frozen=True, kw_only=True):
    """Judging of sealed windows."""

    enabled: Annotated[bool, Meta(description="Whether windows are judged at all.")] = True
    baseline_file: Annotated[
        str | None,
        Meta(
            description="Reference of `inferometer profile build`; models that it does not know, and all without "
            "it, learn from their first windows."
        ),
    ] = None
    contract_file: Annotated[
        str | None,
        Meta(
            description="Contract of `inferometer profile contract`, reviewed; without it, what the baseline implies."
        ),
    ] = None
    defaults: Annotated[
        bool,
        Meta(
            description="Whether quality, drift, volume and freshness of every model are watched beside `monitors`."
        ),
    ] = True
    days_per_false_page: Annotated[
        float,
        Meta(
            gt=0,
            le=3650,
            description="The budget: a model that has not changed pages by chance at most once in so many days, on average.",
        ),
    ] = 30.0
    allowed_psi: Annotated[
        float,
        Meta(
            gt=0,
            le=10,
            description="Population stability index up to which a column may slowly move away from its baseline.",
        ),
    ] = 0.1
    wanted_effect: Annotated[
        float,
        Meta(
            gt=0,
            lt=0.5,
            description="Shift that a window should show, as P(new > old) - 1/2 (.05 is .18 standard deviations); windows with too few rows for it are `blind`.",
        ),
    ] = 0.05
    learn_windows: Annotated[
        int,
        Meta(
            ge=8,
            le=2000,
            description="First windows that a model without a baseline learns from, at least: it learns for a day, or a week where the hour of the day matters.",
        ),
    ] = 200
    pairs: Annotated[
        Literal["auto", "off"],
        Meta(
            description="auto: of models whose baseline file says how, compare also which columns move together, in a sample of the rows; off: never."
        ),
    ] = "auto"
    pairs_max_bytes: Annotated[
        int,
        Meta(
            ge=65_536,
            description="Of sums for pairs of columns, and as much for vectors, in the base and in each kernel thread: 3 kB for 20 columns, 38 kB at most, for each stream and open window. Past it windows are judged without.",
        ),
    ] = 33_554_432
    vectors: Annotated[
        Literal["auto", "off"],
        Meta(
            description="auto: of columns that hold arrays of numbers (embeddings), compare also where vectors point, in one row of 16; off: only their norms."
        ),
    ] = "auto"
    max_memory_bytes: Annotated[
        int,
        Meta(
            ge=1 << 20,
            le=1 << 40,
            description="Memory of judging, by estimate. Past it models that nobody declared are not judged, and a verdict, a metric and the state page say so.",
        ),
    ] = 64 << 20
    forget_after_s: Annotated[
        float,
        Meta(
            ge=3600,
            le=31_536_000,
            description="Time of windows without a row after which a version, or a model, is forgotten; of a declared model the last version stays.",
        ),
    ] = 1_209_600.0
    severity: Annotated[Severity, Meta(description="Of the default monitors.")] = Severity.PAGE
    silence_s: Annotated[
        Seconds | None,
        Meta(
            description="Longest time without a row of a model; default: what its baseline implies."
        ),
    ] = None

"""What is declared of models and their features."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from agent.config.options import Options
from agent.config.privacy import Values
from agent.types import Kind


class Feature(Options, frozen=True, kw_only=True):
    """What is declared about one feature, instead of being inferred."""

    kind: Annotated[
        Kind | None,
        Meta(
            description="numeric, categorical, boolean, text or vector. `categorical` also takes numbers, as codes."
        ),
    ] = None
    min: Annotated[
        float | None,
        Meta(description="Values below are out of range: their request spans are kept."),
    ] = None
    max: Annotated[
        float | None,
        Meta(description="Values above are out of range: their request spans are kept."),
    ] = None
    values: Annotated[
        Values | None,
        Meta(description="How its frequent texts are shown; default: `privacy.values`."),
    ] = None

    def __post_init__(self) -> None:
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min is {self.min}; must not be above max ({self.max})")


class Model(Options, frozen=True, kw_only=True):
    """A model that is known to exist: it has reserved budget, and is admitted before undeclared ones."""

    name: Annotated[str, Meta(min_length=1, description="Model name as it stands in events.")]
    versions: Annotated[int, Meta(ge=1, le=1000, description="Versions expected at a time.")] = 1
    segments: Annotated[
        int, Meta(ge=1, le=100_000, description="Segment combinations expected.")
    ] = 1
    features: Annotated[
        int, Meta(ge=1, le=100_000, description="Features expected; for `inferometer plan`.")
    ] = 20
    categorical: Annotated[
        int,
        Meta(
            ge=0,
            le=100_000,
            description="How many of them are categories or text; for `inferometer plan`.",
        ),
    ] = 0

    def __post_init__(self) -> None:
        if self.categorical > self.features:
            raise ValueError(
                f"categorical is {self.categorical}; must be at most features ({self.features})"
            )

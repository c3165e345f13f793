"""The data-quality contract: what windows of a model must look like, whatever the change detector thinks.

`inferometer profile contract` writes it from a reference; people review it, and `judge.contract_file`
puts it to work.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from agent.config.options import Fraction, Options
from agent.types import Kind

Count = Annotated[int, Meta(ge=0)]


class ColumnRule(Options, frozen=True, kw_only=True, omit_defaults=True):
    """What a column must be. A rate is broken when more rows break it than chance explains."""

    kind: Annotated[Kind | None, Meta(description="Values of another type are violations.")] = None
    required: Annotated[bool, Meta(description="A window without any value of it is a breach.")] = (
        False
    )
    missing: Annotated[
        Fraction | None, Meta(description="Largest share of rows without a value.")
    ] = None
    violations: Annotated[
        Fraction | None, Meta(description="Largest share of values of another type.")
    ] = None
    min: Annotated[float | None, Meta(description="Smallest value allowed.")] = None
    max: Annotated[float | None, Meta(description="Largest value allowed.")] = None
    categories: Annotated[list[str] | None, Meta(description="The texts allowed.")] = None
    outside: Annotated[
        Fraction, Meta(description="Largest share of values outside of range or categories.")
    ] = 0.0
    distinct: Annotated[
        Fraction | None, Meta(description="Smallest share of values that occur once, for ids.")
    ] = None

    dimension: Annotated[
        Count | None, Meta(description="Elements of a vector; judged by one row in 16.")
    ] = None
    zeros: Annotated[
        Fraction | None, Meta(description="Largest share of vectors whose elements are all zero.")
    ] = None

    def __post_init__(self) -> None:
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min is {self.min}; must not be above max ({self.max})")
        if self.categories is not None and (self.min is not None or self.max is not None):
            raise ValueError("categories and a range are set; texts have no range: remove one")
        if self.categories is not None and len(set(self.categories)) < len(self.categories):
            raise ValueError("categories names a text twice; remove one")


class RowRule(Options, frozen=True, kw_only=True, omit_defaults=True):
    """What a window's rows must be, and how long there may be none."""

    min: Annotated[
        Count | None, Meta(description="Fewest rows of a window (`windows.width_s`).")
    ] = None
    max: Annotated[Count | None, Meta(description="Most rows of a window.")] = None
    errors: Annotated[Fraction | None, Meta(description="Largest share of rows with an error.")] = (
        None
    )
    silence_s: Annotated[
        Annotated[float, Meta(gt=0)] | None,
        Meta(description="Longest time without any row; past it the model is stalled."),
    ] = None

    def __post_init__(self) -> None:
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min is {self.min}; must not be above max ({self.max})")


class ModelContract(Options, frozen=True, kw_only=True, omit_defaults=True):
    """One model's contract. `version`: of this one only; otherwise of all that have none of their own."""

    model: Annotated[str, Meta(min_length=1, description="Model name as it stands in events.")]
    version: Annotated[str | None, Meta(description="Version, or all.")] = None
    rows: Annotated[RowRule, Meta(description="Volume, errors, silence.")] = RowRule()
    features: Annotated[dict[str, ColumnRule], Meta(description="By name.")] = msgspec.field(
        default_factory=dict
    )
    predictions: Annotated[dict[str, ColumnRule], Meta(description="By name.")] = msgspec.field(
        default_factory=dict
    )
    new_features: Annotated[
        bool, Meta(description="Whether features that are not named here are fine.")
    ] = False


class ContractFile(Options, frozen=True, kw_only=True, omit_defaults=True):
    """A whole contract file."""

    contract: Annotated[list[ModelContract], Meta(description="By model.")] = msgspec.field(
        default_factory=list
    )

    def __post_init__(self) -> None:
        seen: set[tuple[str, str | None]] = set()
        for index, one in enumerate(self.contract):
            if (one.model, one.version) in seen:
                raise ValueError(
                    f'contract[{index}] is of model "{one.model}", as one before it; join them'
                )
            seen.add((one.model, one.version))

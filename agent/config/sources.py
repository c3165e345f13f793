"""Upstream sources: where features come from."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from agent.config.options import Fraction, Options


class Source(Options, frozen=True, kw_only=True):
    """A feature store, topic or vendor that features come from: when it breaks, one alarm names it."""

    name: Annotated[str, Meta(min_length=1, description="As alarms name it.")]
    features: Annotated[
        list[str],
        Meta(
            min_length=1,
            description="Names of its features; `*` and `?` stand for any text and any letter.",
        ),
    ]
    models: Annotated[
        list[str], Meta(description="Models that read it, with `*` and `?`; default: all.")
    ] = msgspec.field(default_factory=lambda: ["*"])
    share: Annotated[
        Fraction,
        Meta(
            description="It is named when this share of its features, or half of all that moved, has."
        ),
    ] = 0.6

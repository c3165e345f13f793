"""Hard limits."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from agent.config.options import Options


class Budget(Options, frozen=True, kw_only=True):
    """Hard limits on what the agent keeps and emits. Past them streams fold into `_overflow`, and a gauge says so."""

    max_streams: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000,
            description="Stream keys (model, version, segment), overflow streams excluded.",
        ),
    ] = 500
    max_features_per_stream: Annotated[
        int,
        Meta(
            ge=1,
            le=100_000,
            description="Columns of one stream; further ones are counted, not sketched.",
        ),
    ] = 200
    max_series: Annotated[
        int, Meta(ge=10, le=10_000_000, description="Exported time series of `inference.*`.")
    ] = 20_000
    max_memory_bytes: Annotated[
        int,
        Meta(
            ge=8 << 20,
            le=1 << 40,
            description="Sketch memory of the base: totals and open windows.",
        ),
    ] = 128 << 20

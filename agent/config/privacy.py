"""Options of which values leave the process."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from agent.config.options import Options

Values = Literal["names", "hashed", "off"]


class Privacy(Options, frozen=True, kw_only=True):
    """Which texts that stand in events may leave the agent as metrics, pages and documents."""

    values: Annotated[
        Values | None,
        Meta(
            description="Frequent texts of features and predictions: by name, as a keyed hash, or not at all. A feature's own `values` wins. Default: `names` where `export.top_categories` is above 0, and in `replay`; else `off`."
        ),
    ] = None
    predictions: Annotated[
        Values | None, Meta(description="The same for predictions alone; default: `values`.")
    ] = None
    k: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000_000,
            description="A text that surely stands in fewer rows of a list's window or total is left out of that list.",
        ),
    ] = 1
    key_file: Annotated[
        str | None,
        Meta(
            description="File with the key of `hashed`, 16 bytes or more; read at start. Agents of a fleet share it."
        ),
    ] = None

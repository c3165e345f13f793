"""Options of what happens when more arrives than can be counted."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from agent.config.options import Options, Seconds


class Overload(Options, frozen=True, kw_only=True):
    """When events are left out, and which."""

    mode: Annotated[
        Literal["off", "shed"],
        Meta(
            description="`off`: every record is counted, however long it takes. `shed`: an agent that falls behind decodes one of 2, 4, 8 ... records, counts the others as dropped (`shed`), and says so."
        ),
    ] = "off"
    by: Annotated[
        Literal["offset", "key"],
        Meta(
            description="What decides whether a record is kept. `offset`: its place in the log. `key`: its key, so that all records of a key are kept or none; those without a key go by their place."
        ),
    ] = "offset"
    behind_s: Annotated[
        Seconds,
        Meta(
            description="Leave records out when those that wait would take longer than this at the present rate, and do not get fewer. A step that does not make the agent read faster is taken back."
        ),
    ] = 60.0
    max_halvings: Annotated[
        int, Meta(ge=1, le=16, description="At least one record of 2 to this power is kept.")
    ] = 6

"""Options of event-time windows."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from agent.config.options import Options, Seconds


class Windows(Options, frozen=True, kw_only=True):
    """Event-time tumbling windows."""

    width_s: Annotated[
        float, Meta(ge=1, le=86_400, description="Width of a window; whole seconds.")
    ] = 60.0
    out_of_orderness_s: Annotated[
        float, Meta(ge=0, le=86_400, description="How far the watermark trails the newest event.")
    ] = 10.0
    idle_timeout_s: Annotated[
        Seconds,
        Meta(
            description="A caught-up partition without rows for this long no longer holds the watermark."
        ),
    ] = 30.0
    owner_timeout_s: Annotated[
        Seconds, Meta(description="A partition without any news for this long counts as unowned.")
    ] = 60.0
    max_wait_s: Annotated[
        Seconds,
        Meta(
            description="An unowned or stuck partition holds a window at most this long; then it seals as partial."
        ),
    ] = 300.0
    max_skew_s: Annotated[
        Seconds,
        Meta(
            description="Event time may be this far ahead of the Kafka timestamp; beyond: `future`."
        ),
    ] = 300.0
    max_jump_s: Annotated[
        Seconds,
        Meta(description="The same for files, measured from the block's median event time."),
    ] = 86_400.0
    align_span_s: Annotated[
        Seconds, Meta(description="Partitions further ahead of the slowest than this are paused.")
    ] = 600.0
    max_open: Annotated[
        int, Meta(ge=2, le=1000, description="Open windows; past it the oldest is sealed.")
    ] = 8
    keep: Annotated[
        int,
        Meta(
            ge=1, le=1000, description="Sealed profiles kept per stream, for pages and thresholds."
        ),
    ] = 3

    def __post_init__(self) -> None:
        if self.width_s != int(self.width_s):
            raise ValueError(f"width_s is {self.width_s}; must be a whole number of seconds")

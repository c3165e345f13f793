"""Options of turning bytes into rows."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from agent.config.options import Options
from agent.config.syntax import parse_path, require_topic

Path = Annotated[str, Meta(min_length=1)]


class Fields(Options, frozen=True, kw_only=True):
    """Where to find each part of an event in JSON that is not ours: dotted paths, `\\.` for a dot in a key."""

    id: Annotated[Path, Meta(description="Request id: joins labels, names spans.")] = "id"
    ts: Annotated[
        Path,
        Meta(
            description="Completion time: epoch s, ms, us or ns, or RFC 3339; absent: the record's timestamp."
        ),
    ] = "ts"
    model: Annotated[Path, Meta(description="Model name.")] = "model"
    version: Annotated[Path, Meta(description="Model version.")] = "version"
    features: Annotated[
        Path | dict[str, Path],
        Meta(
            description="Object (or array of objects: one row each) with the inputs, or a map from feature name to path."
        ),
    ] = "features"
    prediction: Annotated[
        Path,
        Meta(
            description="Number, text, object or vector; an array beside an array of features is one per row."
        ),
    ] = "prediction"
    label: Annotated[Path, Meta(description="Ground truth.")] = "label"
    latency: Annotated[Path, Meta(description="Latency in `latency_unit`.")] = "latency_ms"
    latency_unit: Annotated[
        Literal["s", "ms", "us", "ns"], Meta(description="Unit of `latency`.")
    ] = "ms"
    status: Annotated[
        Path, Meta(description="`ok`, `success`, 0 or 2xx is success; anything else is an error.")
    ] = "status"
    segment: Annotated[
        Path | dict[str, Path],
        Meta(
            description="Object with the values that split a model into streams, or a map from segment name to path."
        ),
    ] = "segment"
    tags: Annotated[Path, Meta(description="Object with facts about the producer.")] = "tags"
    usage: Annotated[Path, Meta(description="Object with token counts and `ttft_ms`.")] = "usage"
    traceparent: Annotated[
        Path, Meta(description="W3C trace context; a record header of that name wins.")
    ] = "traceparent"

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            if name == "latency_unit":
                continue
            given = getattr(self, name)
            paths = {name: given} if isinstance(given, str) else given
            for key, path in paths.items():
                option = name if isinstance(given, str) else f"{name}.{key}"
                try:
                    parse_path(path)
                except ValueError as error:
                    raise ValueError(f"{option}: {error}") from None


class Decode(Options, frozen=True, kw_only=True):
    """How bytes become rows."""

    fields: Annotated[Fields, Meta(description="Field paths.")] = Fields()
    default_model: Annotated[
        str | None, Meta(description="Model name of events that carry none.")
    ] = None
    max_record_bytes: Annotated[
        int, Meta(ge=256, le=1 << 28, description="Larger values are dropped as `too_large`.")
    ] = 4 << 20
    max_depth: Annotated[
        int, Meta(ge=1, le=500, description="Deeper JSON is dropped as `too_deep`.")
    ] = 32
    max_features: Annotated[
        int,
        Meta(ge=1, le=100_000, description="Events with more values are dropped as `too_wide`."),
    ] = 2_000
    max_name_bytes: Annotated[
        int,
        Meta(
            ge=8, le=4096, description="Longer model, version, segment and feature names are cut."
        ),
    ] = 200
    segments: Annotated[
        list[str] | None,
        Meta(description="Segment names that split streams; default: all that arrive."),
    ] = None
    dead_letter_topic: Annotated[
        str | None,
        Meta(
            description="Topic that receives dropped records: original key, value, headers, and the reason in `inferometer.reason`. Must not be one that is read."
        ),
    ] = None

    def __post_init__(self) -> None:
        if self.dead_letter_topic is not None:
            require_topic("dead_letter_topic", self.dead_letter_topic)

"""Options of cuts, commits and what survives a crash."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from agent.config.options import Options, Seconds


class Delivery(Options, frozen=True, kw_only=True):
    """When rows become chunks, and when offsets are committed."""

    mode: Annotated[
        Literal["memory", "volume", "fleet"],
        Meta(
            description="`memory`: chunks are folded in process; offsets are committed after the collector accepted an export that holds them. At least once. `volume`: chunks and state are kept in `volume_path`; a crash loses and repeats nothing. One agent reads all partitions. `fleet`: any number of agents write chunks to `chunk_topic`, and `inferometer aggregate` folds them; a crash loses and repeats nothing."
        ),
    ] = "memory"
    volume_path: Annotated[
        str | None,
        Meta(
            description="Directory of the journal and the snapshots; `mode: volume` needs it. It must survive the process, and belong to this agent alone.",
        ),
    ] = None
    chunk_topic: Annotated[
        str | None,
        Meta(
            description="`mode: fleet` needs it: the topic that agents write chunks to. It is made when it is missing."
        ),
    ] = None
    shards: Annotated[
        int,
        Meta(
            ge=1,
            le=256,
            description="`mode: fleet`: partitions of `chunk_topic`, and aggregators. Fixed for the topic's life: another number needs another topic.",
        ),
    ] = 1
    snapshot_interval_s: Annotated[
        Seconds,
        Meta(
            description="On a volume: time between snapshots. A restart folds again what came since."
        ),
    ] = 60.0
    sole_member_timeout_s: Annotated[
        Seconds,
        Meta(
            description="`mode: volume`, and aggregators: how long to wait, paused, while other members of the group hold what should be ours; then it exits."
        ),
    ] = 60.0
    cut_interval_s: Annotated[
        Seconds,
        Meta(description="Time between cuts: freshness of everything that leaves the agent."),
    ] = 1.0
    cut_max_bytes: Annotated[
        int,
        Meta(ge=1 << 20, le=1 << 32, description="Sketch memory of one delta that forces a cut."),
    ] = 32 << 20
    cut_max_windows: Annotated[
        int, Meta(ge=2, le=10_000, description="Windows touched by one delta that force a cut.")
    ] = 64
    drain_timeout_s: Annotated[
        Seconds,
        Meta(
            description="Deadline for the whole shutdown; must be below `kafka.session_timeout_s`."
        ),
    ] = 10.0

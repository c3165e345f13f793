"""Options of cuts, commits and what survives a crash."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from agent.config.options import Options, Seconds


class Delivery(Options, frozen=True, kw_only=True):
    """When rows become chunks, and when offsets are committed."""

    mode: Annotated[
        Literal["memory", "volume"],
        Meta(
            description="`memory`: chunks are folded in process; offsets are committed after the collector accepted an export that holds them. At least once. `volume`: chunks and state are kept in `volume_path`; a crash loses and repeats nothing. One agent reads all partitions."
        ),
    ] = "memory"
    volume_path: Annotated[
        str | None,
        Meta(
            description="Directory of the journal and the snapshots; `mode: volume` needs it. It must survive the process, and belong to this agent alone.",
        ),
    ] = None
    snapshot_interval_s: Annotated[
        Seconds,
        Meta(
            description="`mode: volume`: time between snapshots. A restart folds again what came since."
        ),
    ] = 60.0
    sole_member_timeout_s: Annotated[
        Seconds,
        Meta(
            description="`mode: volume`: how long the agent waits, paused, while other members of the group hold partitions; then it exits."
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

"""Options of `inferometer aggregate`; everything else it shares with its agents."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from agent.config.options import Options, Seconds


class Aggregate(Options, frozen=True, kw_only=True):
    """One shard's aggregator. It reads its agents' configuration: their brokers, group and windows."""

    shard: Annotated[
        int, Meta(ge=0, le=255, description="Which shard, from 0; below `delivery.shards`.")
    ] = 0
    volume_path: Annotated[
        str | None,
        Meta(
            description="Directory of the journal and the snapshots; needed. It must survive the process, and belong to this shard alone."
        ),
    ] = None
    group_id: Annotated[
        str | None,
        Meta(
            description="The aggregator of shard N is the one member of group `<this>-N`. Default: `<kafka.group_id>-aggregate`."
        ),
    ] = None
    buffer_max_bytes: Annotated[
        int,
        Meta(
            ge=1 << 20,
            le=1 << 36,
            description="Parts of chunks of which it is not known yet whether they count. What does not fit is read again.",
        ),
    ] = 256 << 20
    missing_timeout_s: Annotated[
        Seconds,
        Meta(
            description="A chunk that counts, and is not in the topic so long after all was read, is lost: it is announced with its offsets, and counting goes on without it."
        ),
    ] = 60.0

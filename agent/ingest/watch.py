"""Looks after a running consumer: topics that do not exist, and progress that has stopped."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable
from typing import Any

from agent.config import Kafka
from agent.ingest.announcer import Announcer
from agent.ingest.assignment import Epoch, Owned
from agent.ingest.connection import find_trouble
from agent.ingest.consumer import raise_unauthorised, topics_of
from agent.ingest.security import client_security
from agent.types import Partition

log = logging.getLogger(__name__)


def look_for_topics(kafka: Kafka, consumer: Any, announcer: Announcer) -> None:
    """Say which topics do not exist, and look again; they join the subscription when they come.

    Raises SourceError for topics that this user may not read.
    """
    client = consumer._client
    subscribed = consumer.subscription()
    wanted = set(subscribed if kafka.topic_pattern else topics_of(kafka))
    if denied := wanted & set(client.cluster.unauthorized_topics):
        raise_unauthorised(sorted(denied))
    missing = sorted(topic for topic in wanted if not client.cluster.partitions_for_topic(topic))
    if kafka.topic_pattern and not subscribed:
        missing = [f"(none matches {kafka.topic_pattern!r})"]
    if not missing:
        announcer.forget("topics")
        return
    if announcer.may_say("topics"):
        option = "kafka.topic_pattern" if kafka.topic_pattern else "kafka.topics"
        log.warning(
            "waiting for topics that do not exist: %s; create them, or correct %s",
            ", ".join(missing),
            option,
        )
    client.force_metadata_update()


def held_up(owned: Iterable[Owned], stalled_s: float) -> str:
    """What to say when partitions have been paused for long because nothing that was read is cut; or ""."""
    since = [one.progressed_at for one in owned if one.paused == "buffer"]
    waited_s = time.monotonic() - max(since, default=math.inf)
    if waited_s <= stalled_s:
        return ""
    return f"{len(since)} partitions are paused: nothing that was read could be cut for {waited_s:.0f} s"


def unheard(owned: Iterable[Owned], after_s: float) -> set[Partition]:
    """Partitions that are not paused, and did not move nor were said to be read to their end for so long.

    Their leader is away, or does not answer.
    """
    since = time.monotonic() - after_s
    return {one.partition for one in owned if not one.paused and one.progressed_at < since}


def not_waited_for(partitions: Iterable[Partition], after_s: float) -> list[str]:
    """What the readiness page notes of partitions that are `unheard`."""
    names = [f"{topic}/{partition}" for topic, partition in sorted(partitions)]
    if not names:
        return []
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return [
        f"nothing was heard of {', '.join(names[:5])}{more} for {after_s:.0f} s "
        "(windows.owner_timeout_s): the other partitions do not wait for them"
    ]


async def why_restart(
    kafka: Kafka, consumer: Any, epoch: Epoch | None, stalled_s: float
) -> str | None:
    """The reason to replace a consumer that is behind the log and does not move; None to let it be.

    Brokers that cannot be reached are no reason: another consumer would not reach them either.
    """
    if consumer._fetcher.error_future.done():
        return "its fetch task has ended"
    now = time.monotonic()
    if epoch is not None and epoch.refused_at is not None and now - epoch.refused_at > stalled_s:
        return f"its commit was refused {stalled_s:.0f} s ago, and the group gave no new assignment"
    owned = epoch.owned.values() if epoch is not None else ()
    cluster = consumer._client.cluster
    stuck = [
        one
        for one in owned
        if not one.paused
        and now - max(one.progressed_at, one.watched_at) > stalled_s
        and (one.lag() > 0 or _silent_s(one) > stalled_s)
        and cluster.leader_for_partition(one.tp) not in (None, -1)
    ]
    if not stuck:
        return None
    for one in stuck:
        one.watched_at = now  # look again after the same time
    trouble = await find_trouble(kafka, client_security(kafka))
    if trouble is not None:
        log.warning("no records for %.0f s: %s", stalled_s, trouble.message)
        return None
    names = ", ".join(f"{one.partition.topic}/{one.partition.partition}" for one in stuck[:5])
    return f"no progress for {stalled_s:.0f} s although the brokers answer ({names})"


def _silent_s(owned: Owned) -> float:
    """Seconds since a broker last answered a fetch for this partition; 0 before the first."""
    answered_ms = owned.answered_ms
    return 0.0 if answered_ms is None else max(0.0, time.time() - answered_ms / 1000)

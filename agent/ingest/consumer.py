"""Builds, connects and ends the aiokafka consumer behind the source.

What is switched off in aiokafka: auto commit, reset of positions, leaving the group when idle
(`max_poll_interval_ms`: a paused agent is not dead; `watch.py` looks at progress instead).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Coroutine, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import aiokafka.errors as kafka_errors

from agent.config import Kafka
from agent.errors import SourceError
from agent.ingest.announcer import Announcer
from agent.ingest.batches import ToleratingConsumer
from agent.ingest.connection import Outlook, find_trouble
from agent.ingest.raw import RawConsumer
from agent.ingest.security import client_security, reread_password_at_connect

log = logging.getLogger(__name__)

_NO_IDLE_LIMIT_MS = 24 * 3600 * 1000
#: A join is answered when all members have come: its limit lies above the rebalance timeout.
_JOIN_MARGIN_S = 5.0


@dataclass(frozen=True, slots=True)
class Pace:
    """Intervals and limits that are no options; tests shorten them."""

    poll_s: float = 0.2  # longest wait for records
    max_records: int = 2048  # of one `getmany`: about 2 ms of the loop
    max_batches: int = 1024  # the same, when whole batches are fetched
    heartbeat_s: float = 1.0  # an idle partition whose broker answers is told to the pipeline
    house_s: float = 1.0  # gauges, missing topics, watchdog
    metadata_max_age_s: float = 30.0  # new partitions and topics are seen this soon
    stalled_s: float = 60.0  # behind the log without progress: restart the consumer
    announce_s: float = 30.0  # a lasting state is said again
    reconnect_s: float = 0.5  # first pause between connection attempts; doubles
    reconnect_max_s: float = 10.0
    suspect_attempts: int = 5  # in a row; then the settings are taken to be wrong
    corrupt_attempts: int = 3  # reads of a damaged batch before it is given up
    stop_consumer_s: float = 5.0  # when the watchdog replaces it


def topics_of(kafka: Kafka) -> list[str]:
    """The topics named in the configuration, each once."""
    return list(dict.fromkeys([*kafka.topics, *kafka.label_topics]))


def whole_pattern(kafka: Kafka, excluded: str | None) -> str:
    """One expression for whole topic names (aiokafka matches prefixes): `topic_pattern`, the label
    topics, and never `excluded`, the dead-letter topic, which would feed itself. "" when not set."""
    if kafka.topic_pattern is None:
        return ""
    names = [f"(?:{kafka.topic_pattern})", *(re.escape(topic) for topic in kafka.label_topics)]
    never = f"(?!{re.escape(excluded)}$)" if excluded else ""
    return f"^{never}(?:{'|'.join(names)})$"


async def connect(
    kafka: Kafka, pace: Pace, announcer: Announcer, stopping: asyncio.Event
) -> Any | None:
    """A connected consumer without a subscription; None when `stopping` was set first.

    Waits for the brokers as long as it takes and says so. Raises SourceError when they answer that
    the settings are wrong, ConfigError for files that cannot be used.
    """
    pause_s = pace.reconnect_s
    suspects = 0
    while not stopping.is_set():
        security = client_security(kafka)
        consumer = _build(kafka, pace, security)
        try:
            await consumer.start()
            if not consumer._client.cluster.brokers():
                raise kafka_errors.KafkaConnectionError("no broker is known")
        except (kafka_errors.KafkaError, OSError, TimeoutError) as error:
            await _finished(consumer.stop(), 1.0)
            trouble = await find_trouble(kafka, security)
            message = trouble.message if trouble else str(error)
            if trouble and trouble.outlook is Outlook.HOPELESS:
                raise SourceError(message) from None
            suspects = suspects + 1 if trouble and trouble.outlook is Outlook.SUSPECT else 0
            if suspects >= pace.suspect_attempts:
                raise SourceError(f"{message} ({suspects} attempts)") from None
            if announcer.may_say(f"connect: {message}"):
                log.warning("waiting for Kafka: %s; trying again", message)
        else:
            return consumer
        await pause(stopping, pause_s)
        pause_s = min(pause_s * 2, pace.reconnect_max_s)
    return None


async def pause(stopping: asyncio.Event, pause_s: float) -> None:
    """Sleep, but not past `stopping`."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(pause_s):
            await stopping.wait()


def _build(kafka: Kafka, pace: Pace, security: Mapping[str, Any]) -> Any:
    request_s = max(kafka.request_timeout_s, kafka.rebalance_timeout_s + _JOIN_MARGIN_S)
    consumer = (RawConsumer if kafka.fetch == "raw" else ToleratingConsumer)(
        bootstrap_servers=list(kafka.bootstrap_servers),
        client_id=kafka.client_id,
        group_id=kafka.group_id,
        group_instance_id=kafka.group_instance_id,
        client_rack=kafka.client_rack,
        isolation_level=kafka.isolation_level,
        enable_auto_commit=False,
        auto_offset_reset="none",
        check_crcs=True,
        session_timeout_ms=int(kafka.session_timeout_s * 1000),
        heartbeat_interval_ms=int(kafka.heartbeat_interval_s * 1000),
        rebalance_timeout_ms=int(kafka.rebalance_timeout_s * 1000),
        request_timeout_ms=int(request_s * 1000),
        fetch_max_bytes=kafka.fetch_max_bytes,
        max_partition_fetch_bytes=kafka.fetch_max_partition_bytes,
        fetch_max_wait_ms=int(kafka.fetch_max_wait_s * 1000),
        metadata_max_age_ms=int(pace.metadata_max_age_s * 1000),
        max_poll_interval_ms=_NO_IDLE_LIMIT_MS,
        **security,
    )
    reread_password_at_connect(consumer._client, kafka.sasl)
    return consumer


async def disconnect(consumer: Any, timeout_s: float) -> None:
    """Leave the group and close; past `timeout_s` cut everything off. Never raises."""
    trouble = await _finished(consumer.stop(), timeout_s)
    if trouble is None:
        return
    log.warning(
        "the consumer did not stop in %.1f s (%s); it is cut off, and the group notices after "
        "kafka.session_timeout_s",
        timeout_s,
        trouble,
    )
    # What it has left behind: tasks and connections.
    coordinator = consumer._coordinator
    if coordinator is not None:
        for name in ("_coordination_task", "_heartbeat_task", "_commit_refresh_task"):
            task = getattr(coordinator, name, None)
            if task is not None and not task.done():
                task.cancel()
    if consumer._fetcher is not None:
        await _finished(consumer._fetcher.close(), 1.0)
    await _finished(consumer._client.close(), 1.0)


async def _finished(ending: Coroutine[Any, Any, Any], timeout_s: float) -> str | None:
    """Run one of aiokafka's endings; None when it came to its end, else what it met.

    In a task of its own: `Fetcher.close` lets the cancellation of its own tasks out (one that waits
    between two tries, while a broker is away), which would read as a cancellation of the caller.
    """
    task = asyncio.ensure_future(ending)
    try:
        done, _ = await asyncio.wait({task}, timeout=timeout_s)
    finally:
        task.cancel()
    if not done:
        return "no answer"
    if task.cancelled():
        return "it was waiting for a broker"
    error = task.exception()
    return None if error is None else str(error) or type(error).__name__


def hopeless(
    kafka: Kafka, error: kafka_errors.KafkaError, *, group_option: str = "kafka.group_id"
) -> SourceError | None:
    """The error for what trying again cannot mend; None for the rest. `group_option` names the group."""
    group = f"{group_option} {kafka.group_id!r}"
    match error:
        case kafka_errors.GroupAuthorizationFailedError():
            return SourceError(f"{group} is not authorised; grant Read on the group to this user")
        case kafka_errors.InconsistentGroupProtocolError():
            return SourceError(
                f"{group} is used by consumers of another kind; choose another group"
            )
        case kafka_errors.InvalidSessionTimeoutError():
            return SourceError(
                f"kafka.session_timeout_s is {kafka.session_timeout_s}; the broker allows what lies "
                "between its group.min.session.timeout.ms and group.max.session.timeout.ms"
            )
        case kafka_errors.InvalidGroupIdError():
            return SourceError(f"{group} is not valid; choose another")
    return None


def raise_unauthorised(topics: Iterable[object]) -> NoReturn:
    names = ", ".join(repr(str(topic)) for topic in topics) or "a topic"
    raise SourceError(
        f"kafka.topics: {names} is not authorised; grant Read and Describe to this user"
    )

"""The chunk topic: made when it is missing, and checked for what fleet mode rests on.

Its partitions are the shards, for the life of the topic: a stream's shard is its hash modulo their
number. Records must not be compacted away, must fit, and must live until every aggregator had them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import aiokafka.errors as kafka_errors
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from agent.config import Delivery, Kafka
from agent.errors import ConfigError, SourceError
from agent.ingest.announcer import Announcer
from agent.ingest.security import client_security
from agent.state.parts import MAX_RECORD_BYTES

log = logging.getLogger(__name__)

#: A record's value, and what a batch and a record add to it.
MIN_MESSAGE_BYTES: Final = MAX_RECORD_BYTES + 4096
#: An aggregator may be away so long without a loss.
RETENTION_MS: Final = 7 * 24 * 3600 * 1000
MIN_RETENTION_MS: Final = 3600 * 1000
_NO_LIMIT: Final = -1
_COPIES: Final = 3
#: Between attempts to ask brokers that are away.
RETRY_S: Final = 1.0
#: A topic is created by one broker, and heard of by the others a moment later.
_HEARD_WITHIN_S: Final = 10.0
_ASK_AGAIN_S: Final = 0.1

_UNKNOWN_TOPIC = 3
_TOPIC_ALREADY_EXISTS = 36
_UNSUPPORTED_VERSION = 35
_NOT_AUTHORISED = {29, 31}
_NO_VALUE = 0


@dataclass(frozen=True, slots=True)
class ChunkTopic:
    """Name and number of shards, as configured."""

    name: str
    shards: int

    @classmethod
    def of(cls, delivery: Delivery) -> ChunkTopic:
        return cls(delivery.chunk_topic or "", delivery.shards)

    @property
    def settings(self) -> dict[str, str]:
        """What the topic is made with."""
        return {
            "cleanup.policy": "delete",
            "retention.ms": str(RETENTION_MS),
            "retention.bytes": str(_NO_LIMIT),
            "max.message.bytes": str(max(MIN_MESSAGE_BYTES, 1 << 20)),
            # Agents' clocks may be wrong: brokers refuse times of the future, and age by them.
            "message.timestamp.type": "LogAppendTime",
        }


class AwayError(SourceError):
    """No broker says anything about the topic now."""


async def await_chunk_topic(kafka: Kafka, topic: ChunkTopic) -> None:
    """`ensure_chunk_topic`, however long the brokers are away."""
    announcer = Announcer(10.0)
    while True:
        try:
            await ensure_chunk_topic(kafka, topic)
        except AwayError as error:
            if announcer.may_say("away"):
                log.warning("%s; trying again", error)
            await asyncio.sleep(RETRY_S)
        else:
            return


async def ensure_chunk_topic(kafka: Kafka, topic: ChunkTopic) -> None:
    """Make the topic if it is missing, then check it.

    It is made with a copy on each broker, three at most, two of which must have a record before it is
    acknowledged. Raises ConfigError when the topic is not fit for the purpose, AwayError when the brokers cannot be
    asked, SourceError when the topic cannot be had at all.
    """
    admin = AIOKafkaAdminClient(
        bootstrap_servers=list(kafka.bootstrap_servers),
        client_id=f"{kafka.client_id}-chunk-topic",
        request_timeout_ms=int(kafka.request_timeout_s * 1000),
        **client_security(kafka),
    )
    try:
        await admin.start()
        partitions = await _partitions(admin, topic.name)
        is_new = partitions is None
        if partitions is None:
            await _create(admin, topic)
            partitions = topic.shards
        check_shards(topic, partitions)
        settings = await _settings(admin, topic.name, is_new=is_new)
        if settings is not None:
            check_settings(topic, settings)
    except (kafka_errors.KafkaError, OSError, TimeoutError) as error:
        raise AwayError(
            f"chunk topic {topic.name!r} cannot be looked at: {str(error) or type(error).__name__}"
        ) from None
    finally:
        await admin.close()


def check_shards(topic: ChunkTopic, partitions: int) -> None:
    """Raises ConfigError unless the topic has one partition for each shard."""
    if partitions != topic.shards:
        raise ConfigError(
            f"delivery.shards is {topic.shards}, but chunk topic {topic.name!r} has {partitions} "
            "partitions; they must be equal, and stay so: name a new topic to change the number"
        )


def check_settings(topic: ChunkTopic, settings: Mapping[str, str]) -> None:
    """Raises ConfigError for settings that would lose chunks; warns of those that may."""

    def number(name: str) -> int:
        return int(settings.get(name) or _NO_LIMIT)

    what = f"chunk topic {topic.name!r}"
    policy = settings.get("cleanup.policy", "delete")
    if policy != "delete":
        raise ConfigError(
            f"{what} has cleanup.policy={policy}; must be delete: compaction removes records"
        )
    largest = number("max.message.bytes")
    if 0 <= largest < MIN_MESSAGE_BYTES:
        raise ConfigError(
            f"{what} has max.message.bytes={largest}; must be at least {MIN_MESSAGE_BYTES}"
        )
    retention_ms = number("retention.ms")
    if 0 <= retention_ms < MIN_RETENTION_MS:
        raise ConfigError(
            f"{what} has retention.ms={retention_ms}; must be at least {MIN_RETENTION_MS}: what an "
            "aggregator has not read by then is lost"
        )
    if number("retention.bytes") != _NO_LIMIT:
        log.warning(
            "%s has retention.bytes=%s: what does not fit is deleted, read or not; set it to -1",
            what,
            settings["retention.bytes"],
        )


async def _partitions(admin: Any, name: str) -> int | None:
    """Number of partitions; None when there is no such topic."""
    (found,) = await admin.describe_topics([name])
    match found["error_code"]:
        case kafka_errors.UnknownTopicOrPartitionError.errno:
            return None
        case 0:
            return len(found["partitions"])
        case code:
            raise _unanswered(name, code, kafka_errors.for_code(code).__name__)


def _unanswered(name: str, code: int, why: str) -> SourceError:
    """A broker that loads, or a topic on its way, is asked again."""
    kind = AwayError if kafka_errors.for_code(code).retriable else SourceError
    return kind(f"chunk topic {name!r}: {why}")


async def _create(admin: Any, topic: ChunkTopic) -> None:
    brokers = (await admin.describe_cluster())["brokers"]
    copies = min(_COPIES, len(brokers))
    new = NewTopic(
        name=topic.name,
        num_partitions=topic.shards,
        replication_factor=copies,
        topic_configs=topic.settings | {"min.insync.replicas": str(max(1, copies - 1))},
    )
    response = await admin.create_topics([new])
    for name, code, *message in response.topic_errors:
        if code in (_NO_VALUE, _TOPIC_ALREADY_EXISTS):  # another agent was quicker
            continue
        if code in _NOT_AUTHORISED:
            raise SourceError(
                f"chunk topic {name!r} does not exist, and this user may not create it; create it with "
                f"{topic.shards} partitions and {_as_text(topic.settings)}, or grant Create"
            )
        why = next((text for text in message if text), "") or kafka_errors.for_code(code).__name__
        raise _unanswered(name, code, f"cannot be created: {why}")
    log.info("chunk topic %r created with %d partitions", topic.name, topic.shards)


async def _settings(admin: Any, name: str, *, is_new: bool) -> dict[str, str] | None:
    """The topic's settings; None when this user may not ask, or the broker cannot answer.

    is_new  it was just made: a broker that has not heard of it is asked again for a while
    """
    asked_until = time.monotonic() + (_HEARD_WITHIN_S if is_new else 0.0)
    try:
        (response,) = await _described(admin, name)
        while _is_unheard_of(response) and time.monotonic() < asked_until:
            await asyncio.sleep(_ASK_AGAIN_S)
            (response,) = await _described(admin, name)
    except kafka_errors.IncompatibleBrokerVersion:
        return None
    for code, message, _type, _name, entries in response.resources:
        if code in (*_NOT_AUTHORISED, _UNSUPPORTED_VERSION):
            log.warning(
                "the settings of chunk topic %r cannot be checked (%s); it needs %s",
                name,
                message or kafka_errors.for_code(code).__name__,
                "cleanup.policy=delete",
            )
            return None
        if code != _NO_VALUE:
            raise _unanswered(name, code, message or kafka_errors.for_code(code).__name__)
        return {entry[0]: entry[1] for entry in entries}
    return None


async def _described(admin: Any, name: str) -> Any:
    return await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name)])


def _is_unheard_of(response: Any) -> bool:
    return any(code == _UNKNOWN_TOPIC for code, *_ in response.resources)


def _as_text(settings: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in settings.items())

"""A CloudEvent as a Kafka record, in structured mode: one partition holds all of a model, in order.

The producer is idempotent, so a try of its own that was answered late is no second record. Behind a
failed record it is replaced: what it knows of the broker is then in doubt, and the repeat of the record
has the same `id`.

Source: CloudEvents, Kafka protocol binding 1.0.2 (header `content-type`, key from `partitionkey`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Final

import aiokafka.errors as kafka_errors
from aiokafka import AIOKafkaProducer

from agent.config import Kafka
from agent.config import KafkaTopic as Options
from agent.errors import ConfigError, PermanentExportError, TransientExportError
from agent.ingest.security import client_security, reread_password_at_connect
from agent.respond.event import CONTENT_TYPE, Event
from agent.verdict import Verdict

#: A producer that does not end in time is left to the loop's end.
_END_S: Final = 2.0
#: The broker will say the same of the same bytes.
_REFUSED: Final = (
    kafka_errors.MessageSizeTooLargeError,
    kafka_errors.InvalidTopicError,
)


class KafkaTopicChannel:
    """See `channel.Channel`. Connects at the first delivery."""

    def __init__(self, options: Options, kafka: Kafka) -> None:
        self._options = options
        self._kafka = kafka
        self._producer: Any = None

    async def deliver(self, event: Event) -> None:
        topic, timeout_s = self._options.topic, self._options.timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                producer = self._producer or await self._connect()
                await producer.send_and_wait(
                    topic,
                    event.body,
                    key=event.verdict.stream.model.encode() or b"unknown",
                    timestamp_ms=max(0, event.verdict.window_end_ms),
                    headers=[("content-type", CONTENT_TYPE.encode())],
                )
        except _REFUSED as error:
            raise PermanentExportError(f"topic {topic}: {error}") from None
        except TimeoutError:
            await self.close()
            raise TransientExportError(f"topic {topic}: no answer in {timeout_s:g} s") from None
        except (kafka_errors.KafkaError, ConfigError, OSError) as error:
            await self.close()
            raise TransientExportError(f"topic {topic}: {type(error).__name__}: {error}") from None

    def restore(self, firing: Iterable[Verdict]) -> None:
        """The topic keeps what it was told."""

    async def run(self) -> None:
        pass

    async def close(self) -> None:
        producer, self._producer = self._producer, None
        if producer is None:
            return
        stop = asyncio.ensure_future(producer.stop())
        await asyncio.wait({stop}, timeout=_END_S)
        if stop.done() and not stop.cancelled():
            stop.exception()  # looked at: it is over either way
        stop.cancel()

    async def _connect(self) -> Any:
        kafka = self._kafka
        producer = self._producer = AIOKafkaProducer(
            bootstrap_servers=list(kafka.bootstrap_servers),
            client_id=f"{kafka.client_id}-actions",
            acks="all",
            enable_idempotence=True,
            request_timeout_ms=int(self._options.timeout_s * 1000),
            **client_security(kafka),
        )
        reread_password_at_connect(producer.client, kafka.sasl)
        await producer.start()
        return producer

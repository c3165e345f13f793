"""The real broker does what the other tests take for granted."""

import asyncio
import os
import signal
import ssl
import subprocess
import sys
import textwrap
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.abc import AbstractTokenProvider
from aiokafka.errors import KafkaConnectionError, KafkaError
from aiokafka.helpers import create_ssl_context

from tests.support.kafka_real import PASSWORD, USER, RealKafka, unique, unsecured_token
from tests.support.wait import eventually_sync


async def _round_trip(bootstrap: str, topic: str, **security: Any) -> bytes | None:
    """Produce one record and read it back through a group, both over the same listener."""
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, **security) as producer:
        await producer.send_and_wait(topic, b"ping")
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=bootstrap,
        group_id=unique("group"),
        auto_offset_reset="earliest",
        **security,
    )
    async with consumer:
        record = await asyncio.wait_for(consumer.getone(), 20)
        await consumer.commit()
        return record.value


async def test_plaintext_listener_carries_a_record_through_a_group(real_kafka: RealKafka) -> None:
    topic = real_kafka.fresh_topic()
    assert await _round_trip(real_kafka.bootstrap, topic) == b"ping"


async def test_ssl_listener_is_trusted_through_the_fixtures_authority(
    real_kafka: RealKafka,
) -> None:
    context = create_ssl_context(cafile=str(real_kafka.ca_path))
    topic = real_kafka.fresh_topic()
    security = {"security_protocol": "SSL", "ssl_context": context}
    assert await _round_trip(real_kafka.ssl_bootstrap, topic, **security) == b"ping"


async def test_mutual_tls_listener_wants_a_client_certificate(real_kafka: RealKafka) -> None:
    topic = real_kafka.fresh_topic()
    anonymous = create_ssl_context(cafile=str(real_kafka.ca_path))
    known = create_ssl_context(
        cafile=str(real_kafka.ca_path),
        certfile=str(real_kafka.client.certificate_path),
        keyfile=str(real_kafka.client.key_path),
    )
    security = {"security_protocol": "SSL", "ssl_context": known}
    assert await _round_trip(real_kafka.mtls_bootstrap, topic, **security) == b"ping"
    with pytest.raises(KafkaConnectionError):
        await _round_trip(
            real_kafka.mtls_bootstrap, topic, security_protocol="SSL", ssl_context=anonymous
        )


async def _handshake(address: str, context: ssl.SSLContext) -> None:
    host, port = address.split(":")
    _, writer = await asyncio.open_connection(host, int(port), ssl=context)
    writer.close()
    await writer.wait_closed()


async def test_expired_certificate_and_strange_authority_are_refused_for_their_own_reason(
    real_kafka: RealKafka,
) -> None:
    known = create_ssl_context(cafile=str(real_kafka.ca_path))
    other = create_ssl_context(cafile=str(real_kafka.other_ca_path))
    await _handshake(real_kafka.ssl_bootstrap, known)
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        await _handshake(real_kafka.expired_bootstrap, known)
    with pytest.raises(ssl.SSLCertVerificationError, match="unable to get local issuer"):
        await _handshake(real_kafka.ssl_bootstrap, other)


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
async def test_password_mechanism_accepts_the_password_and_refuses_another(
    real_kafka: RealKafka, mechanism: str
) -> None:
    security = {
        "security_protocol": "SASL_SSL",
        "ssl_context": create_ssl_context(cafile=str(real_kafka.ca_path)),
        "sasl_mechanism": mechanism,
        "sasl_plain_username": USER,
        "sasl_plain_password": PASSWORD,
    }
    topic = real_kafka.fresh_topic()
    assert await _round_trip(real_kafka.sasl_bootstrap, topic, **security) == b"ping"
    with pytest.raises(KafkaError):
        await _round_trip(
            real_kafka.sasl_bootstrap, topic, **(security | {"sasl_plain_password": "wrong"})
        )


class _Token(AbstractTokenProvider):
    async def token(self) -> str:
        return unsecured_token()


async def test_oauthbearer_accepts_an_unsecured_token(real_kafka: RealKafka) -> None:
    topic = real_kafka.fresh_topic()
    security = {
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": "OAUTHBEARER",
        "sasl_oauth_token_provider": _Token(),
    }
    assert await _round_trip(real_kafka.sasl_plaintext_bootstrap, topic, **security) == b"ping"


async def test_records_and_addresses_outlive_a_restart_and_a_crash(real_kafka: RealKafka) -> None:
    topic = real_kafka.fresh_topic(partitions=2)
    address = real_kafka.bootstrap
    async with AIOKafkaProducer(bootstrap_servers=address, acks="all") as producer:
        await producer.send_and_wait(topic, b"kept", partition=1)
    real_kafka.restart()
    real_kafka.kill()
    assert not real_kafka.running
    real_kafka.start()
    assert real_kafka.bootstrap == address
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=address, auto_offset_reset="earliest")
    async with consumer:
        assert (await asyncio.wait_for(consumer.getone(), 20)).value == b"kept"


def test_topic_can_be_created_with_settings_grown_and_deleted(real_kafka: RealKafka) -> None:
    topic = real_kafka.fresh_topic(partitions=3, retention_ms="60000")
    assert real_kafka.topic_config(topic)["retention.ms"] == "60000"
    real_kafka.add_partitions(topic, 5)
    assert len(real_kafka.admin.list_topics(topic, timeout=10).topics[topic].partitions) == 5
    real_kafka.delete_topic(topic)
    assert topic not in real_kafka.admin.list_topics(timeout=10).topics


def test_broker_does_not_outlive_a_test_run_that_is_killed(real_kafka: RealKafka) -> None:
    """What pytest-timeout does at the limit is `os._exit`; a crash is worse. Neither leaves Java."""
    program = """
        import time
        from tests.support.kafka_real import RealKafka
        broker = RealKafka().start()
        print(broker.pid, broker.folder, flush=True)
        time.sleep(60)
    """
    run = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, text=True
    )
    assert run.stdout is not None
    with run:
        pid, folder = run.stdout.readline().split()
        os.kill(run.pid, signal.SIGKILL)
    try:
        eventually_sync(lambda: not _alive(int(pid)))
    finally:
        subprocess.run(["rm", "-r", folder], check=True)


def _alive(pid: int) -> bool:
    """Whether the process runs; a zombie that nobody has reaped does not."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return state.returncode == 0 and not state.stdout.strip().startswith("Z")

"""TLS and SASL against a real Apache Kafka: what works, and what a wrong setting says."""

import asyncio
import contextlib
import logging
from pathlib import Path
from typing import Any

import pytest

from agent.config import Secret
from agent.errors import ConfigError, SourceError
from tests.support.kafka_real import PASSWORD, USER, RealKafka, unique, unsecured_token
from tests.support.kafka_source import Member, kafka_config, produce
from tests.support.wait import eventually

MECHANISMS = ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]
WRONG = "not-the-password-4711"


async def reads(member: Member, count: int = 3) -> None:
    async with member.running():
        await eventually(lambda: len(member.records) == count)
        await member.commit()


async def refused(config: Any) -> str:
    """The message of the error that `start` ends with."""
    member = Member(config)
    with pytest.raises(SourceError) as caught:
        await asyncio.wait_for(member.source.start(), 40)
    await member.source.stop(1.0)
    return str(caught.value)


@pytest.fixture
async def topic(real_kafka: RealKafka) -> str:
    name = real_kafka.fresh_topic()
    await produce(real_kafka.bootstrap, name, [b"1", b"2", b"3"])
    return name


def over(address: str, topic: str, protocol: str, **options: Any) -> Any:
    return kafka_config(
        address, [topic], group_id=unique("group"), security_protocol=protocol, **options
    )


# ---------------------------------------------------------------- TLS


async def test_tls_with_the_right_authority(real_kafka: RealKafka, topic: str) -> None:
    tls = {"ca_file": str(real_kafka.ca_path)}
    await reads(Member(over(real_kafka.ssl_bootstrap, topic, "SSL", tls=tls)))


async def test_mutual_tls_with_a_client_certificate(real_kafka: RealKafka, topic: str) -> None:
    tls = {
        "ca_file": str(real_kafka.ca_path),
        "cert_file": str(real_kafka.client.certificate_path),
        "key_file": str(real_kafka.client.key_path),
    }
    await reads(Member(over(real_kafka.mtls_bootstrap, topic, "SSL", tls=tls)))


async def test_client_certificate_that_is_missing_is_named(
    real_kafka: RealKafka, topic: str
) -> None:
    tls = {"ca_file": str(real_kafka.ca_path)}
    message = await refused(over(real_kafka.mtls_bootstrap, topic, "SSL", tls=tls))
    assert "may want a client certificate: set kafka.tls.cert_file" in message


async def test_strange_authority_and_expired_certificate_are_named(
    real_kafka: RealKafka, topic: str
) -> None:
    other = {"ca_file": str(real_kafka.other_ca_path)}
    message = await refused(over(real_kafka.ssl_bootstrap, topic, "SSL", tls=other))
    assert "unable to get local issuer certificate" in message
    assert "Check kafka.tls.ca_file" in message
    known = {"ca_file": str(real_kafka.ca_path)}
    message = await refused(over(real_kafka.expired_bootstrap, topic, "SSL", tls=known))
    assert "certificate has expired" in message


async def test_a_broker_under_another_host_name_is_named_and_gets_no_password(
    real_kafka: RealKafka, topic: str
) -> None:
    """127.0.0.2 leads to the broker, and stands not in its certificate."""
    sasl = {"mechanism": "PLAIN", "username": USER, "password": Secret(PASSWORD)}
    seen = bytearray()

    async def pass_on(source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(1 << 16):
                to.write(data)
                seen.extend(data)
                await to.drain()
        to.close()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = real_kafka.sasl_bootstrap.split(":")
        onward = await asyncio.open_connection(host, int(port))
        async with asyncio.TaskGroup() as group:
            group.create_task(pass_on(reader, onward[1]))
            group.create_task(pass_on(onward[0], writer))

    server = await asyncio.start_server(relay, "127.0.0.2", 0)
    address = f"127.0.0.2:{server.sockets[0].getsockname()[1]}"
    tls = {"ca_file": str(real_kafka.ca_path)}
    message = await refused(over(address, topic, "SASL_SSL", tls=tls, sasl=sasl))
    server.close()
    assert "IP address mismatch" in message
    assert "kafka.tls.check_hostname for another host name" in message
    assert seen and PASSWORD.encode() not in seen
    assert PASSWORD not in message and "\n" not in message


async def test_protocol_that_the_listener_does_not_speak_is_named(
    real_kafka: RealKafka, topic: str
) -> None:
    tls = {"ca_file": str(real_kafka.ca_path)}
    sasl = {"mechanism": "PLAIN", "username": USER, "password": Secret(PASSWORD)}
    message = await refused(over(real_kafka.ssl_bootstrap, topic, "PLAINTEXT"))
    assert "speaks TLS; kafka.security_protocol is PLAINTEXT: use SSL" in message
    message = await refused(over(real_kafka.bootstrap, topic, "SSL", tls=tls))
    assert "hangs up in the TLS handshake; kafka.security_protocol is SSL" in message
    message = await refused(over(real_kafka.bootstrap, topic, "SASL_PLAINTEXT", sasl=sasl))
    assert "wants no SASL; kafka.security_protocol is SASL_PLAINTEXT: use PLAINTEXT" in message
    message = await refused(over(real_kafka.sasl_bootstrap, topic, "SSL", tls=tls))
    assert (
        "may want authentication: set kafka.security_protocol (now SSL) and kafka.sasl" in message
    )


# ---------------------------------------------------------------- SASL


@pytest.mark.parametrize("mechanism", MECHANISMS)
async def test_password_from_a_file_reads_and_commits(
    real_kafka: RealKafka, topic: str, mechanism: str, tmp_path: Path
) -> None:
    secret = tmp_path / "password"
    secret.write_text(PASSWORD + "\n")
    sasl = {"mechanism": mechanism, "username": USER, "password_file": str(secret)}
    tls = {"ca_file": str(real_kafka.ca_path)}
    await reads(Member(over(real_kafka.sasl_bootstrap, topic, "SASL_SSL", tls=tls, sasl=sasl)))


@pytest.mark.parametrize("mechanism", MECHANISMS)
async def test_wrong_password_is_a_clear_error_without_the_secret(
    real_kafka: RealKafka, topic: str, mechanism: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    sasl = {"mechanism": mechanism, "username": USER, "password": Secret(WRONG)}
    message = await refused(
        over(real_kafka.sasl_plaintext_bootstrap, topic, "SASL_PLAINTEXT", sasl=sasl)
    )
    assert f"refuses the credentials of kafka.sasl (mechanism {mechanism})" in message
    assert "check username and password" in message
    assert WRONG not in message
    assert WRONG not in caplog.text


async def test_bearer_token_from_a_file(real_kafka: RealKafka, topic: str, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(unsecured_token())
    sasl = {"mechanism": "OAUTHBEARER", "token_file": str(token)}
    address = real_kafka.sasl_plaintext_bootstrap
    await reads(Member(over(address, topic, "SASL_PLAINTEXT", sasl=sasl)))


async def test_bearer_token_that_is_not_accepted_is_named_and_not_shown(
    real_kafka: RealKafka, topic: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    token = tmp_path / "token"
    token.write_text(unsecured_token(lifetime_s=-30))
    sasl = {"mechanism": "OAUTHBEARER", "token_file": str(token)}
    message = await refused(
        over(real_kafka.sasl_plaintext_bootstrap, topic, "SASL_PLAINTEXT", sasl=sasl)
    )
    assert "kafka.sasl" in message
    assert "OAUTHBEARER" in message
    assert token.read_text() not in message + caplog.text


async def test_password_file_is_read_again_at_each_connection(
    real_kafka: RealKafka, topic: str, tmp_path: Path
) -> None:
    secret = tmp_path / "password"
    secret.write_text(PASSWORD)
    sasl = {"mechanism": "SCRAM-SHA-256", "username": USER, "password_file": str(secret)}
    config = over(
        real_kafka.sasl_plaintext_bootstrap,
        topic,
        "SASL_PLAINTEXT",
        sasl=sasl,
        session_timeout_s=20.0,
    )
    member = Member(config)
    async with member.running():
        await eventually(lambda: len(member.records) == 3)
        client = member.source._member.consumer._client
        client._sasl_plain_password = WRONG  # as if the file had been changed since the start
        for connection in list(client._conns.values()):
            connection.close()
        await produce(real_kafka.bootstrap, topic, [b"4"])
        await eventually(lambda: len(member.records) == 4, timeout_s=30)
        assert client._sasl_plain_password == PASSWORD


async def test_file_that_is_missing_is_named_before_anything_is_tried(tmp_path: Path) -> None:
    sasl = {"mechanism": "PLAIN", "username": "u", "password_file": str(tmp_path / "none")}
    member = Member(over("127.0.0.1:1", "t", "SASL_PLAINTEXT", sasl=sasl))
    with pytest.raises(ConfigError, match=r"kafka\.sasl\.password_file is .*none.* cannot be read"):
        await member.source.start()

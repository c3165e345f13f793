"""Why the brokers cannot be used: aiokafka only says that it could not bootstrap.

A try is made again with aiokafka's own connection class, and what happens is put into words with the
option to look at. A message never holds a secret: no password, token or request is put into it.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiokafka.errors as kafka_errors
from aiokafka.conn import collect_hosts, create_conn
from aiokafka.protocol.metadata import MetadataRequest

from agent.config import Kafka

#: First bytes that a TLS server answers to plaintext: an alert record of TLS 1.0 to 1.3, read as a length.
_TLS_ALERTS = range(0x15030000, 0x15030500)


class Outlook(enum.Enum):
    """Whether waiting may help."""

    WAIT = "wait"  # nobody answers: the broker may come
    SUSPECT = "suspect"  # it answers, and hangs up: wrong settings, or a broker that is going down
    HOPELESS = "hopeless"  # it answers, and says that the settings are wrong


@dataclass(frozen=True, slots=True)
class Trouble:
    message: str
    outlook: Outlook


def silence_secrets() -> None:
    """Keep aiokafka from logging whole requests, SASL ones included, when the level is debug."""
    logger = logging.getLogger("aiokafka.conn")
    if logger.getEffectiveLevel() < logging.INFO:
        logger.setLevel(logging.INFO)


async def find_trouble(
    kafka: Kafka, security: Mapping[str, Any], *, timeout_s: float = 5.0
) -> Trouble | None:
    """Connect, authenticate and ask for metadata at each bootstrap server; None when one answers.

    With several servers the most telling trouble is returned.
    """
    worst: Trouble | None = None
    for host, port, _ in collect_hosts(list(kafka.bootstrap_servers), randomize=False):
        trouble = await _try(kafka, security, host, port, timeout_s)
        if trouble is None:
            return None
        order = list(Outlook)
        if worst is None or order.index(trouble.outlook) > order.index(worst.outlook):
            worst = trouble
    return worst


async def _try(
    kafka: Kafka, security: Mapping[str, Any], host: str, port: int, timeout_s: float
) -> Trouble | None:
    where = f"{host}:{port} (kafka.bootstrap_servers)"
    connected = False
    connection = None
    try:
        async with asyncio.timeout(timeout_s):
            connection = await create_conn(
                host,
                port,
                client_id=kafka.client_id,
                request_timeout_ms=int(timeout_s * 1000),
                **security,
            )
            connected = True
            answer = await connection.send(MetadataRequest([]))
        if not answer.brokers:
            return _no_brokers(kafka, where)
    except (OSError, kafka_errors.KafkaError, TimeoutError) as error:
        return explain(kafka, where, error, connected=connected)
    finally:
        if connection is not None:
            connection.close()
    return None


def _no_brokers(kafka: Kafka, where: str) -> Trouble:
    """An answer that names no broker: what a refused bearer token looks like. The broker's reason is
    sent where aiokafka expects success, and what follows is taken for the answer to metadata."""
    if kafka.sasl is not None and kafka.sasl.mechanism == "OAUTHBEARER":
        return Trouble(
            f"{where} does not accept the token of kafka.sasl.token_file (mechanism OAUTHBEARER); "
            "check who issued it and when it expires",
            Outlook.SUSPECT,
        )
    return Trouble(f"{where} knows of no brokers yet", Outlook.WAIT)


def explain(kafka: Kafka, where: str, error: BaseException, *, connected: bool) -> Trouble:
    """Put what a connection attempt raised into words. `connected`: the handshakes had succeeded."""
    protocol = kafka.security_protocol
    cause = error.__cause__
    match error:
        case ssl.SSLCertVerificationError():
            return Trouble(
                f"the certificate of {where} is not accepted: {error.verify_message}. "
                "Check kafka.tls.ca_file, and kafka.tls.check_hostname for another host name",
                Outlook.HOPELESS,
            )
        case ssl.SSLError():
            return Trouble(
                f"no TLS with {where} ({_reason(error)}); "
                f"kafka.security_protocol is {protocol}: use one that this listener speaks",
                Outlook.HOPELESS,
            )
        case socket.gaierror():
            return Trouble(
                f"the host name of {where} is not known ({error.strerror})", Outlook.WAIT
            )
        case ConnectionRefusedError():
            return Trouble(f"nothing listens at {where}", Outlook.WAIT)
        case kafka_errors.SaslAuthenticationFailed():
            return Trouble(
                f"{where} refuses the credentials of kafka.sasl (mechanism "
                f"{_mechanism(kafka)}); check username and password, or token",
                Outlook.HOPELESS,
            )
        case kafka_errors.UnsupportedSaslMechanismError():
            return Trouble(
                f"{where} does not offer kafka.sasl.mechanism {_mechanism(kafka)}; use one that it does",
                Outlook.HOPELESS,
            )
        case kafka_errors.IllegalSaslStateError():
            return Trouble(
                f"{where} wants no SASL; kafka.security_protocol is {protocol}: use "
                f"{'SSL' if protocol == 'SASL_SSL' else 'PLAINTEXT'}, or another listener",
                Outlook.HOPELESS,
            )
    if isinstance(cause, asyncio.IncompleteReadError) and cause.expected in _TLS_ALERTS:
        return Trouble(
            f"{where} speaks TLS; kafka.security_protocol is {protocol}: use "
            f"{'SASL_SSL' if protocol.startswith('SASL') else 'SSL'}",
            Outlook.HOPELESS,
        )
    if isinstance(cause, ssl.SSLError):
        return Trouble(
            f"{where} ended TLS ({_reason(cause)}); it may want a client "
            "certificate: set kafka.tls.cert_file and kafka.tls.key_file",
            Outlook.HOPELESS,
        )
    if isinstance(error, TimeoutError | kafka_errors.RequestTimedOutError):
        return Trouble(f"{where} does not answer in time", Outlook.WAIT)
    if connected and protocol.startswith("SASL"):
        return Trouble(
            f"{where} hangs up after authentication; check the credentials of kafka.sasl "
            f"(mechanism {_mechanism(kafka)})",
            Outlook.SUSPECT,
        )
    if connected:
        return Trouble(
            f"{where} hangs up when asked for metadata; it may want authentication: set "
            f"kafka.security_protocol (now {protocol}) and kafka.sasl",
            Outlook.SUSPECT,
        )
    if protocol in ("SSL", "SASL_SSL"):
        return Trouble(
            f"{where} hangs up in the TLS handshake; kafka.security_protocol is {protocol}: "
            "this listener may speak plaintext",
            Outlook.SUSPECT,
        )
    return Trouble(
        f"{where} hangs up at once; check that it is a Kafka listener and kafka.security_protocol "
        f"(now {protocol})",
        Outlook.SUSPECT,
    )


def _reason(error: ssl.SSLError) -> str:
    return getattr(error, "reason", None) or "no reason given"


def _mechanism(kafka: Kafka) -> str:
    return kafka.sasl.mechanism if kafka.sasl is not None else "none"

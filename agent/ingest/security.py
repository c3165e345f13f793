"""TLS contexts and SASL arguments for aiokafka, from the configuration. Errors name the option."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from pathlib import Path
from typing import Any

from aiokafka.abc import AbstractTokenProvider
from aiokafka.client import ConnectionGroup

from agent.config import Kafka, Sasl, Tls
from agent.errors import ConfigError
from agent.secret_file import secret_text


def tls_context(tls: Tls, where: str = "kafka.tls") -> ssl.SSLContext:
    """A client context that always verifies the server's chain; `where` names the options in errors.

    Raises ConfigError when a file cannot be read, is not PEM, or key and certificate do not match.
    """
    if tls.ca_file is None:
        context = ssl.create_default_context()
    else:
        _readable(tls.ca_file, f"{where}.ca_file")
        try:
            context = ssl.create_default_context(cafile=tls.ca_file)
        except (ssl.SSLError, OSError):
            raise ConfigError(
                f"{where}.ca_file is {tls.ca_file!r}; it holds no PEM certificate. "
                "Give the authority that signed the broker's certificate"
            ) from None
    context.check_hostname = tls.check_hostname
    if tls.key_file is not None and tls.cert_file is None:
        raise ConfigError(f"{where}.key_file is set without {where}.cert_file; set both")
    if tls.cert_file is not None:
        _readable(tls.cert_file, f"{where}.cert_file")
        if tls.key_file is not None:
            _readable(tls.key_file, f"{where}.key_file")
        password = tls.key_password.reveal() if tls.key_password else None
        try:
            # Without a callback OpenSSL would ask on the terminal for the password of a key.
            context.load_cert_chain(tls.cert_file, tls.key_file, lambda: password or "")
        except (ssl.SSLError, OSError, ValueError) as error:
            reason = getattr(error, "reason", None) or "unreadable"
            raise ConfigError(
                f"{where}.cert_file {tls.cert_file!r} and {where}.key_file {tls.key_file!r} cannot "
                f"be used together ({reason}); both must be PEM, belong to each other, and "
                f"{where}.key_password must open the key"
            ) from None
    return context


def password_of(sasl: Sasl, where: str = "kafka.sasl") -> str:
    """The password as it is now; a file is read at each call. Raises ConfigError, without the secret."""
    if sasl.password_file is not None:
        return _secret_file(sasl.password_file, f"{where}.password_file")
    if sasl.password is not None:
        return sasl.password.reveal()
    raise ConfigError(f"{where} needs one of password, password_file")


class FileTokenProvider(AbstractTokenProvider):  # type: ignore[misc]
    """A bearer token from a file that something else keeps fresh; read whenever a connection asks."""

    def __init__(self, path: str, where: str = "kafka.sasl.token_file") -> None:
        self._path = path
        self._where = where

    async def token(self) -> str:
        return await asyncio.to_thread(_secret_file, self._path, self._where)


def client_security(kafka: Kafka) -> dict[str, Any]:
    """The security arguments of aiokafka's clients. Raises ConfigError. Create it inside the loop."""
    arguments: dict[str, Any] = {"security_protocol": kafka.security_protocol}
    if kafka.security_protocol in ("SSL", "SASL_SSL"):
        arguments["ssl_context"] = tls_context(kafka.tls)
    sasl = kafka.sasl
    if sasl is None:
        return arguments
    arguments["sasl_mechanism"] = sasl.mechanism
    if sasl.mechanism == "OAUTHBEARER":
        if sasl.token_file is None:
            raise ConfigError("kafka.sasl.mechanism OAUTHBEARER needs kafka.sasl.token_file")
        _secret_file(sasl.token_file, "kafka.sasl.token_file")  # fail at start, not at connect
        arguments["sasl_oauth_token_provider"] = FileTokenProvider(sasl.token_file)
    else:
        arguments["sasl_plain_username"] = sasl.username
        arguments["sasl_plain_password"] = password_of(sasl)
    return arguments


def reread_password_at_connect(client: Any, sasl: Sasl | None) -> None:
    """Make an AIOKafkaClient read `password_file` again before each new connection, in place.

    A file that cannot be read leaves the last password: the connection then says what is wrong.
    """
    if sasl is None or sasl.password_file is None:
        return
    settings = sasl
    connect = client._get_conn

    async def fresh(node_id: Any, **options: Any) -> Any:
        open_one = client._conns.get((node_id, options.get("group", ConnectionGroup.DEFAULT)))
        if open_one is None or not open_one.connected():
            with contextlib.suppress(ConfigError):
                client._sasl_plain_password = await asyncio.to_thread(password_of, settings)
        return await connect(node_id, **options)

    client._get_conn = fresh


def _readable(path: str, option: str) -> None:
    try:
        with Path(path).open("rb"):
            pass
    except OSError as error:
        raise ConfigError(
            f"{option} is {path!r}; it cannot be read ({error.strerror}). Check path and permissions"
        ) from None


def _secret_file(path: str, option: str) -> str:
    return secret_text(path, option, keep_spaces=True)

"""TLS contexts and secrets from files: errors name the option and never show a secret."""

import ssl
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from msgspec.structs import replace

from agent.config import Kafka, Sasl, Secret, Tls
from agent.errors import ConfigError
from agent.ingest.security import (
    FileTokenProvider,
    client_security,
    password_of,
    reread_password_at_connect,
    tls_context,
)
from tests.support.certificates import Authority, KeyPair

PASSWORD = "not-shown-anywhere"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def pair(authority: Authority) -> KeyPair:
    return authority.issue("client")


def test_context_verifies_chain_and_host_name(authority: Authority) -> None:
    context = tls_context(Tls(ca_file=str(authority.path)))
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    relaxed = tls_context(Tls(ca_file=str(authority.path), check_hostname=False))
    assert relaxed.verify_mode is ssl.CERT_REQUIRED
    assert not relaxed.check_hostname


def test_client_certificate_is_loaded_with_and_without_a_password(
    authority: Authority, pair: KeyPair, tmp_path: Path
) -> None:
    files = {"cert_file": str(pair.certificate_path), "key_file": str(pair.key_path)}
    tls_context(Tls(ca_file=str(authority.path), **files))
    key = serialization.load_pem_private_key(pair.key_path.read_bytes(), None)
    locked = tmp_path / "locked.key"
    locked.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(PASSWORD.encode()),
        )
    )
    files["key_file"] = str(locked)
    tls_context(Tls(**files, key_password=Secret(PASSWORD)))
    for password in (None, Secret("wrong" + PASSWORD)):
        with pytest.raises(ConfigError, match=r"kafka\.tls\.key_password must open") as caught:
            tls_context(Tls(**files, key_password=password))
        assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize("option", ["ca_file", "cert_file", "key_file"])
def test_file_that_cannot_be_read_is_named(pair: KeyPair, option: str, tmp_path: Path) -> None:
    tls = Tls(cert_file=str(pair.certificate_path), key_file=str(pair.key_path))
    missing = str(tmp_path / "missing.pem")
    with pytest.raises(
        ConfigError, match=rf"kafka\.tls\.{option} is .*missing\.pem.* cannot be read"
    ):
        tls_context(replace(tls, **{option: missing}))


def test_files_that_do_not_fit_are_named(
    authority: Authority, pair: KeyPair, tmp_path: Path
) -> None:
    other = authority.issue("other")
    with pytest.raises(ConfigError, match=r"cannot be used together .KEY_VALUES_MISMATCH"):
        tls_context(Tls(cert_file=str(pair.certificate_path), key_file=str(other.key_path)))
    with pytest.raises(ConfigError, match=r"key_file is set without kafka\.tls\.cert_file"):
        tls_context(Tls(key_file=str(pair.key_path)))
    empty = tmp_path / "empty.pem"
    empty.write_text("no certificate here")
    with pytest.raises(ConfigError, match=r"otlp\.tls\.ca_file is .* holds no PEM certificate"):
        tls_context(Tls(ca_file=str(empty)), "otlp.tls")


def test_password_comes_from_the_file_as_it_is_now(tmp_path: Path) -> None:
    path = tmp_path / "password"
    sasl = Sasl(mechanism="PLAIN", username="u", password_file=str(path))
    for text, password in (("first\n", "first"), ("second\r\n", "second"), (" kept ", " kept ")):
        path.write_bytes(text.encode())
        assert password_of(sasl) == password
    inline = Sasl(mechanism="PLAIN", username="u", password=Secret(PASSWORD))
    assert password_of(inline) == PASSWORD


def test_secret_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    path = tmp_path / "password"
    sasl = Sasl(mechanism="PLAIN", username="u", password_file=str(path))
    with pytest.raises(ConfigError, match=r"kafka\.sasl\.password_file is .* cannot be read"):
        password_of(sasl)
    path.write_text("\n")
    with pytest.raises(ConfigError, match="the file is empty"):
        password_of(sasl)
    path.write_bytes(b"\xff\xfe" + PASSWORD.encode())
    with pytest.raises(ConfigError, match="not UTF-8") as caught:
        password_of(sasl)
    assert PASSWORD not in str(caught.value)


async def test_token_is_read_at_each_connection(tmp_path: Path) -> None:
    path = tmp_path / "token"
    provider = FileTokenProvider(str(path))
    for token in ("a.b.c", "d.e.f"):
        path.write_text(token + "\n")
        assert await provider.token() == token
    path.unlink()
    with pytest.raises(ConfigError, match=r"kafka\.sasl\.token_file"):
        await provider.token()


async def test_arguments_follow_the_protocol(authority: Authority, tmp_path: Path) -> None:
    assert client_security(Kafka()) == {"security_protocol": "PLAINTEXT"}
    tls = client_security(Kafka(security_protocol="SSL", tls=Tls(ca_file=str(authority.path))))
    assert isinstance(tls["ssl_context"], ssl.SSLContext)
    scram = Sasl(mechanism="SCRAM-SHA-512", username="u", password=Secret(PASSWORD))
    arguments = client_security(Kafka(security_protocol="SASL_SSL", sasl=scram))
    assert arguments["sasl_mechanism"] == "SCRAM-SHA-512"
    assert arguments["sasl_plain_username"] == "u"
    assert arguments["sasl_plain_password"] == PASSWORD
    assert "ssl_context" in arguments
    token = tmp_path / "token"
    token.write_text("t")
    bearer = Sasl(mechanism="OAUTHBEARER", token_file=str(token))
    arguments = client_security(Kafka(security_protocol="SASL_PLAINTEXT", sasl=bearer))
    assert await arguments["sasl_oauth_token_provider"].token() == "t"
    assert "sasl_plain_password" not in arguments


async def test_password_is_read_again_only_for_a_new_connection(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text("one")
    sasl = Sasl(mechanism="PLAIN", username="u", password_file=str(path))
    open_one = SimpleNamespace(connected=lambda: True)
    closed = SimpleNamespace(connected=lambda: False)

    async def get(node_id: int, **options: Any) -> str:
        return client._sasl_plain_password

    client: Any = SimpleNamespace(_conns={}, _get_conn=get, _sasl_plain_password="start")
    reread_password_at_connect(client, sasl)
    assert await client._get_conn(1, group=2) == "one"
    client._conns[(1, 2)] = open_one
    path.write_text("two")
    assert await client._get_conn(1, group=2) == "one"
    client._conns[(1, 2)] = closed
    assert await client._get_conn(1, group=2) == "two"
    path.unlink()
    assert await client._get_conn(1, group=2) == "two", "the last one, until the file is back"

"""Signatures of webhooks against the specification's own example and its rules; secrets from files."""

import base64
import hashlib
import hmac
from pathlib import Path

import pytest

from agent.errors import ConfigError
from agent.respond.signing import read_keys, signature

KEY = bytes(range(32))
SECRET = f"whsec_{base64.b64encode(KEY).decode()}"


def verified(header: str, event_id: str, timestamp: str, body: bytes, key: bytes) -> bool:
    """As a receiver does it, written from the specification."""
    signed = event_id.encode() + b"." + timestamp.encode() + b"." + body
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    return any(
        version == "v1" and hmac.compare_digest(value, expected)
        for version, _, value in (part.partition(",") for part in header.split(" "))
    )


def test_a_receiver_that_follows_the_specification_accepts_what_is_signed() -> None:
    header = signature("id-1", 1_674_087_231, b'{"a":1}', [KEY])
    assert verified(header, "id-1", "1674087231", b'{"a":1}', KEY)
    for changed in (("id-2", "1674087231", b'{"a":1}'), ("id-1", "1674087232", b'{"a":1}')):
        assert not verified(header, *changed, KEY)
    assert not verified(header, "id-1", "1674087231", b'{"a":2}', KEY)
    assert not verified(header, "id-1", "1674087231", b'{"a":1}', KEY[::-1])


def test_each_of_several_secrets_verifies_while_receivers_change_over(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text(f"{SECRET}\nan older secret of enough bytes\n\n")
    keys = read_keys(str(path), "option")
    assert keys == [KEY, b"an older secret of enough bytes"]
    header = signature("id", 1, b"body", keys)
    assert all(verified(header, "id", "1", b"body", key) for key in keys)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("short", "has 5 bytes, must have 24"),
        ("whsec_c2hvcnQ=", "has 5 bytes, must have 24"),
        ("whsec_!!", "not base64"),
        ("\n".join([SECRET] * 5), "holds 5 secrets"),
    ],
)
def test_a_secret_that_is_none_is_said_and_not_shown(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "secret"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words) as raised:
        read_keys(str(path), "respond.actions[0].webhook.secret_file")
    assert "respond.actions[0].webhook.secret_file" in str(raised.value)
    assert SECRET not in str(raised.value) and KEY.hex() not in str(raised.value)


def test_a_file_that_is_not_there_or_not_text_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read_keys(str(tmp_path / "none"), "option")
    path = tmp_path / "binary"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_keys(str(path), "option")

"""Signatures of webhooks, as the Standard Webhooks specification 1.0.0 has them (symmetric, `v1`).

    webhook-id         stays the same from try to try: the receiver's idempotency key
    webhook-timestamp  of the try, Unix seconds: a receiver refuses what is minutes old
    webhook-signature  `v1,` and base64 of HMAC-SHA256(key, "{id}.{timestamp}.{body}"), one for each key

Several keys, parted by spaces, let receivers change over without missing an event.

Source: github.com/standard-webhooks/standard-webhooks, spec/standard-webhooks.md.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence
from typing import Final

from agent.errors import ConfigError
from agent.secret_file import secret_text

PREFIX: Final = "whsec_"
#: The specification asks for 24 to 64 random bytes.
MIN_KEY_BYTES: Final = 24
MAX_KEYS: Final = 4


def read_keys(path: str, option: str) -> list[bytes]:
    """The keys in a file, a line each, the present one first. Raises ConfigError, without a secret."""
    lines = secret_text(path, option).splitlines()
    keys = [_key(line.strip(), path, option) for line in lines if line.strip()]
    if len(keys) > MAX_KEYS:
        raise ConfigError(
            f"{option} is {path!r}; it holds {len(keys)} secrets. Write {MAX_KEYS} at most, a line each"
        )
    return keys


def _key(text: str, path: str, option: str) -> bytes:
    key = text.encode()
    if text.startswith(PREFIX):
        try:
            key = base64.b64decode(text.removeprefix(PREFIX), validate=True)
        except binascii.Error:
            raise ConfigError(
                f"{option} is {path!r}; what follows whsec_ is not base64. Copy the secret whole"
            ) from None
    if len(key) < MIN_KEY_BYTES:
        raise ConfigError(
            f"{option} is {path!r}; a secret has {len(key)} bytes, must have {MIN_KEY_BYTES} or more. "
            "Make one with: echo whsec_$(openssl rand -base64 32)"
        )
    return key


def signature(event_id: str, timestamp_s: int, body: bytes, keys: Sequence[bytes]) -> str:
    """The value of `webhook-signature`. An id holds no full stop: it parts what is signed."""
    signed = f"{event_id}.{timestamp_s}.".encode() + body
    made = (hmac.new(key, signed, hashlib.sha256).digest() for key in keys)
    return " ".join(f"v1,{base64.b64encode(digest).decode()}" for digest in made)

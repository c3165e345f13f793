"""OTLP over HTTP with protobuf bodies, on aiohttp."""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import gzip
import math
import ssl
import time
from collections.abc import Callable
from typing import Final

import aiohttp

from agent.emit.environment import SignalSettings
from agent.emit.transport import (
    MAX_ANSWER_BYTES,
    USER_AGENT,
    Accepted,
    UncertainExportError,
    read_answer,
    read_headers,
    shown,
)
from agent.errors import PermanentExportError, TransientExportError

RETRYABLE: Final = frozenset({429, 502, 503, 504})
_REFUSED_CREDENTIALS: Final = frozenset({401, 403})
#: 502 and 504 come from something in between, which may have passed the request on.
_TAKEN_PERHAPS: Final = frozenset({502, 504})
_CONTENT_TYPE = "application/x-protobuf"
#: Larger bodies are compressed in a thread: zlib takes about 6 ms for a megabyte, without the GIL.
_INLINE_BYTES = 32 << 10
#: Of zlib: on metrics a fifth of level 6's time, for 15% more bytes.
_LEVEL = 1


class HttpClient:
    """A session with one receiver. One send at a time."""

    def __init__(
        self, settings: SignalSettings, *, wall_clock: Callable[[], float] = time.time
    ) -> None:
        self.settings = settings
        self._wall_clock = wall_clock
        self._session: aiohttp.ClientSession | None = None
        self._headers: tuple[tuple[str, str], ...] = ()
        self._compressed: tuple[bytes, bytes] | None = None  # of the last body, for its retries

    async def send(self, body: bytes) -> Accepted:
        """Send one request; see the contract in `transport`."""
        payload = await self._payload(body)
        status, answer, wait_s = await self._post(payload)
        if status in _REFUSED_CREDENTIALS:
            headers = self._headers
            await self._disconnect()
            self._connect()
            if self._headers != headers:
                status, answer, wait_s = await self._post(payload)
        if status == 200:
            self._compressed = None
            return read_answer(self.settings, answer, self._headers)
        text = shown(_text_of(answer), self._headers)
        message = f"{self.settings.place} answered {status} to {self.settings.signal}: {text}"
        if status not in RETRYABLE:
            self._compressed = None
            raise PermanentExportError(message)
        kind = UncertainExportError if status in _TAKEN_PERHAPS else TransientExportError
        raise kind(message, wait_s)

    async def close(self) -> None:
        self._compressed = None
        await self._disconnect()

    async def _disconnect(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _payload(self, body: bytes) -> bytes:
        if self.settings.compression == "none":
            return body
        if self._compressed is None or self._compressed[0] is not body:
            if len(body) <= _INLINE_BYTES:
                packed = gzip.compress(body, _LEVEL, mtime=0)
            else:
                packed = await asyncio.to_thread(gzip.compress, body, _LEVEL, mtime=0)
            self._compressed = (body, packed)
        return self._compressed[1]

    async def _post(self, payload: bytes) -> tuple[int, bytes, float | None]:
        if self._session is None:
            self._connect()
        assert self._session is not None
        headers = {"user-agent": USER_AGENT, **dict(self._headers), "content-type": _CONTENT_TYPE}
        if self.settings.compression == "gzip":
            headers["content-encoding"] = "gzip"
        place = self.settings.place
        try:
            async with self._session.post(
                self.settings.endpoint, data=payload, headers=headers, allow_redirects=False
            ) as response:
                answer = await _read(response.content)
                return (
                    response.status,
                    answer,
                    self._retry_after_s(response.headers.get("Retry-After", "")),
                )
        except TimeoutError:
            raise UncertainExportError(
                f"{place} did not answer {self.settings.signal} within {self.settings.timeout_s} s"
            ) from None
        except aiohttp.ClientConnectorError as error:
            raise TransientExportError(
                f"{place} cannot be reached for {self.settings.signal}: {_cause(error)}"
            ) from None
        except (aiohttp.ClientError, OSError) as error:
            await self._disconnect()
            raise UncertainExportError(
                f"{place} broke off {self.settings.signal}: {_cause(error)}"
            ) from None

    def _connect(self) -> None:
        settings = self.settings
        self._headers = read_headers(settings)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=1, ssl=_context(settings)),
            timeout=aiohttp.ClientTimeout(total=settings.timeout_s),
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    def _retry_after_s(self, given: str) -> float | None:
        """Seconds of a Retry-After header, given as seconds or as a date."""
        given = given.strip()
        if not given:
            return None
        with contextlib.suppress(ValueError):
            seconds = float(given)
            return min(max(0.0, seconds), 86_400.0) if math.isfinite(seconds) else None
        try:
            at = email.utils.parsedate_to_datetime(given)
        except ValueError:
            return None
        return min(max(0.0, at.timestamp() - self._wall_clock()), 86_400.0)


def _context(settings: SignalSettings) -> ssl.SSLContext | bool:
    if not settings.secure:
        return True
    tls = settings.tls
    try:
        context = ssl.create_default_context(cafile=tls.ca_file)
        context.check_hostname = tls.check_hostname
        if tls.cert_file is not None:
            password = None if tls.key_password is None else tls.key_password.reveal()
            # Without a password OpenSSL would ask on the terminal.
            context.load_cert_chain(tls.cert_file, tls.key_file, password=password or "")
    except OSError as error:  # SSLError included
        raise TransientExportError(
            f"export.otlp.tls: a certificate or key cannot be loaded ({error.strerror or error}); correct it"
        ) from None
    return context


async def _read(stream: aiohttp.StreamReader) -> bytes:
    """At most MAX_ANSWER_BYTES of an answer; what is longer is cut."""
    parts: list[bytes] = []
    left = MAX_ANSWER_BYTES
    while left > 0 and (part := await stream.read(left)):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def _text_of(answer: bytes) -> str:
    """Readable part of an error's body: a serialised `google.rpc.Status` or plain text."""
    return answer[:1000].decode("utf-8", "replace").replace("�", " ")


def _cause(error: BaseException) -> str:
    """What went wrong, without URL: the system's words when there are some."""
    inner = getattr(error, "os_error", None) or error
    return getattr(inner, "strerror", None) or type(inner).__name__

"""A POST to somebody who acts: what it may answer, and what nobody gets to see.

    2xx                           taken
    410                           wants nothing any more: GoneError
    400 405 413 415 422 501, 3xx  these bytes will always be refused: PermanentExportError
    all else, and no answer       may be taken later: TransientExportError, with Retry-After's seconds

No message holds a header's value, or of a URL more than scheme, host and port: paths may be secrets.
Files of headers and certificates are read when a connection is made, and again after a refusal (401,
403), so that a rotated token needs no restart.
"""

from __future__ import annotations

import contextlib
import email.utils
import math
import time
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

import aiohttp

from agent.config import Secret, Tls
from agent.emit.environment import header_pairs
from agent.emit.transport import USER_AGENT, shown
from agent.errors import ConfigError, PermanentExportError, TransientExportError
from agent.ingest.security import tls_context
from agent.secret_file import secret_text

_REFUSED: Final = frozenset({400, 405, 413, 415, 422, 501})
_MAX_ANSWER_BYTES: Final = 4 << 10
_MAX_WAIT_S: Final = 3600.0


class GoneError(PermanentExportError):
    """The receiver wants nothing any more, ever."""


class Poster:
    """A session with one receiver. `option` is where it is configured, for messages."""

    def __init__(
        self,
        option: str,
        *,
        headers: Mapping[str, Secret] | None,
        headers_file: str | None,
        tls: Tls,
        timeout_s: float,
    ) -> None:
        self._option = option
        self._given = header_pairs(
            {name: secret.reveal() for name, secret in (headers or {}).items()},
            f"{option}.headers",
        )
        self._headers_file = headers_file
        self._tls = tls
        self._timeout_s = timeout_s
        self._headers: tuple[tuple[str, str], ...] = ()
        self._session: aiohttp.ClientSession | None = None

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> None:
        """Raises TransientExportError, PermanentExportError (GoneError), as the module says."""
        place = place_of(url)
        try:
            session = self._session or self._connect(url)
        except ConfigError as error:  # a file that is being replaced may be whole again
            raise TransientExportError(str(error)) from None
        sent = {"user-agent": USER_AGENT, **dict(self._headers), **headers}
        try:
            async with session.post(url, data=body, headers=sent, allow_redirects=False) as answer:
                text = await answer.content.read(_MAX_ANSWER_BYTES)
                status, wait = answer.status, answer.headers.get("Retry-After", "")
        except TimeoutError:
            raise TransientExportError(f"{place} did not answer in {self._timeout_s:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            await self.close()
            raise TransientExportError(f"{place} cannot be reached: {_cause(error)}") from None
        if 200 <= status < 300:
            return
        said = shown(text.decode("utf-8", "replace"), (*self._headers, *_secret_parts(url)))
        message = f"{place} answered {status}: {said}" if said else f"{place} answered {status}"
        if status in (401, 403):
            await self.close()
        if status == 410:
            raise GoneError(message)
        if status in _REFUSED or 300 <= status < 400:
            raise PermanentExportError(message)
        raise TransientExportError(message, _seconds(wait))

    async def close(self) -> None:
        """End connections; a later post opens new ones."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _connect(self, url: str) -> aiohttp.ClientSession:
        self._headers = tuple((name, secret.reveal()) for name, secret in self._given)
        if self._headers_file is not None:
            self._headers += tuple(_read_headers(self._headers_file, self._option).items())
        is_secure = urlsplit(url).scheme.lower() == "https"
        context = tls_context(self._tls, f"{self._option}.tls") if is_secure else True
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=2, ssl=context),
            timeout=aiohttp.ClientTimeout(total=self._timeout_s),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self._session


def place_of(url: str) -> str:
    """Scheme, host and port of a URL: all of it that may be shown."""
    with contextlib.suppress(ValueError):
        parts = urlsplit(url)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        return f"{parts.scheme}://{host}{f':{parts.port}' if parts.port else ''}"
    return "a URL that cannot be read"


def _secret_parts(url: str) -> list[tuple[str, str]]:
    """What is behind a URL's host, to be hidden like values of headers: servers like to say it again."""
    parts = urlsplit(url)
    found = [parts.path.strip("/"), parts.query, *parts.path.split("/")]
    return [("", part) for part in sorted(found, key=len, reverse=True)]


def _read_headers(path: str, option: str) -> dict[str, str]:
    """`name: value` lines, `#` comments. Raises ConfigError."""
    pairs: dict[str, str] = {}
    for line in secret_text(path, f"{option}.headers_file").splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            name, _, value = line.partition(":")
            pairs[name.strip()] = value.strip()
    checked = header_pairs(pairs, f"{option}.headers_file {path}")
    return {name: secret.reveal() for name, secret in checked}


def _seconds(given: str) -> float | None:
    """Of a Retry-After header, as seconds or as a date; at most an hour."""
    given = given.strip()
    if not given:
        return None
    with contextlib.suppress(ValueError):
        seconds = float(given)
        return min(max(0.0, seconds), _MAX_WAIT_S) if math.isfinite(seconds) else None
    try:
        at = email.utils.parsedate_to_datetime(given)
    except ValueError:
        return None
    return min(max(0.0, at.timestamp() - time.time()), _MAX_WAIT_S)


def _cause(error: BaseException) -> str:
    """What went wrong, without the URL: the system's words when there are some."""
    inner = getattr(error, "os_error", None) or error
    return getattr(inner, "strerror", None) or type(inner).__name__

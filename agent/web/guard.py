"""What stands between the network and the pages: limits of connections, a bearer token, TLS.

Invariants
 1. A connection ends when its client has not sent a whole request, or not taken its answer, in time. Bytes
    that trickle in do not put the end off.
 2. What a connection keeps is bounded: MAX_REQUEST_BYTES that no answer has followed yet.
 3. With a token set, every page but `/livez` and `/readyz` asks for it, and takes as long to refuse a wrong
    one as to accept the right one.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import logging
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, cast

from aiohttp import web

from agent.config import ServerTls
from agent.errors import ConfigError

log = logging.getLogger(__name__)

#: Requests are a line and a few headers: a browser's with its largest cookies fits.
MAX_REQUEST_BYTES: Final = 64 << 10
#: Of one header, and of the first line.
MAX_FIELD_BYTES: Final = 8190
OPEN_PAGES: Final = frozenset(("/livez", "/readyz"))

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_Factory = Callable[[], asyncio.Protocol]


class Limits:
    """Makes the protocol of each connection; `answer_s` is what making a page may take."""

    def __init__(self, max_connections: int, client_s: float, answer_s: float) -> None:
        self.max_connections = max_connections
        self.client_s = client_s
        self.answer_s = answer_s
        self.open: dict[asyncio.BaseTransport, _Connection] = {}

    def around(self, factory: _Factory) -> _Factory:
        """A factory of connections that are limited."""
        return lambda: _Connection(self, factory())

    @web.middleware
    async def middleware(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Tell the connection when its request is whole, and when its answer is made."""
        connection = self.open.get(cast(asyncio.BaseTransport, request.transport))
        if connection is None:
            return await handler(request)
        connection.expect(self.answer_s + self.client_s)
        try:
            if request.body_exists:  # no page takes one
                raise web.HTTPRequestEntityTooLarge(max_size=0, actual_size=1)
            return await handler(request)
        finally:
            connection.n_bytes = 0
            connection.expect(self.client_s)


class _Connection(asyncio.Protocol):
    """Passes everything on to the server's own protocol, within the limits."""

    def __init__(self, limits: Limits, inner: asyncio.Protocol) -> None:
        self.n_bytes = 0
        self._limits = limits
        self._inner = inner
        self._transport: asyncio.Transport | None = None
        self._end: asyncio.TimerHandle | None = None

    def expect(self, within_s: float) -> None:
        """The next step of the client, or the connection ends."""
        if self._end is not None:
            self._end.cancel()
        transport = self._transport
        if transport is not None:
            self._end = asyncio.get_running_loop().call_later(within_s, transport.abort)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)  # uvloop's is one, but is no subclass
        if len(self._limits.open) >= self._limits.max_connections:
            transport.abort()
            return
        self._transport = transport
        self._limits.open[transport] = self
        self._inner.connection_made(transport)
        self.expect(self._limits.client_s)

    def data_received(self, data: bytes) -> None:
        if self._transport is None:
            return
        self.n_bytes += len(data)
        if self.n_bytes > MAX_REQUEST_BYTES:
            self._transport.abort()
            return
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received() if self._transport is not None else None

    def pause_writing(self) -> None:
        if self._transport is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        if self._transport is not None:
            self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._end is not None:
            self._end.cancel()
        transport, self._transport = self._transport, None
        if transport is not None:
            del self._limits.open[transport]
            self._inner.connection_lost(exc)


class Token:
    """The bearer token of a file. Raises ConfigError when it cannot be read at start.

    The file is read again when it changes; one that cannot be read then leaves the last token in force.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._seen: tuple[int, int, int] | None = None
        self._digest = b""
        try:
            self._refresh()
        except OSError as error:
            raise ConfigError(
                f"web.token_file is {path!r}; it cannot be read ({error.strerror}). Check path and permissions"
            ) from None
        if not self._digest:
            raise ConfigError(
                f"web.token_file is {path!r}; it must hold a token of printable ASCII. Write one into it"
            )

    @web.middleware
    async def middleware(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """401 unless the page is open or the request carries the token."""
        if request.path not in OPEN_PAGES and not await asyncio.to_thread(
            self.is_right, request.headers.get("Authorization", "")
        ):
            raise web.HTTPUnauthorized(
                text="this page asks for the bearer token of web.token_file\n",
                headers={"WWW-Authenticate": 'Bearer realm="inferometer"'},
            )
        return await handler(request)

    def is_right(self, authorization: str) -> bool:
        """Compared by digests, in constant time: neither content nor length can be measured."""
        with contextlib.suppress(OSError):
            self._refresh()
        scheme, _, given = authorization.partition(" ")
        digest = _digest(given.strip())
        return hmac.compare_digest(digest, self._digest) and scheme.lower() == "bearer"

    def _refresh(self) -> None:
        stat = self._path.stat()
        seen = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        if seen == self._seen:
            return
        text = self._path.read_bytes().decode("ascii", "replace").strip()
        if text and text.isascii() and text.isprintable():
            self._digest = _digest(text)
        self._seen = seen


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def server_context(tls: ServerTls) -> ssl.SSLContext:
    """TLS 1.2 or newer; with `client_ca_file` every client must show a certificate. Raises ConfigError."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    password = tls.key_password.reveal() if tls.key_password else ""
    try:
        # Without a callback OpenSSL would ask on the terminal for the password of a key.
        context.load_cert_chain(tls.cert_file, tls.key_file, lambda: password)
    except (OSError, ValueError) as error:  # SSLError included
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or "unreadable"
        raise ConfigError(
            f"web.tls.cert_file {tls.cert_file!r} and web.tls.key_file {tls.key_file!r} cannot be used "
            f"together ({reason}); both must be PEM, belong to each other, and web.tls.key_password "
            "must open the key"
        ) from None
    if tls.client_ca_file is not None:
        try:
            context.load_verify_locations(cafile=tls.client_ca_file)
        except OSError as error:
            reason = error.strerror or "no PEM certificate"
            raise ConfigError(
                f"web.tls.client_ca_file is {tls.client_ca_file!r}; it cannot be used ({reason}). "
                "Give the authority that signs the clients' certificates"
            ) from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context

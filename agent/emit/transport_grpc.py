"""OTLP over gRPC: raw bytes in and out, no generated stubs.

gRPC compresses at zlib's level 6, 45 ms a megabyte, and has no other. So messages are compressed here, at
level 1 (6 ms, for 15 % more bytes), in a thread, and gRPC is told so (`grpc_packed`). Where it does not let
itself be told, or a receiver refuses the first such message, gRPC compresses: while the call is
started, which is on another thread, too. Calls answer through a callback; `grpc.aio` would do all of it
on the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any, Final

import grpc

from agent.emit.environment import SignalSettings
from agent.emit.grpc_packed import pack, packed_method
from agent.emit.transport import (
    USER_AGENT,
    Accepted,
    UncertainExportError,
    read_answer,
    read_headers,
    shown,
)
from agent.emit.wire import fields
from agent.errors import PermanentExportError, TransientExportError

METHODS: Final = {
    "metrics": "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
    "traces": "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
    "logs": "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
}

_Code = grpc.StatusCode
#: RESOURCE_EXHAUSTED is retried only with a RetryInfo: without one it means "too large for me".
RETRYABLE: Final = frozenset(
    {
        _Code.CANCELLED,
        _Code.DEADLINE_EXCEEDED,
        _Code.ABORTED,
        _Code.OUT_OF_RANGE,
        _Code.UNAVAILABLE,
        _Code.DATA_LOSS,
    }
)
_REFUSED_CREDENTIALS: Final = frozenset({_Code.UNAUTHENTICATED, _Code.PERMISSION_DENIED})
#: What gRPC's own layers answer to a message that it cannot unpack or read.
_NOT_UNDERSTOOD: Final = frozenset({_Code.INTERNAL, _Code.UNIMPLEMENTED})
_NO_CONNECTION: Final = (
    "failed to connect",
    "dns resolution failed",
    "handshake failed",
    "name resolution",
)
_STATUS_DETAILS = "grpc-status-details-bin"
#: Smaller requests are started on the loop: compressing them takes less than a millisecond.
_INLINE_BYTES = 16 << 10
_RETRY_INFO = "google.rpc.RetryInfo"


class GrpcClient:
    """A channel to one receiver. One send at a time."""

    def __init__(self, settings: SignalSettings) -> None:
        self.settings = settings
        self._channel: grpc.Channel | None = None
        self._call: Any = None
        self._headers: tuple[tuple[str, str], ...] = ()
        self._packs = settings.compression == "gzip"
        self._packs_proven = False  # a receiver has taken a message that was compressed here
        self._packed: tuple[bytes, bytes] | None = (
            None  # the last body and its message, for retries
        )

    async def send(self, body: bytes) -> Accepted:
        """Send one request; see the contract in `transport`."""
        try:
            return await self._try(body)
        except _RefusedCredentials as refused:
            headers = self._headers
            await self.close()
            self._connect()
            if self._headers == headers:
                raise PermanentExportError(str(refused)) from None
        try:
            return await self._try(body)
        except _RefusedCredentials as refused:
            raise PermanentExportError(str(refused)) from None

    async def close(self) -> None:
        self._packed = None
        channel, self._channel, self._call = self._channel, None, None
        if channel is not None:
            channel.close()

    async def _try(self, body: bytes) -> Accepted:
        if self._call is None:
            self._connect()
        packed = self._packs
        call = await self._called(await self._message(body), inline=len(body) <= _INLINE_BYTES)
        if call.code() is not _Code.OK:
            if packed and not self._packs_proven and call.code() in _NOT_UNDERSTOOD:
                self._packs = False
                await self.close()
                return await self._try(body)
            error = self._meaning(call)
            if isinstance(error, PermanentExportError):
                self._packed = None
            raise error
        self._packs_proven = self._packs_proven or packed
        self._packed = None
        return read_answer(self.settings, call.result(), self._headers)

    async def _message(self, body: bytes) -> bytes:
        if not self._packs:
            return body
        if self._packed is None or self._packed[0] is not body:
            if len(body) <= _INLINE_BYTES:
                message = pack(body)
            else:
                message = await asyncio.get_running_loop().run_in_executor(None, pack, body)
            self._packed = (body, message)
        return self._packed[1]

    async def _called(self, message: bytes, *, inline: bool) -> Any:
        """The call, done. Cancelling this cancels the call."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Any] = loop.create_future()

        def settle(call: Any) -> None:
            if not done.done():
                done.set_result(call)

        def answered(call: Any) -> None:
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(settle, call)

        def start(method: Any, headers: Any) -> Any:
            call = method.future(message, timeout=self.settings.timeout_s, metadata=headers)
            call.add_done_callback(answered)
            return call

        if inline:
            call = start(self._call, self._headers)
        else:
            starting = loop.run_in_executor(None, start, self._call, self._headers)
            try:
                call = await asyncio.shield(starting)
            except asyncio.CancelledError:
                starting.add_done_callback(_cancel_started)
                raise
        try:
            return await done
        except asyncio.CancelledError:
            call.cancel()
            raise

    def _connect(self) -> None:
        settings = self.settings
        self._headers = read_headers(settings)
        compression = (
            grpc.Compression.Gzip
            if settings.compression == "gzip"
            else grpc.Compression.NoCompression
        )
        options = [
            ("grpc.primary_user_agent", USER_AGENT),
            ("grpc.max_send_message_length", -1),
            ("grpc.enable_retries", 0),  # retries are the exporter's, so that they are counted
            ("grpc.enable_http_proxy", 0),  # it would read the process environment
            ("grpc.use_local_subchannel_pool", 1),  # signals do not share a backoff
            ("grpc.initial_reconnect_backoff_ms", 200),
            ("grpc.min_reconnect_backoff_ms", 200),
            ("grpc.max_reconnect_backoff_ms", 5000),
            ("grpc.keepalive_time_ms", 60_000),
            ("grpc.keepalive_timeout_ms", 10_000),
        ]
        if settings.secure:
            self._channel = grpc.secure_channel(
                settings.endpoint, self._credentials(), options=options, compression=compression
            )
        else:
            self._channel = grpc.insecure_channel(
                settings.endpoint, options=options, compression=compression
            )
        self._call = self._channel.unary_unary(METHODS[settings.signal])
        if self._packs:
            method = packed_method(self._call)
            self._packs = method is not None
            self._call = method or self._call

    def _credentials(self) -> grpc.ChannelCredentials:
        tls = self.settings.tls
        try:
            ca, key, chain = (
                None if path is None else Path(path).read_bytes()
                for path in (tls.ca_file, tls.key_file, tls.cert_file)
            )
        except OSError as error:
            raise TransientExportError(
                f"export.otlp.tls: {error.filename} cannot be read ({type(error).__name__}); correct it"
            ) from None
        return grpc.ssl_channel_credentials(ca, key, chain)

    def _meaning(self, error: Any) -> Exception:
        code = error.code()
        text = shown(error.details() or "", self._headers)
        message = f"{self.settings.place} answered {code.name} to {self.settings.signal}: {text}"
        retry_after_s = retry_delay_s(dict(error.trailing_metadata() or ()).get(_STATUS_DETAILS))
        if code in _REFUSED_CREDENTIALS:
            return _RefusedCredentials(message)
        if code is _Code.RESOURCE_EXHAUSTED and retry_after_s is not None:
            return TransientExportError(message, retry_after_s)
        if code not in RETRYABLE:
            return PermanentExportError(message)
        refused_for_sure = retry_after_s is not None or (
            code is _Code.UNAVAILABLE and any(part in text.lower() for part in _NO_CONNECTION)
        )
        kind = TransientExportError if refused_for_sure else UncertainExportError
        return kind(message, retry_after_s)


def _cancel_started(starting: asyncio.Future[Any]) -> None:
    """The caller was cancelled while the call was being started: nobody waits for its answer."""
    if not starting.cancelled() and starting.exception() is None:
        starting.result().cancel()


class _RefusedCredentials(Exception):
    """UNAUTHENTICATED or PERMISSION_DENIED: worth one more try when the headers have changed."""


def retry_delay_s(details: object) -> float | None:
    """Seconds in the RetryInfo of a serialised `google.rpc.Status`; None when there is none.

    Status {3: repeated Any {1: type_url, 2: value}}, RetryInfo {1: Duration {1: seconds, 2: nanos}}.
    Read by hand: `googleapis-common-protos` would be a dependency for two messages.
    """
    if not isinstance(details, bytes):
        return None
    try:
        for number, detail in fields(details):
            if number != 3 or not isinstance(detail, bytes):
                continue
            parts = dict(fields(detail))
            url, value = parts.get(1), parts.get(2)
            if isinstance(url, bytes) and url.decode().endswith(_RETRY_INFO):
                delay = dict(fields(value)).get(1, b"") if isinstance(value, bytes) else b""
                numbers = dict(fields(delay)) if isinstance(delay, bytes) else {}
                seconds, nanos = numbers.get(1, 0), numbers.get(2, 0)
                if isinstance(seconds, int) and isinstance(nanos, int) and seconds < 1 << 32:
                    return seconds + nanos / 1e9
    except (ValueError, UnicodeDecodeError):
        pass
    return None

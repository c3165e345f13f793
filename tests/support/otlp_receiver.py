"""An OTLP receiver inside the test process: gRPC and HTTP/protobuf, on ports of its own.

It decodes and keeps every request, and answers as the test says: accept, transient or permanent
refusal, partial success, silence. It runs in threads of its own, so a test may block, start the
program as a child process, or run the agent on its own event loop.

Sizes as in the OpenTelemetry Collector: 4 MiB a message over gRPC (decompressed), 20 MiB over HTTP.
"""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import grpc
from google.protobuf.message import DecodeError
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.support.certificates import KeyPair
from tests.support.otlp_answers import (
    ACCEPT,
    SIGNALS,
    SILENCE,
    Answer,
    Signal,
    encoded_response,
    encoded_status,
    overloaded,
    partial,
    permanent,
    transient,
)
from tests.support.otlp_http import OtlpHttpServer
from tests.support.otlp_points import Point, Points, read_points

__all__ = [
    "ACCEPT",
    "MAX_GRPC_BYTES",
    "MAX_HTTP_BYTES",
    "SILENCE",
    "Answer",
    "OtlpReceiver",
    "Received",
    "black_hole",
    "overloaded",
    "partial",
    "permanent",
    "transient",
]

MAX_GRPC_BYTES = 4 * 1024 * 1024
MAX_HTTP_BYTES = 20 * 1024 * 1024


@dataclass(frozen=True)
class Received:
    """One request as it came. `headers` are lower case; gRPC metadata or HTTP headers."""

    signal: str  # metrics, traces or logs
    transport: str  # grpc or http
    headers: dict[str, str]
    message: Any
    size_bytes: int  # decompressed
    answer: Answer
    at_s: float  # time.monotonic()


Behaviour = Callable[[Received], Answer]


@dataclass
class OtlpReceiver:
    """Start with `start` or `with`; `stop` and `start` again keep the ports (a collector away).

    `tls` makes both ports speak TLS; `client_ca_pem` then asks for a client certificate.
    """

    tls: KeyPair | None = None
    client_ca_pem: str | None = None
    max_grpc_bytes: int = MAX_GRPC_BYTES
    max_http_bytes: int = MAX_HTTP_BYTES
    requests: list[Received] = field(default_factory=list)
    malformed: list[str] = field(default_factory=list)
    grpc_port: int = 0
    http_port: int = 0

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._behaviour: Behaviour = lambda received: ACCEPT
        self._closing = threading.Event()
        self._grpc: grpc.Server | None = None
        self._http: OtlpHttpServer | None = None
        self._pool: ThreadPoolExecutor | None = None

    # What it says

    @property
    def grpc_endpoint(self) -> str:
        """As `OTEL_EXPORTER_OTLP_ENDPOINT` has it for gRPC: scheme, address, port."""
        return f"{self._scheme}://127.0.0.1:{self.grpc_port}"

    @property
    def http_endpoint(self) -> str:
        """As `OTEL_EXPORTER_OTLP_ENDPOINT` has it for HTTP: without the path of a signal."""
        return f"{self._scheme}://127.0.0.1:{self.http_port}"

    @property
    def _scheme(self) -> str:
        return "http" if self.tls is None else "https"

    def always(self, answer: Answer) -> None:
        self.behave(lambda received: answer)

    def first(self, *answers: Answer, then: Answer = ACCEPT) -> None:
        """Give these answers, one each, to the next requests; afterwards `then`."""
        self._follow(iter(answers), then)

    def flapping(self, *cycle: Answer) -> None:
        """Give these answers in turn, for ever."""

        def turns() -> Iterator[Answer]:
            while True:
                yield from cycle

        self._follow(turns(), ACCEPT)

    def behave(self, behaviour: Behaviour) -> None:
        """Decide by the request; called under a lock, in the order of arrival."""
        with self._lock:
            self._behaviour = behaviour

    def _follow(self, answers: Iterator[Answer], then: Answer) -> None:
        self.behave(lambda received: next(answers, then))

    # What it heard

    @property
    def accepted(self) -> list[Received]:
        with self._lock:
            return [request for request in self.requests if request.answer.accepts]

    def clear(self) -> None:
        with self._lock:
            self.requests.clear()

    def points(self, name: str | None = None, **attributes: Any) -> Points:
        """Every accepted data point; with a name, of that metric (see `Points.named`)."""
        everything = Points(
            point
            for request in self.accepted
            if request.signal == "metrics"
            for point in read_points(request.message)
        )
        return everything if name is None else everything.named(name, **attributes)

    def sums(self, name: str | None = None, **attributes: Any) -> Points:
        return self.points(name, **attributes).sums()

    def gauges(self, name: str | None = None, **attributes: Any) -> Points:
        return self.points(name, **attributes).gauges()

    def exponential_histograms(self, name: str | None = None, **attributes: Any) -> Points:
        return self.points(name, **attributes).exponential_histograms()

    def latest(self, name: str, **attributes: Any) -> Point:
        """The newest point of the one series with this name and these attributes."""
        return self.points(name, **attributes).only()

    def spans(self, name: str | None = None) -> list[Span]:
        return [
            span
            for request in self.accepted
            if request.signal == "traces"
            for of_resource in request.message.resource_spans
            for of_scope in of_resource.scope_spans
            for span in of_scope.spans
            if name is None or span.name == name
        ]

    def log_records(self) -> list[LogRecord]:
        return [
            record
            for request in self.accepted
            if request.signal == "logs"
            for of_resource in request.message.resource_logs
            for of_scope in of_resource.scope_logs
            for record in of_scope.log_records
        ]

    # Running

    def start(self) -> Self:
        self._closing.clear()
        self._start_grpc()
        self._start_http()
        return self

    def stop(self) -> None:
        """Close both ports and every connection at once; unanswered requests are cut off."""
        self._closing.set()
        if self._grpc is not None:
            self._grpc.stop(None).wait(10)
            self._grpc = None
        if self._http is not None:
            self._http.shutdown()
            self._http.server_close()
            self._http = None
        if self._pool is not None:
            self._pool.shutdown(wait=True)
            self._pool = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _start_grpc(self) -> None:
        self._pool = ThreadPoolExecutor(16, thread_name_prefix="otlp-receiver")
        options = [
            ("grpc.max_receive_message_length", self.max_grpc_bytes),
            ("grpc.so_reuseport", 0),
        ]
        server = grpc.server(self._pool, options=options)
        methods = {s.grpc_method: self._grpc_method(s) for s in SIGNALS}
        server.add_generic_rpc_handlers((_Methods(methods),))
        address = f"127.0.0.1:{self.grpc_port}"
        if self.tls is None:
            self.grpc_port = server.add_insecure_port(address)
        else:
            ca = None if self.client_ca_pem is None else self.client_ca_pem.encode()
            pair = (self.tls.key_pem.encode(), self.tls.certificate_pem.encode())
            credentials = grpc.ssl_server_credentials([pair], ca, ca is not None)
            self.grpc_port = server.add_secure_port(address, credentials)
        server.start()
        self._grpc = server

    def _start_http(self) -> None:
        context = None
        if self.tls is not None:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(self.tls.certificate_path, self.tls.key_path)
            if self.client_ca_pem is not None:
                context.load_verify_locations(cadata=self.client_ca_pem)
                context.verify_mode = ssl.CERT_REQUIRED
        server = OtlpHttpServer(
            self.http_port,
            decide=lambda signal, headers, body: self._decide(signal, "http", headers, body),
            hold=self._hold,
            max_bytes=self.max_http_bytes,
            tls=context,
        )
        self.http_port = server.port
        threading.Thread(
            target=server.serve_forever, args=(0.05,), name="otlp-receiver-http", daemon=True
        ).start()
        self._http = server

    def _decide(
        self, signal: Signal, transport: str, headers: dict[str, str], body: bytes
    ) -> Answer:
        try:
            message = signal.request.FromString(body)
        except DecodeError as error:
            with self._lock:
                self.malformed.append(f"{transport} {signal.name}: {error}")
            return permanent(f"cannot decode: {error}")
        with self._lock:
            at_s = time.monotonic()
            asked = Received(signal.name, transport, headers, message, len(body), ACCEPT, at_s)
            answer = self._behaviour(asked)
            self.requests.append(
                Received(signal.name, transport, headers, message, len(body), answer, at_s)
            )
        return answer

    def _grpc_method(self, signal: Signal) -> grpc.RpcMethodHandler:
        def export(body: bytes, context: grpc.ServicerContext) -> bytes:
            headers = {
                key: value if isinstance(value, str) else value.decode("latin-1")
                for key, value in context.invocation_metadata()
            }
            answer = self._decide(signal, "grpc", headers, body)
            if answer.silent:
                self._hold(context.is_active)
            if not answer.accepts:
                if answer.retry_after_s is not None:
                    details = encoded_status(answer)
                    context.set_trailing_metadata((("grpc-status-details-bin", details),))
                context.abort(answer.grpc_code, answer.message)
            return encoded_response(signal, answer)

        return grpc.unary_unary_rpc_method_handler(export)

    def _hold(self, still_there: Callable[[], bool]) -> None:
        """Keep silent until the client has gone or the receiver stops."""
        while still_there() and not self._closing.wait(0.05):
            pass


class _Methods(grpc.GenericRpcHandler):  # type: ignore[misc]
    def __init__(self, methods: dict[str, grpc.RpcMethodHandler]) -> None:
        self._methods = methods

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        return self._methods.get(details.method)


@contextmanager
def black_hole() -> Iterator[int]:
    """A port that takes connections and never says a word, not even a TLS or HTTP/2 greeting."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        yield listener.getsockname()[1]

"""OTLP over HTTP/protobuf, a thread per connection: paths, gzip, chunks, TLS, keep-alive."""

import gzip
import socket
import ssl
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.support.otlp_answers import (
    SIGNALS,
    Answer,
    Signal,
    encoded_response,
    encoded_status,
    permanent,
)

Decide = Callable[[Signal, dict[str, str], bytes], Answer]
_BY_PATH = {signal.http_path: signal for signal in SIGNALS}


class OtlpHttpServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(
        self,
        port: int,
        *,
        decide: Decide,
        hold: Callable[[Callable[[], bool]], None],
        max_bytes: int,
        tls: ssl.SSLContext | None,
    ) -> None:
        self.decide, self.hold, self.max_bytes = decide, hold, max_bytes
        self._tls = tls
        self._connections: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), _Handler)

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def finish_request(self, request: Any, client_address: Any) -> None:
        """In the connection's own thread: a slow handshake holds nobody else up."""
        if self._tls is not None:
            request.settimeout(10.0)
            try:
                request = self._tls.wrap_socket(request, server_side=True)
            except OSError:  # the client did not like the certificate, or had none
                return
            request.settimeout(None)
        self._connections.add(request)
        try:
            super().finish_request(request, client_address)
        except OSError:  # the client has gone, or the receiver stopped
            pass
        finally:
            self._connections.discard(request)
            if self._tls is not None:
                request.close()

    def server_close(self) -> None:
        super().server_close()
        for connection in list(self._connections):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: OtlpHttpServer

    def do_POST(self) -> None:
        headers = {key.lower(): value for key, value in self.headers.items()}
        body = self._body(headers)
        signal = _BY_PATH.get(self.path.partition("?")[0])
        if signal is None:
            self._answer(404, b"", {})
            return
        if headers.get("content-type", "").split(";")[0] != "application/x-protobuf":
            self._answer(415, b"", {})
            return
        if body is None:
            self._answer(400, encoded_status(permanent("request body too large or not gzip")), {})
            return
        answer = self.server.decide(signal, headers, body)
        if answer.silent:
            self.server.hold(self._client_is_there)
            self.close_connection = True
            return
        extra = {}
        if answer.retry_after_s is not None:
            extra["Retry-After"] = f"{answer.retry_after_s:g}"
        content = encoded_response(signal, answer) if answer.accepts else encoded_status(answer)
        self._answer(answer.http_status, content, extra)

    def _body(self, headers: dict[str, str]) -> bytes | None:
        if headers.get("transfer-encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            body = b"".join(parts)
        else:
            body = self.rfile.read(int(headers.get("content-length", "0")))
        if headers.get("content-encoding") == "gzip":
            try:
                body = gzip.decompress(body)
            except (OSError, EOFError):
                return None
        return None if len(body) > self.server.max_bytes else body

    def _client_is_there(self) -> bool:
        self.connection.setblocking(False)
        try:
            return bool(self.connection.recv(1))
        except (BlockingIOError, ssl.SSLWantReadError):
            return True
        except OSError:
            return False

    def _answer(self, status: int, content: bytes, extra: dict[str, str]) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", str(len(content)))
        for name, value in extra.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Tests read `requests`; nothing on stderr."""

"""A webhook receiver on loopback, as a team would have one: what the agent signals is heard, and checked, here.

Whoever wants to act on a verdict (an on-call tool, what rolls a canary back) gets a signed CloudEvent. Only
what carries this demo's signature counts, each event once.
"""

from __future__ import annotations

import base64
import hmac
import queue
import secrets
import threading
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import orjson

from agent.respond.signing import PREFIX, read_keys, signature

_MAX_BODY: Final = 1 << 20
_MOST_PASSED_OVER, _PIECE = 4 << 20, 1 << 16
_MAX_AGE_S: Final = 300  # of a signature, as Standard Webhooks advise


class Heard(NamedTuple):
    """One event. `action`: last part of the path it came to; `at`: `time.monotonic` of its arrival."""

    action: str
    event: dict[str, Any]
    at: float


class Receiver:
    """On a port of its own until `close`. Its secret is a new one, in a file for the agent's eyes."""

    def __init__(self, folder: Path) -> None:
        self.secret_file = folder / "webhook.secret"
        self.secret_file.touch(mode=0o600)
        secret = base64.b64encode(secrets.token_bytes(32)).decode()
        self.secret_file.write_text(f"{PREFIX}{secret}\n")
        self.n_refused = 0
        self._keys = read_keys(str(self.secret_file), "secret_file")
        self._known: set[tuple[str, str]] = set()
        self._lock = threading.Lock()
        self._heard: queue.SimpleQueue[Heard] = queue.SimpleQueue()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="webhooks", daemon=True
        )
        self._thread.start()

    def heard(self) -> list[Heard]:
        """What came since the last call, in the order of its arrival; never blocks."""
        found = []
        while not self._heard.empty():
            found.append(self._heard.get())
        return found

    def take(self, path: str, headers: Any, body: bytes) -> HTTPStatus:
        """Check a request and keep its event; a repeat is accepted and not kept again."""
        action = path.rpartition("/")[2]
        id, stamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
        signed = headers.get("webhook-signature", "")
        is_fresh = stamp.isdecimal() and abs(time.time() - int(stamp)) < _MAX_AGE_S
        if not is_fresh or not hmac.compare_digest(
            signed.encode(), signature(id, int(stamp), body, self._keys).encode()
        ):
            self.n_refused += 1
            return HTTPStatus.UNAUTHORIZED
        with self._lock:
            if (action, id) not in self._known:
                self._known.add((action, id))
                self._heard.put(Heard(action, orjson.loads(body), time.monotonic()))
        return HTTPStatus.NO_CONTENT

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 30

            def do_POST(self) -> None:
                length = self.headers.get("content-length", "")
                if not length.isdecimal() or int(length) > _MAX_BODY:
                    self.close_connection = True
                    # Who writes all before it reads would see a broken pipe, and no answer.
                    left = min(int(length), _MOST_PASSED_OVER) if length.isdecimal() else 0
                    while left and (piece := self.rfile.read(min(left, _PIECE))):
                        left -= len(piece)
                    return self._answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
                body = self.rfile.read(int(length))
                return self._answer(receiver.take(self.path, self.headers, body))

            def _answer(self, status: HTTPStatus) -> None:
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *arguments: object) -> None:
                """Nothing: the screen belongs to the demo."""

        return Handler

    def close(self) -> None:
        """End it; a second call does nothing."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

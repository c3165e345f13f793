"""The demo's child processes: each in a session of its own, and none outlives the demo.

Invariants
1. Ctrl-C in the terminal reaches the demo alone; it ends its children in order.
2. A watchdog (`sh`, asleep on a pipe) ends a child when the demo vanishes in any way.
3. The watchdog is gone before the child's id can be given to another process.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import IO, Any, Final

import orjson
import yaml

from agent.errors import SourceError

_PAGES: Final = re.compile(r"pages on (http://\S+)")
_POLL_TIMEOUT_S: Final = 5.0


class Child:
    """A process with its stderr in a file. `name` is what messages call it."""

    def __init__(
        self,
        name: str,
        command: list[str],
        log_path: Path,
        *,
        environment: Mapping[str, str] | None = None,
        pipes: bool = False,
    ) -> None:
        self.name, self.log_path = name, log_path
        stream = subprocess.PIPE if pipes else subprocess.DEVNULL
        with log_path.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=stream,
                stdout=stream,
                stderr=log,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        self._watchdog = subprocess.Popen(
            [
                "sh",
                "-c",
                'cat >/dev/null; kill -TERM "-$0"; sleep 12; kill -KILL "-$0"',
                str(self._process.pid),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def check(self) -> None:
        """Raise SourceError with the end of the log when the process has ended."""
        if not self.running:
            raise SourceError(
                f"the {self.name} ended with status {self._process.returncode}; "
                f"its last lines:\n{self.log_tail()}"
            )

    def log_tail(self, n_lines: int = 15) -> str:
        lines = self.log_path.read_text(errors="replace").splitlines()
        return "\n".join(f"  {line}" for line in lines[-n_lines:]) or "  (nothing)"

    def stop(self, timeout_s: float = 15.0) -> int:
        """SIGTERM, after `timeout_s` SIGKILL; returns the exit status. May be called again."""
        if self.running:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
        # Killed, not closed: a closed pipe would make it fire (invariant 3).
        if self._watchdog.poll() is None:
            self._watchdog.kill()
            self._watchdog.wait()
        for pipe in (self._watchdog.stdin, self._process.stdin, self._process.stdout):
            if pipe is not None and not pipe.closed:
                _close(pipe)
        return self._process.wait()


def _close(pipe: IO[bytes]) -> None:
    with contextlib.suppress(BrokenPipeError):  # the other side has gone, something was unread
        pipe.close()


class ModelServer(Child):
    """`agent.demo.model_server` and its messages (JSON lines, read by a thread of its own)."""

    def __init__(
        self,
        folder: Path,
        bootstrap: str,
        topics: tuple[str, str],
        days: int,
        duration_s: float,
        seed: int,
        baseline: Path,
    ) -> None:
        super().__init__(
            "model server",
            [
                *(sys.executable, "-m", "agent.demo.model_server"),
                *("--bootstrap", bootstrap),
                *("--topic", topics[0], "--label-topic", topics[1]),
                *("--days", str(days), "--duration-s", f"{duration_s:g}"),
                *("--seed", str(seed), "--baseline", str(baseline)),
            ],
            folder / "model_server.log",
            # Idle OpenMP threads spin; the calls are small and gain nothing from them.
            environment={"OMP_NUM_THREADS": "1"},
            pipes=True,
        )
        self._messages: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, name="model-server", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._messages.put(orjson.loads(line))

    def messages(self) -> list[dict[str, Any]]:
        """What it said since the last call; never blocks."""
        said = []
        while not self._messages.empty():
            said.append(self._messages.get())
        return said

    def send_line(self, text: str = "") -> None:
        """The first line starts the clock, `rollback` ends the canary, another one stops the server."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError, ValueError):  # it has ended: `check` says why
            self._process.stdin.write(f"{text}\n".encode())
            self._process.stdin.flush()


class Command(Child):
    """A command of the agent's own that ends by itself: `warmup`, `profile build`."""

    def __init__(self, folder: Path, name: str, *arguments: str) -> None:
        super().__init__(
            name,
            [sys.executable, "-m", "agent", *arguments],
            folder / f"{name.replace(' ', '_')}.log",
        )

    def done(self) -> bool:
        """Has it ended well? Raises SourceError when it has not."""
        if not self.running and self._process.returncode != 0:
            self.check()
        return not self.running

    @property
    def waiting_for(self) -> str:
        """Its last line."""
        lines = self.log_path.read_text(errors="replace").splitlines()
        return f"{self.name}: {lines[-1].strip() if lines else 'starting'}"


class AgentProcess(Child):
    """`inferometer run` on the demo's topics, and its state page."""

    command: tuple[str, ...] = (sys.executable, "-m", "agent", "run")

    def __init__(self, folder: Path, configuration: Mapping[str, Any]) -> None:
        config_path = folder / "inferometer.yaml"
        config_path.write_text(yaml.safe_dump(configuration, sort_keys=False))
        super().__init__(
            "agent",
            [*self.command, "-c", str(config_path)],
            folder / "agent.log",
        )
        self.url: str | None = None
        self._reasons = "starting"
        self._connection: http.client.HTTPConnection | None = None

    @property
    def waiting_for(self) -> str:
        """What keeps it from being ready."""
        return f"agent: {self._reasons}"

    def done(self) -> bool:
        """Has it joined its group? False while its pages are not up. Raises SourceError when it has ended."""
        self.check()
        if self.url is None:
            found = _PAGES.search(self.log_path.read_text(errors="replace"))
            if found is None:
                return False
            self.url = found[1].rstrip("/")
        status, body = self._get("/readyz")
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            self._reasons = ", ".join(orjson.loads(body)["reasons"])
        return status == HTTPStatus.OK

    def state(self) -> dict[str, Any] | None:
        """The document of `/v1/state`; None when it did not answer in time."""
        status, body = self._get("/v1/state")
        if status != HTTPStatus.OK:
            return None
        state: dict[str, Any] = orjson.loads(body)
        return state

    def _get(self, path: str) -> tuple[int, bytes]:
        """Status and body, over one kept connection; (0, b"") when there was no answer."""
        assert self.url is not None
        if self._connection is None:
            address = urllib.parse.urlsplit(self.url)
            self._connection = http.client.HTTPConnection(
                address.hostname or "", address.port, timeout=_POLL_TIMEOUT_S
            )
        try:
            self._connection.request("GET", path)
            answer = self._connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException):
            self._connection.close()
            self._connection = None
            return 0, b""
        return answer.status, body

"""`inferometer run` as a child process, configured by a dict, watched through its own pages."""

from __future__ import annotations

import json
import os
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import yaml

from tests.support.process import OwnedProcess
from tests.support.wait import eventually_sync

Json = dict[str, Any]

#: What makes an agent quick enough for a test: short intervals, any free port for its pages.
QUICK: Json = {
    "web": {"port": 0},
    "delivery": {"cut_interval_s": 0.1, "drain_timeout_s": 8.0},
    "export": {"interval_s": 0.3, "resend_interval_s": 1.0},
    "kafka": {
        "auto_offset_reset": "earliest",
        "session_timeout_s": 10.0,
        "heartbeat_interval_s": 1.0,
        "fetch_max_wait_s": 0.05,
    },
}


def merged(base: Json, more: Json) -> Json:
    """`more` over `base`, by key, at every level."""
    out = dict(base)
    for key, value in more.items():
        old = out.get(key)
        out[key] = (
            merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
        )
    return out


class AgentProcess:
    """Start with `with AgentProcess(folder, config) as agent`; killed at the end if it still runs."""

    def __init__(
        self,
        folder: Path,
        config: Json,
        *,
        environment: dict[str, str] | None = None,
        program: Sequence[str] = ("-m", "agent"),
        command: str = "run",
    ) -> None:
        """`program`: what Python runs, `inferometer` or a harness around it."""
        self.config_path = folder / "inferometer.yaml"
        self.config_path.write_text(yaml.safe_dump(merged(QUICK, config)))
        self.log_path = folder / "agent.log"
        self._command = [*program, command]
        self._environment = {**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})}
        self.process: OwnedProcess | None = None
        self.url = ""

    def start(self, *, timeout_s: float = 90.0) -> Self:
        """Start, and wait until the pages answer (not until it is ready)."""
        self.log_path.write_text("")
        command = [sys.executable, *self._command, "-c", self.config_path]
        self.process = OwnedProcess(command, log_path=self.log_path, env=self._environment)
        self.process.wait_ready(self._find_url, timeout_s=timeout_s)
        return self

    def _find_url(self) -> bool:
        found = re.search(r"pages on (http://\S+)", self.log)
        self.url = found.group(1).rstrip('",}') if found else ""
        return bool(self.url)

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def get(self, path: str) -> tuple[int, bytes]:
        """Status and body of one page."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=10) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def state(self) -> Json:
        status, body = self.get("/v1/state")
        assert status == 200, body
        return json.loads(body)

    def wait_ready(self, *, timeout_s: float = 60.0) -> None:
        eventually_sync(lambda: self.get("/readyz")[0] == 200, timeout_s=timeout_s)

    def wait_rows(self, rows: int, *, timeout_s: float = 60.0) -> Json:
        """The state once its tally holds `rows`."""

        def enough() -> Json | None:
            state = self.state()
            return state if state["tally"]["rows"] >= rows else None

        return eventually_sync(enough, timeout_s=timeout_s, every_s=0.1)

    def stop(self, *, timeout_s: float = 20.0) -> int:
        """SIGTERM, then the exit status."""
        assert self.process is not None
        return self.process.terminate(timeout_s=timeout_s)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self.process is not None:
            self.process.kill()

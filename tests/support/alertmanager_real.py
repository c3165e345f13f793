"""A real Alertmanager for tests, built from its Go module.

`tests/support/alertmanager/version` names it; `go` checks the module, and every module that it needs,
against the hashes that it is published with. Its web page is left out: it is made by other tools, and no
test looks at it.
"""

import json
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import yaml

from tests.support.built import built_once
from tests.support.process import OwnedProcess, StartFailed, accepts_connections, free_ports

VERSION_FILE = Path(__file__).parent / "alertmanager" / "version"
MODULE = "github.com/prometheus/alertmanager"
BUILD_TIMEOUT_S = 1200.0
START_TIMEOUT_S = 30.0
START_ATTEMPTS = 3


class AlertmanagerUnavailable(RuntimeError):
    """Go is missing, or Alertmanager cannot be built; the message says what to install."""


def alertmanager_binary() -> Path:
    """The program; built the first time (some minutes, about 1 GB of memory)."""
    target = f"{platform.system()}-{platform.machine()}"
    return built_once("alertmanager", [VERSION_FILE, target], _build) / "alertmanager"


def _build(folder: Path) -> None:
    version = VERSION_FILE.read_text().strip()
    found = json.loads(_go(folder, "mod", "download", "-json", f"{MODULE}@{version}"))
    source = folder / "source"
    shutil.copytree(found["Dir"], source)
    for each in (source, *source.rglob("*")):  # modules are kept read-only
        each.chmod(each.stat().st_mode | 0o200)
    page = source / "ui" / "app" / "dist" / "index.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("<!doctype html><title>Alertmanager without its page</title>\n")
    program = ("-o", "../alertmanager", "./cmd/alertmanager")
    _go(source, "build", "-mod=readonly", "-trimpath", "-ldflags=-s -w", *program)
    shutil.rmtree(source)


def _go(folder: Path, *arguments: str) -> str:
    if (go := shutil.which("go")) is None:
        raise AlertmanagerUnavailable("install Go 1.26 or newer: no go on the PATH")
    try:
        run = subprocess.run(
            ["nice", "-n", "10", go, *arguments],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=BUILD_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise AlertmanagerUnavailable(f"not built in {BUILD_TIMEOUT_S} s") from None
    if run.returncode != 0:
        tail = "\n".join((run.stdout + run.stderr).splitlines()[-15:])
        raise AlertmanagerUnavailable(f"Alertmanager cannot be built:\n{tail}")
    return run.stdout


class Alertmanager:
    """One Alertmanager without a cluster, that notifies nobody, or `webhook_url`, or as `config` says."""

    def __init__(self, folder: Path, *, webhook_url: str = "", config: Path | None = None) -> None:
        self._binary = alertmanager_binary()
        self.folder = folder
        self._webhook_url = webhook_url
        self._config = config
        self._port = 0
        self._process: OwnedProcess | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> "Alertmanager":
        """Start; a second start after `stop` keeps the port, and what it knew."""
        fresh = not self._port
        for attempt in range(START_ATTEMPTS):
            if fresh:
                (self._port,) = free_ports(1)
            try:
                self._launch()
            except StartFailed:
                if fresh and attempt + 1 < START_ATTEMPTS:
                    continue
                raise
            return self
        raise AssertionError("unreachable")

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process = None

    def alerts(self, **wanted: str) -> list[dict[str, Any]]:
        """Active alerts, as its API shows them, that carry these labels."""
        with urlopen(Request(f"{self.url}/api/v2/alerts"), timeout=10) as answer:
            found: list[dict[str, Any]] = json.load(answer)
        return [alert for alert in found if wanted.items() <= alert["labels"].items()]

    def _launch(self) -> None:
        config = self.folder / "alertmanager.yml"
        receiver: dict[str, Any] = {"name": "tests"}
        if self._webhook_url:
            receiver["webhook_configs"] = [{"url": self._webhook_url, "send_resolved": True}]
        route = {"receiver": "tests", "group_wait": "10ms", "group_interval": "50ms"}
        config.write_text(
            self._config.read_text()
            if self._config is not None
            else yaml.safe_dump({"route": route, "receivers": [receiver]})
        )
        self._process = OwnedProcess(
            [
                self._binary,
                f"--config.file={config}",
                f"--storage.path={self.folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{self._port}",
                "--cluster.listen-address=",
            ],
            log_path=self.folder / "alertmanager.log",
            cwd=self.folder,
        )
        try:
            self._process.wait_ready(
                lambda: accepts_connections(self._port), timeout_s=START_TIMEOUT_S
            )
        except StartFailed:
            self._process = None
            raise

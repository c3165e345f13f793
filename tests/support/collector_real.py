"""A real OpenTelemetry Collector for tests, built from Go modules by the Collector builder.

`tests/support/collector/manifest.yaml` names the components; the builder writes the program's
sources from it. `go.mod` and `go.sum` beside it lock every module with its hash. After a change of
the manifest write them again with `python -m tests.support.collector_real`.

The builder's own `go mod tidy` is left out on purpose: it also wants the modules of the components'
tests, which are many and need not all be published.
"""

import base64
import json
import os
import platform
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from google.protobuf.json_format import ParseDict
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, LogsData
from opentelemetry.proto.metrics.v1.metrics_pb2 import MetricsData
from opentelemetry.proto.trace.v1.trace_pb2 import Span, TracesData

from tests.support.built import built_once
from tests.support.otlp_points import Points, read_points
from tests.support.process import OwnedProcess, StartFailed, accepts_connections, free_ports

SOURCES = Path(__file__).parent / "collector"
MANIFEST, GO_MOD, GO_SUM = (SOURCES / n for n in ("manifest.yaml", "go.mod", "go.sum"))
BUILD_TIMEOUT_S = 1200.0
START_TIMEOUT_S = 30.0
START_ATTEMPTS = 3
_PORT_TAKEN = "address already in use"
_HEX_FIELDS = {"traceId", "spanId", "parentSpanId"}


class CollectorUnavailable(RuntimeError):
    """Go is missing, or the Collector cannot be built; the message says what to install."""


def collector_binary() -> Path:
    """The Collector's program; built the first time (some minutes, about 1 GB of memory)."""
    target = f"{platform.system()}-{platform.machine()}"
    folder = built_once("collector", [MANIFEST, GO_MOD, GO_SUM, target], _build)
    return folder / "otelcol"


def _build(folder: Path) -> None:
    for source in (GO_MOD, GO_SUM):
        shutil.copy(source, folder)
    _generate(folder)
    _go(folder, "build", "-mod=readonly", "-trimpath", "-ldflags=-s -w", "-o", "otelcol", ".")
    for left in folder.glob("*.go"):
        left.unlink()


def _generate(folder: Path) -> None:
    version = yaml.safe_load(MANIFEST.read_text())["dist"]["version"]
    builder = f"go.opentelemetry.io/collector/cmd/builder@v{version}"
    flags = ["--skip-compilation", "--skip-get-modules"]
    _go(folder, "run", builder, "--config", MANIFEST, *flags)


def _go(folder: Path, *arguments: str | Path) -> None:
    if (go := shutil.which("go")) is None:
        raise CollectorUnavailable("install Go 1.25 or newer: no go on the PATH")
    command = ["nice", "-n", "10", go, *map(str, arguments)]
    try:
        run = subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=BUILD_TIMEOUT_S,
            check=False,
            env=os.environ | {"GOWORK": "off"},
        )
    except subprocess.TimeoutExpired:
        raise CollectorUnavailable(f"the Collector was not built in {BUILD_TIMEOUT_S} s") from None
    if run.returncode != 0:
        tail = "\n".join((run.stdout + run.stderr).splitlines()[-15:])
        raise CollectorUnavailable(f"the Collector cannot be built:\n{tail}")


def manifest_modules() -> dict[str, str]:
    """Module path -> version, as the manifest names its components."""
    manifest = yaml.safe_load(MANIFEST.read_text())
    kinds = ("receivers", "processors", "exporters", "extensions", "providers")
    entries = [each["gomod"].split() for kind in kinds for each in manifest.get(kind, [])]
    return dict(entries)


def lock() -> None:
    """Write go.mod and go.sum for the manifest."""
    version = yaml.safe_load(MANIFEST.read_text())["dist"]["version"]
    modules = manifest_modules() | {"go.opentelemetry.io/collector/otelcol": f"v{version}"}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _generate(folder)
        required = "".join(f"\t{path} {version}\n" for path, version in modules.items())
        module = "module go.opentelemetry.io/collector/cmd/builder"  # what the sources say
        (folder / GO_MOD.name).write_text(f"{module}\n\ngo 1.25.0\n\nrequire (\n{required})\n")
        _go(folder, "build", "-mod=mod", "-o", "otelcol", ".")
        for made in (GO_MOD, GO_SUM):
            shutil.copy(folder / made.name, made)


class Collector:
    """One Collector with both OTLP receivers, a Prometheus page and files of what it took.

    `configs` are further configuration files, merged over its own in their order; `env` is added to
    its environment. With `addresses` only `configs` count: they are names of variables that the
    files read their addresses from (OTLP over gRPC, over HTTP, Prometheus: as many as they have),
    each of which is given a free port. `folder` goes with it; default: a temporary one.

    `start` raises StartFailed with the tail of the log.
    """

    def __init__(
        self,
        *,
        configs: Sequence[Path] = (),
        env: Mapping[str, str] | None = None,
        addresses: Sequence[str] = (),
        folder: Path | None = None,
    ) -> None:
        self._binary = collector_binary()
        self.folder = folder or Path(tempfile.mkdtemp(prefix="inferometer-collector-"))
        self.log_path = self.folder / "collector.log"
        self._configs = list(configs)
        self._env = os.environ | dict(env or {})
        self._addresses = list(addresses)
        self._ports: list[int] = []
        self._process: OwnedProcess | None = None

    @property
    def otlp_grpc(self) -> str:
        return f"http://127.0.0.1:{self._ports[0]}"

    @property
    def otlp_http(self) -> str:
        return f"http://127.0.0.1:{self._ports[1]}"

    @property
    def prometheus_url(self) -> str:
        return f"http://127.0.0.1:{self._ports[2]}/metrics"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.running

    def start(self) -> "Collector":
        """Start; a second start after `stop` or `kill` keeps the ports."""
        fresh = not self._ports
        for attempt in range(START_ATTEMPTS):
            if fresh:
                self._ports = free_ports(len(self._addresses) or 3)
            try:
                self._launch()
            except StartFailed as failure:
                if fresh and _PORT_TAKEN in str(failure) and attempt + 1 < START_ATTEMPTS:
                    continue
                raise
            return self
        raise AssertionError("unreachable")

    def stop(self) -> None:
        """SIGTERM: it sends and writes what it holds."""
        if self._process is not None:
            self._process.terminate()
            self._process = None

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process = None

    def pause(self) -> None:
        """Freeze it (SIGSTOP): connections stay open, nothing answers."""
        assert self._process is not None, "the Collector is not running"
        self._process.signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None, "the Collector is not running"
        self._process.signal(signal.SIGCONT)

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    # What its file exporters wrote; a line that is still being written is left for later.

    def read_metrics(self) -> Points:
        data = _messages(self.folder / "metrics.json", MetricsData)
        return Points(point for message in data for point in read_points(message))

    def read_traces(self) -> list[Span]:
        return [
            span
            for message in _messages(self.folder / "traces.json", TracesData)
            for of_resource in message.resource_spans
            for of_scope in of_resource.scope_spans
            for span in of_scope.spans
        ]

    def read_logs(self) -> list[LogRecord]:
        return [
            record
            for message in _messages(self.folder / "logs.json", LogsData)
            for of_resource in message.resource_logs
            for of_scope in of_resource.scope_logs
            for record in of_scope.log_records
        ]

    def log_text(self) -> str:
        return self.log_path.read_text(errors="replace")

    def _launch(self) -> None:
        configs = list(self._configs)
        bound = zip(self._addresses, self._ports, strict=False)
        env = self._env | {name: f"127.0.0.1:{port}" for name, port in bound}
        if not self._addresses:
            own = self.folder / "config.yaml"
            own.write_text(yaml.safe_dump(self._own_config()))
            configs.insert(0, own)
        arguments = [part for path in configs for part in ("--config", str(path))]
        self._process = OwnedProcess(
            [self._binary, *arguments], log_path=self.log_path, cwd=self.folder, env=env
        )
        try:
            self._process.wait_ready(
                lambda: all(accepts_connections(port) for port in self._ports),
                timeout_s=START_TIMEOUT_S,
            )
        except StartFailed:
            self._process = None
            raise

    def _own_config(self) -> dict[str, Any]:
        grpc_port, http_port, prometheus_port = self._ports
        signals = ("metrics", "traces", "logs")
        exporters: dict[str, Any] = {
            f"file/{name}": {
                "path": str(self.folder / f"{name}.json"),
                "append": True,
                "flush_interval": "50ms",
            }
            for name in signals
        }
        exporters["prometheus"] = {
            "endpoint": f"127.0.0.1:{prometheus_port}",
            "resource_to_telemetry_conversion": {"enabled": True},
        }
        pipelines = {
            name: {"receivers": ["otlp"], "exporters": [f"file/{name}"]} for name in signals
        }
        pipelines["metrics"]["exporters"].append("prometheus")
        return {
            "receivers": {
                "otlp": {
                    "protocols": {
                        "grpc": {"endpoint": f"127.0.0.1:{grpc_port}"},
                        "http": {"endpoint": f"127.0.0.1:{http_port}"},
                    }
                }
            },
            "exporters": exporters,
            "service": {
                "telemetry": {"metrics": {"level": "none"}, "logs": {"level": "warn"}},
                "pipelines": pipelines,
            },
        }


def validate(*configs: Path, env: Mapping[str, str] | None = None) -> str:
    """What the Collector's own `validate` objects to; empty when it accepts the files, merged."""
    arguments = [part for path in configs for part in ("--config", str(path))]
    run = subprocess.run(
        [collector_binary(), "validate", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | dict(env or {}),
    )
    return "" if run.returncode == 0 else run.stderr + run.stdout


def _messages(path: Path, kind: Any) -> Iterator[Any]:
    if not path.exists():
        return
    for line in path.read_text().splitlines(keepends=True):
        if line.endswith("\n"):
            yield ParseDict(_with_base64_ids(json.loads(line)), kind())


def _with_base64_ids(value: Any) -> Any:
    """OTLP/JSON writes trace and span ids in hex where protobuf's JSON form has base64."""
    if isinstance(value, dict):
        return {
            key: base64.b64encode(bytes.fromhex(item)).decode()
            if key in _HEX_FIELDS
            else _with_base64_ids(item)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_with_base64_ids(item) for item in value]
    return value


if __name__ == "__main__":
    lock()

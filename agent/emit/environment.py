"""OTEL_* variables and the configuration -> settings of the exporters.

Order of precedence, option by option: configuration, signal's own variable, general variable,
default. An empty variable counts as unset. `env` is a mapping given by the caller.

Source: opentelemetry.io/docs/specs/otel/protocol/exporter and .../configuration/sdk-environment-variables.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, cast
from urllib.parse import SplitResult, unquote, urlsplit

from agent.config import Export, Otlp, Secret, Tls
from agent.config.masking import shown_address
from agent.errors import ConfigError

Signal = Literal["metrics", "traces", "logs"]
Protocol = Literal["grpc", "http/protobuf"]
Compression = Literal["none", "gzip"]
Temporality = Literal["cumulative", "delta"]

GRPC_PORT = 4317
HTTP_PORT = 4318
DEFAULT_TIMEOUT_S = 10.0
DEFAULT_INTERVAL_S = 10.0

_PREFIX = "OTEL_EXPORTER_OTLP_"
_VISIBLE_ASCII = range(0x20, 0x7F)


@dataclass(frozen=True, slots=True)
class SignalSettings:
    """How one signal is exported. `repr` shows no secret: neither headers nor parts of the endpoint."""

    signal: Signal
    enabled: bool
    protocol: Protocol = "grpc"
    endpoint: str = field(repr=False, default="")  # grpc: target `host:port`; HTTP: full URL
    place: str = ""  # the endpoint as it may be shown
    secure: bool = False
    headers: tuple[tuple[str, Secret], ...] = ()  # names in lower case
    headers_file: str | None = None
    compression: Compression = "gzip"
    timeout_s: float = DEFAULT_TIMEOUT_S
    tls: Tls = field(default_factory=Tls)
    max_request_bytes: int = 3_500_000
    retry_initial_s: float = 1.0
    retry_max_s: float = 30.0


@dataclass(frozen=True, slots=True)
class ExportSettings:
    """What leaves over OTLP, how, and how often."""

    metrics: SignalSettings
    traces: SignalSettings
    logs: SignalSettings
    interval_s: float
    temporality: Temporality


def resolve(export: Export, env: Mapping[str, str]) -> ExportSettings:
    """All settings of OTLP export. Raises ConfigError: one line that names the option or variable."""
    return ExportSettings(
        metrics=resolve_signal(export.otlp, env, "metrics"),
        traces=resolve_signal(export.otlp, env, "traces"),
        logs=resolve_signal(export.otlp, env, "logs"),
        interval_s=export_interval_s(export, env),
        temporality=temporality(export, env),
    )


def export_interval_s(export: Export, env: Mapping[str, str]) -> float:
    """Seconds between metric exports."""
    if export.interval_s is not None:
        return export.interval_s
    return _milliseconds(env, "OTEL_METRIC_EXPORT_INTERVAL") or DEFAULT_INTERVAL_S


def temporality(export: Export, env: Mapping[str, str]) -> Temporality:
    """`lowmemory` is `delta` here: all counters and histograms of this program are synchronous."""
    if export.temporality is not None:
        return export.temporality
    name = f"{_PREFIX}METRICS_TEMPORALITY_PREFERENCE"
    given = env.get(name, "").strip().lower()
    known: dict[str, Temporality] = {
        "": "cumulative",
        "cumulative": "cumulative",
        "delta": "delta",
        "lowmemory": "delta",
    }
    if given not in known:
        raise ConfigError(f"{name} is {given!r}; must be cumulative, delta or lowmemory")
    return known[given]


def resolve_signal(otlp: Otlp, env: Mapping[str, str], signal: Signal) -> SignalSettings:
    """Settings of one signal; of a disabled one nothing but that is looked at."""
    found = _Variables(env, signal)
    configured = own_endpoint_of(otlp, signal)
    own_endpoint = configured or ""
    base_endpoint = "" if own_endpoint else otlp.endpoint or ""
    if not own_endpoint and not base_endpoint:
        own_endpoint = found.own("ENDPOINT")
        base_endpoint = "" if own_endpoint else found.general("ENDPOINT")
    if not _is_enabled(otlp, env, signal, is_addressed=bool(own_endpoint or base_endpoint)):
        return SignalSettings(signal, enabled=False)
    protocol = _protocol(otlp, found)
    origin = (
        f"export.otlp.{signal}_endpoint"
        if configured
        else ("export.otlp.endpoint" if otlp.endpoint else found.name("ENDPOINT"))
    )
    if protocol == "grpc":
        insecure = otlp.insecure if otlp.insecure is not None else found.flag("INSECURE")
        target, secure = _grpc_target(
            own_endpoint or base_endpoint or f"http://localhost:{GRPC_PORT}", insecure, origin
        )
        endpoint, place = target, shown_address(target)
    else:
        endpoint = own_endpoint or _signal_url(
            base_endpoint or f"http://localhost:{HTTP_PORT}", signal
        )
        secure, place = _http_place(endpoint, origin)
    tls = otlp.tls or Tls(
        ca_file=found.first("CERTIFICATE") or None,
        cert_file=found.first("CLIENT_CERTIFICATE") or None,
        key_file=found.first("CLIENT_KEY") or None,
    )
    if protocol == "grpc" and secure:
        if not tls.check_hostname:
            raise ConfigError(
                "export.otlp.tls.check_hostname is false; gRPC always checks it: use protocol http/protobuf, or a certificate with the host's name"
            )
        if tls.key_password is not None:
            raise ConfigError(
                "export.otlp.tls.key_password is set; gRPC takes only unencrypted keys: use protocol http/protobuf, or decrypt the key"
            )
    return SignalSettings(
        signal=signal,
        enabled=True,
        protocol=protocol,
        endpoint=endpoint,
        place=place,
        secure=secure,
        headers=_headers(otlp, found),
        headers_file=otlp.headers_file,
        compression=_compression(otlp, found),
        timeout_s=otlp.timeout_s or found.milliseconds("TIMEOUT") or DEFAULT_TIMEOUT_S,
        tls=tls,
        max_request_bytes=otlp.max_request_bytes,
        retry_initial_s=otlp.retry_initial_s,
        retry_max_s=max(otlp.retry_max_s, otlp.retry_initial_s),
    )


def own_endpoint_of(otlp: Otlp, signal: Signal) -> str | None:
    """The endpoint that is configured for this signal alone."""
    return {
        "metrics": otlp.metrics_endpoint,
        "traces": otlp.traces_endpoint,
        "logs": otlp.logs_endpoint,
    }[signal]


def _is_enabled(otlp: Otlp, env: Mapping[str, str], signal: Signal, *, is_addressed: bool) -> bool:
    """`export.otlp.enabled`, else OTEL_SDK_DISABLED, else OTEL_<SIGNAL>_EXPORTER, else: has an endpoint."""
    if otlp.enabled is not None:
        return otlp.enabled
    if env.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporters = env.get(f"OTEL_{signal.upper()}_EXPORTER", "").strip().lower()
    if exporters:
        return "otlp" in [name.strip() for name in exporters.split(",")]
    return is_addressed


class _Variables:
    """`OTEL_EXPORTER_OTLP_<SIGNAL>_X` before `OTEL_EXPORTER_OTLP_X`."""

    def __init__(self, env: Mapping[str, str], signal: Signal) -> None:
        self._env = env
        self._signal = signal.upper()

    def own(self, option: str) -> str:
        return self._env.get(f"{_PREFIX}{self._signal}_{option}", "").strip()

    def general(self, option: str) -> str:
        return self._env.get(f"{_PREFIX}{option}", "").strip()

    def first(self, option: str) -> str:
        return self.own(option) or self.general(option)

    def name(self, option: str) -> str:
        """Name of the variable that `first` reads, for messages."""
        return f"{_PREFIX}{self._signal}_{option}" if self.own(option) else f"{_PREFIX}{option}"

    def flag(self, option: str) -> bool:
        return self.first(option).lower() == "true"

    def milliseconds(self, option: str) -> float | None:
        return _milliseconds(self._env, self.name(option))


def _milliseconds(env: Mapping[str, str], name: str) -> float | None:
    """Seconds, from a variable in milliseconds; None when it is not set."""
    given = env.get(name, "").strip()
    if not given:
        return None
    try:
        value = int(given)
    except ValueError:
        value = 0
    if not 0 < value <= 86_400_000:
        raise ConfigError(f"{name} is {given!r}; must be milliseconds, 1 to 86400000")
    return value / 1000


def _protocol(otlp: Otlp, found: _Variables) -> Protocol:
    given = otlp.protocol or found.first("PROTOCOL") or "grpc"
    if given not in ("grpc", "http/protobuf"):
        raise ConfigError(f"{found.name('PROTOCOL')} is {given!r}; must be grpc or http/protobuf")
    return cast(Protocol, given)


def _compression(otlp: Otlp, found: _Variables) -> Compression:
    given = otlp.compression or found.first("COMPRESSION") or "gzip"
    if given not in ("none", "gzip"):
        raise ConfigError(f"{found.name('COMPRESSION')} is {given!r}; must be none or gzip")
    return cast(Compression, given)


def _headers(otlp: Otlp, found: _Variables) -> tuple[tuple[str, Secret], ...]:
    if otlp.headers is not None:
        pairs = {name: secret.reveal() for name, secret in otlp.headers.items()}
        return header_pairs(pairs, "export.otlp.headers")
    pairs = {}
    for pair in found.first("HEADERS").split(","):
        if not pair.strip():
            continue
        name, equals, value = pair.partition("=")
        if not equals or not name.strip():
            raise ConfigError(
                f"{found.name('HEADERS')} has a part without `name=value`; correct it"
            )
        pairs[unquote(name.strip())] = unquote(value.strip())
    return header_pairs(pairs, found.name("HEADERS"))


def header_pairs(pairs: Mapping[str, str], origin: str) -> tuple[tuple[str, Secret], ...]:
    """Checked headers, names in lower case. ConfigError names the origin, never a value."""
    for name, value in pairs.items():
        if not name or not name.isascii() or any(not (c.isalnum() or c in "-_.") for c in name):
            raise ConfigError(
                f"{origin} has a header name that is not letters, digits, `-`, `_` or `.`; correct it"
            )
        if any(ord(c) not in _VISIBLE_ASCII for c in value):
            raise ConfigError(
                f"{origin}: the value of {name!r} is not printable ASCII; remove line ends and encode the rest"
            )
    return tuple((name.lower(), Secret(value)) for name, value in pairs.items())


def _grpc_target(endpoint: str, insecure: bool, origin: str) -> tuple[str, bool]:
    """gRPC target and whether TLS is used: by the scheme http or https, else by `insecure`."""
    scheme, separator, _ = endpoint.partition("://")
    if not separator or scheme.lower() not in ("http", "https"):
        if "@" in endpoint and not endpoint.lower().startswith("unix:"):
            raise ConfigError(
                f"{origin} holds `@`; a gRPC target has no user and password: write host:port, and put them into headers_file"
            )
        return endpoint, not insecure
    try:
        parts = _parts(endpoint, origin)
        port = parts.port or GRPC_PORT
    except ValueError:
        raise ConfigError(
            f"{origin} has a port that is not a number; use scheme://host:port"
        ) from None
    if not parts.hostname:
        raise ConfigError(f"{origin} has no host; use scheme://host:port")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{host}:{port}", parts.scheme.lower() == "https"


def _signal_url(base: str, signal: Signal) -> str:
    """The base endpoint with the signal's path behind its own."""
    parts = urlsplit(base)
    return parts._replace(path=f"{parts.path.rstrip('/')}/v1/{signal}").geturl()


def _parts(endpoint: str, origin: str) -> SplitResult:
    """Of a URL. ConfigError where a password may have been taken for host or path. Raises ValueError."""
    parts = urlsplit(endpoint)
    if "@" in f"{parts.path}{parts.query}{parts.fragment}":
        raise ConfigError(
            f"{origin} holds `@` behind its host; write %40, and in a password also %23 for # and %2F for /"
        )
    return parts


def _http_place(endpoint: str, origin: str) -> tuple[bool, str]:
    """Whether TLS is used, and the URL without user, password and query."""
    try:
        parts = _parts(endpoint, origin)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        raise ConfigError(
            f"{origin} has a port that is not a number; use http://host:port"
        ) from None
    if parts.scheme.lower() not in ("http", "https") or not parts.hostname:
        raise ConfigError(
            f"{origin} is not an http:// or https:// URL, which protocol http/protobuf needs; correct one of the two"
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return parts.scheme.lower() == "https", f"{parts.scheme}://{host}{port}{parts.path}"

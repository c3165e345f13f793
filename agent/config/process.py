"""Options of the process: its pages, name, log and threads."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from agent.config.options import Options, Port, Secret, Threads
from agent.config.syntax import is_host


class ServerTls(Options, frozen=True, kw_only=True):
    """Certificates of the pages. Files are PEM, read at start."""

    cert_file: Annotated[str, Meta(min_length=1, description="Server certificate and its chain.")]
    key_file: Annotated[str, Meta(min_length=1, description="Server key.")]
    key_password: Annotated[Secret | None, Meta(description="Password of the server key.")] = None
    client_ca_file: Annotated[
        str | None,
        Meta(
            description="Authorities of clients: with it every client, probes too, must show a certificate of theirs (mTLS)."
        ),
    ] = None


class Web(Options, frozen=True, kw_only=True):
    """Health, scrape and state pages."""

    enabled: Annotated[bool, Meta(description="Serve pages at all.")] = True
    host: Annotated[
        str,
        Meta(
            description="Address to listen on. Loopback by default; a container wants 0.0.0.0 for probes."
        ),
    ] = "127.0.0.1"
    port: Annotated[Port, Meta(description="0: any free port, printed at start.")] = 9464
    token_file: Annotated[
        str | None,
        Meta(
            description="File with a bearer token that every page but `/livez` and `/readyz` then asks for; read again when it changes."
        ),
    ] = None
    tls: Annotated[ServerTls | None, Meta(description="Serve https; default: plain http.")] = None
    max_connections: Annotated[
        int, Meta(ge=1, le=10_000, description="Connections at a time; further ones are closed.")
    ] = 64
    client_timeout_s: Annotated[
        float,
        Meta(
            gt=0,
            le=300,
            description="A client that has not sent its request, or not taken its answer, for this long is disconnected.",
        ),
    ] = 15.0

    def __post_init__(self) -> None:
        if not is_host(self.host):
            raise ValueError(
                f'host is "{self.host[:80]}"; must be an IP address or a host name, '
                "such as 127.0.0.1, or 0.0.0.0 for all"
            )


class Service(Options, frozen=True, kw_only=True):
    """Who this agent is, as an OpenTelemetry resource. OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES apply."""

    name: Annotated[
        str | None,
        Meta(description="service.name. Default: OTEL_SERVICE_NAME, else `inferometer`."),
    ] = None
    instance_id: Annotated[
        str | None, Meta(description="service.instance.id. Default: a random id for each run.")
    ] = None
    attributes: Annotated[dict[str, str], Meta(description="Further resource attributes.")] = (
        msgspec.field(default_factory=dict)
    )


class Log(Options, frozen=True, kw_only=True):
    """Log lines on stderr."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="Least severe level shown.")
    ] = "info"
    format: Annotated[
        Literal["text", "json"], Meta(description="One JSON object a line, or text.")
    ] = "text"


class Runtime(Options, frozen=True, kw_only=True):
    """Threads and memory of the process."""

    kernel_threads: Annotated[
        Threads | None, Meta(description="Default: CPUs allowed minus one, 1 to 4.")
    ] = None

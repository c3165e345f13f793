"""Options of metrics and traces out."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from agent.config.connection import Tls
from agent.config.options import Fraction, Options, Seconds, Secret


class Otlp(Options, frozen=True, kw_only=True):
    """OTLP export. The `OTEL_EXPORTER_OTLP_*` variables apply where an option here is not set."""

    enabled: Annotated[
        bool | None,
        Meta(description="Default: on when an endpoint is set here or in the environment."),
    ] = None
    endpoint: Annotated[
        str | None,
        Meta(
            description="`http://host:4317` (gRPC) or `http://host:4318` (HTTP, `/v1/metrics` is added)."
        ),
    ] = None
    metrics_endpoint: Annotated[
        str | None, Meta(description="For metrics alone; used as it is.")
    ] = None
    traces_endpoint: Annotated[str | None, Meta(description="For traces alone; used as it is.")] = (
        None
    )
    logs_endpoint: Annotated[
        str | None, Meta(description="For verdicts and actions as log events alone; used as it is.")
    ] = None
    protocol: Annotated[
        Literal["grpc", "http/protobuf"] | None, Meta(description="Default: grpc.")
    ] = None
    headers: Annotated[dict[str, Secret] | None, Meta(description="Sent with every request.")] = (
        None
    )
    headers_file: Annotated[
        str | None,
        Meta(description="File with `name: value` lines, for secrets; read at each connect."),
    ] = None
    compression: Annotated[Literal["none", "gzip"] | None, Meta(description="Default: gzip.")] = (
        None
    )
    timeout_s: Annotated[
        Seconds | None, Meta(description="Limit for one request. Default: 10.")
    ] = None
    insecure: Annotated[
        bool | None, Meta(description="gRPC without TLS when the endpoint has no scheme.")
    ] = None
    tls: Annotated[
        Tls | None,
        Meta(description="Certificates; default: the OTEL_EXPORTER_OTLP_*CERTIFICATE variables."),
    ] = None
    max_request_bytes: Annotated[
        int,
        Meta(
            ge=4096,
            le=1 << 30,
            description="Requests are split below this; receivers refuse more than 4 MiB by default.",
        ),
    ] = 3_500_000
    retry_initial_s: Annotated[
        Seconds, Meta(description="First pause after a transient failure; doubles, with jitter.")
    ] = 1.0
    retry_max_s: Annotated[Seconds, Meta(description="Longest pause between tries.")] = 30.0


class Export(Options, frozen=True, kw_only=True):
    """What leaves the agent, and how often."""

    interval_s: Annotated[
        Seconds | None,
        Meta(
            description="Time between metric exports. Default: OTEL_METRIC_EXPORT_INTERVAL, else 10."
        ),
    ] = None
    resend_interval_s: Annotated[
        Seconds, Meta(description="Unchanged series are sent again after this long, rotating.")
    ] = 60.0
    temporality: Annotated[
        Literal["cumulative", "delta"] | None,
        Meta(
            description="`delta` is at least once: a retry after a lost answer repeats values. Default: OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE, else cumulative."
        ),
    ] = None
    max_buckets: Annotated[
        int,
        Meta(
            ge=20,
            le=896,
            description="Buckets a sign of an exported histogram; its scale never rises again.",
        ),
    ] = 160
    top_categories: Annotated[
        int,
        Meta(
            ge=0,
            le=128,
            description="Most frequent values of a categorical feature or prediction exported as metrics; `privacy` says how they are named. 0: none.",
        ),
    ] = 0
    drift: Annotated[
        Literal["none", "values", "bounds"],
        Meta(
            description="Distances from the baseline as `inference.drift.*`: none, estimates, or with their certified bounds."
        ),
    ] = "values"
    max_drift_series: Annotated[
        int,
        Meta(
            ge=0,
            le=1_000_000,
            description="Series of `inference.drift.*`; whole streams before their segments, and first come.",
        ),
    ] = 2000
    otlp: Annotated[Otlp, Meta(description="OTLP receiver.")] = Otlp()
    prometheus: Annotated[bool, Meta(description="Serve `/metrics` on the web port.")] = True
    console: Annotated[bool, Meta(description="Print a summary to stderr at every export.")] = False


class Traces(Options, frozen=True, kw_only=True):
    """Request spans rebuilt from events, and the agent's own spans."""

    enabled: Annotated[bool, Meta(description="Emit request spans and own spans over OTLP.")] = True
    base_rate: Annotated[
        Fraction, Meta(description="Fraction of ordinary requests kept, decided by trace id.")
    ] = 0.001
    max_per_s: Annotated[
        int, Meta(ge=0, le=100_000, description="Budget of request spans a second; errors first.")
    ] = 50
    slow: Annotated[
        bool,
        Meta(description="Keep requests slower than the last sealed window's 99th percentile."),
    ] = True
    self_spans: Annotated[bool, Meta(description="Emit spans of cuts, seals and exports.")] = True

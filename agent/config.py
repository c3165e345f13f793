"""Every option: name, unit, default, bound and meaning. Read from files and environment by `config_source`.

`docs/configuration.md` is generated from these structs, so a description here is user documentation.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from agent.config_syntax import (
    is_host,
    parse_path,
    require_address,
    require_topic,
    require_topics_once,
)
from agent.types import Kind


class Secret:
    """A value that never shows itself: `repr` and `str` are masked, `reveal()` is the only way out."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "Secret('***')"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every group of options has in common: immutable, named arguments, typos refused."""


Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Port = Annotated[int, Meta(ge=0, le=65_535)]
Threads = Annotated[int, Meta(ge=1, le=64)]
Fraction = Annotated[float, Meta(ge=0, le=1)]


class Tls(Options, frozen=True, kw_only=True):
    """TLS of a client connection. Files are PEM."""

    ca_file: Annotated[
        str | None, Meta(description="Certificate authorities; default: the system's.")
    ] = None
    cert_file: Annotated[str | None, Meta(description="Client certificate.")] = None
    key_file: Annotated[str | None, Meta(description="Client key.")] = None
    key_password: Annotated[Secret | None, Meta(description="Password of the client key.")] = None
    check_hostname: Annotated[
        bool, Meta(description="Refuse a certificate made for another host.")
    ] = True


class Sasl(Options, frozen=True, kw_only=True):
    """How the agent proves who it is to the brokers."""

    mechanism: Annotated[
        Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"],
        Meta(description="SASL mechanism."),
    ]
    username: Annotated[str | None, Meta(description="For PLAIN and SCRAM.")] = None
    password: Annotated[
        Secret | None, Meta(description="For PLAIN and SCRAM; prefer `password_file`.")
    ] = None
    password_file: Annotated[
        str | None, Meta(description="File that holds the password; read at each connect.")
    ] = None
    token_file: Annotated[
        str | None,
        Meta(
            description="For OAUTHBEARER: file that holds a bearer token, re-read whenever a connection asks for one."
        ),
    ] = None

    def __post_init__(self) -> None:
        if self.mechanism == "OAUTHBEARER":
            if not self.token_file:
                raise ValueError("mechanism OAUTHBEARER needs token_file")
        elif not self.username or not (self.password or self.password_file):
            raise ValueError(
                f"mechanism {self.mechanism} needs username and one of password, password_file"
            )


class Kafka(Options, frozen=True, kw_only=True):
    """Where events come from: a consumer group on a Kafka cluster."""

    bootstrap_servers: Annotated[
        list[str], Meta(min_length=1, description="Brokers to ask first, `host:port`.")
    ] = msgspec.field(default_factory=lambda: ["localhost:9092"])
    topics: Annotated[list[str], Meta(description="Topics with inference events.")] = msgspec.field(
        default_factory=list
    )
    topic_pattern: Annotated[
        str | None, Meta(description="Regular expression for topic names, instead of `topics`.")
    ] = None
    label_topics: Annotated[
        list[str],
        Meta(
            description="Topics with labels only; they never move or hold a watermark. Labels may also come on `topics`."
        ),
    ] = msgspec.field(default_factory=list)
    group_id: Annotated[str, Meta(min_length=1, description="Consumer group.")] = "inferometer"
    auto_offset_reset: Annotated[
        Literal["earliest", "latest"],
        Meta(
            description="Where to start a group that has committed nothing at all. A new partition of a known group starts at the earliest offset."
        ),
    ] = "latest"
    client_id: Annotated[str, Meta(description="Name shown in broker logs and quotas.")] = (
        "inferometer"
    )
    group_instance_id: Annotated[
        str | None,
        Meta(
            description="Static membership: restarts within the session do not rebalance. Use the pod's name."
        ),
    ] = None
    client_rack: Annotated[
        str | None, Meta(description="Rack of this client, to read from the nearest replica.")
    ] = None
    isolation_level: Annotated[
        Literal["read_uncommitted", "read_committed"],
        Meta(description="`read_committed` skips records of aborted transactions."),
    ] = "read_uncommitted"
    security_protocol: Annotated[
        Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"],
        Meta(description="Transport and authentication."),
    ] = "PLAINTEXT"
    tls: Annotated[Tls, Meta(description="For SSL and SASL_SSL.")] = Tls()
    sasl: Annotated[Sasl | None, Meta(description="For SASL_PLAINTEXT and SASL_SSL.")] = None
    session_timeout_s: Annotated[
        float,
        Meta(
            ge=1,
            le=300,
            description="Silence after which the group gives this member's partitions away.",
        ),
    ] = 30.0
    heartbeat_interval_s: Annotated[
        float, Meta(gt=0, le=60, description="Time between heartbeats.")
    ] = 3.0
    rebalance_timeout_s: Annotated[
        float,
        Meta(
            ge=1,
            le=600,
            description="Time all members have to hand over; a third of it is the budget of a revoke.",
        ),
    ] = 30.0
    request_timeout_s: Annotated[
        float, Meta(ge=1, le=300, description="Limit for one request to a broker.")
    ] = 20.0
    fetch_max_bytes: Annotated[
        int, Meta(ge=1024, le=1 << 28, description="Most bytes a broker returns to one fetch.")
    ] = 8 << 20
    fetch_max_partition_bytes: Annotated[
        int, Meta(ge=1024, le=1 << 28, description="The same, for one partition.")
    ] = 1 << 20
    fetch_max_wait_s: Annotated[
        float,
        Meta(
            ge=0,
            le=2,
            description="How long a broker may wait for data. An idle partition is heard of this often.",
        ),
    ] = 0.25
    fetch: Annotated[
        Literal["raw", "stock"],
        Meta(
            description="`raw` hands whole record batches to the kernel threads, which open them there; `stock` has the client library make every record, on the loop: slower, the same results."
        ),
    ] = "raw"
    buffer_max_bytes: Annotated[
        int,
        Meta(
            ge=1 << 20,
            le=1 << 32,
            description="Fetched bytes waiting for a kernel thread; beyond it partitions are paused.",
        ),
    ] = 32 << 20

    def __post_init__(self) -> None:
        for index, address in enumerate(self.bootstrap_servers):
            require_address(f"bootstrap_servers[{index}]", address)
        require_topics_once("topics", self.topics)
        require_topics_once("label_topics", self.label_topics)
        for name in self.label_topics:
            if name in self.topics:
                raise ValueError(
                    f"label_topics and topics both name {name}; remove one: labels may also come on topics"
                )
        if not self.group_id.strip():
            raise ValueError("group_id is blank; name the consumer group")
        if self.topics and self.topic_pattern:
            raise ValueError("topics and topic_pattern exclude each other; remove one")
        if self.topic_pattern is not None:
            try:
                re.compile(self.topic_pattern)
            except re.error as error:
                raise ValueError(
                    f"topic_pattern is {self.topic_pattern!r}; not a regular expression ({error})"
                ) from None
        if self.security_protocol.startswith("SASL") and self.sasl is None:
            raise ValueError(f"security_protocol {self.security_protocol} needs kafka.sasl")
        if self.sasl is not None and not self.security_protocol.startswith("SASL"):
            raise ValueError(
                f"sasl is set, but security_protocol is {self.security_protocol}; use SASL_SSL or SASL_PLAINTEXT"
            )
        if self.heartbeat_interval_s * 2 > self.session_timeout_s:
            raise ValueError(
                f"heartbeat_interval_s is {self.heartbeat_interval_s}; must be at most half of session_timeout_s ({self.session_timeout_s})"
            )


Path = Annotated[str, Meta(min_length=1)]


class Fields(Options, frozen=True, kw_only=True):
    """Where to find each part of an event in JSON that is not ours: dotted paths, `\\.` for a dot in a key."""

    id: Annotated[Path, Meta(description="Request id: joins labels, names spans.")] = "id"
    ts: Annotated[
        Path,
        Meta(
            description="Completion time: epoch s, ms, us or ns, or RFC 3339; absent: the record's timestamp."
        ),
    ] = "ts"
    model: Annotated[Path, Meta(description="Model name.")] = "model"
    version: Annotated[Path, Meta(description="Model version.")] = "version"
    features: Annotated[
        Path | dict[str, Path],
        Meta(
            description="Object (or array of objects: one row each) with the inputs, or a map from feature name to path."
        ),
    ] = "features"
    prediction: Annotated[
        Path,
        Meta(
            description="Number, text, object or vector; an array beside an array of features is one per row."
        ),
    ] = "prediction"
    label: Annotated[Path, Meta(description="Ground truth.")] = "label"
    latency: Annotated[Path, Meta(description="Latency in `latency_unit`.")] = "latency_ms"
    latency_unit: Annotated[
        Literal["s", "ms", "us", "ns"], Meta(description="Unit of `latency`.")
    ] = "ms"
    status: Annotated[
        Path, Meta(description="`ok`, `success`, 0 or 2xx is success; anything else is an error.")
    ] = "status"
    segment: Annotated[
        Path | dict[str, Path],
        Meta(
            description="Object with the values that split a model into streams, or a map from segment name to path."
        ),
    ] = "segment"
    tags: Annotated[Path, Meta(description="Object with facts about the producer.")] = "tags"
    usage: Annotated[Path, Meta(description="Object with token counts and `ttft_ms`.")] = "usage"
    traceparent: Annotated[
        Path, Meta(description="W3C trace context; a record header of that name wins.")
    ] = "traceparent"

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            if name == "latency_unit":
                continue
            given = getattr(self, name)
            paths = {name: given} if isinstance(given, str) else given
            for key, path in paths.items():
                option = name if isinstance(given, str) else f"{name}.{key}"
                try:
                    parse_path(path)
                except ValueError as error:
                    raise ValueError(f"{option}: {error}") from None


class Decode(Options, frozen=True, kw_only=True):
    """How bytes become rows."""

    fields: Annotated[Fields, Meta(description="Field paths.")] = Fields()
    default_model: Annotated[
        str | None, Meta(description="Model name of events that carry none.")
    ] = None
    max_record_bytes: Annotated[
        int, Meta(ge=256, le=1 << 28, description="Larger values are dropped as `too_large`.")
    ] = 4 << 20
    max_depth: Annotated[
        int, Meta(ge=1, le=500, description="Deeper JSON is dropped as `too_deep`.")
    ] = 32
    max_features: Annotated[
        int,
        Meta(ge=1, le=100_000, description="Events with more values are dropped as `too_wide`."),
    ] = 2_000
    max_name_bytes: Annotated[
        int,
        Meta(
            ge=8, le=4096, description="Longer model, version, segment and feature names are cut."
        ),
    ] = 200
    segments: Annotated[
        list[str] | None,
        Meta(description="Segment names that split streams; default: all that arrive."),
    ] = None
    dead_letter_topic: Annotated[
        str | None,
        Meta(
            description="Topic that receives dropped records: original key, value, headers, and the reason in `inferometer.reason`. Must not be one that is read."
        ),
    ] = None

    def __post_init__(self) -> None:
        if self.dead_letter_topic is not None:
            require_topic("dead_letter_topic", self.dead_letter_topic)


Values = Literal["names", "hashed", "off"]


class Privacy(Options, frozen=True, kw_only=True):
    """Which texts that stand in events may leave the agent as metrics, pages and documents."""

    values: Annotated[
        Values | None,
        Meta(
            description="Frequent texts of features and predictions: by name, as a keyed hash, or not at all. A feature's own `values` wins. Default: `names` where `export.top_categories` is above 0, and in `replay`; else `off`."
        ),
    ] = None
    predictions: Annotated[
        Values | None, Meta(description="The same for predictions alone; default: `values`.")
    ] = None
    k: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000_000,
            description="A text that surely stands in fewer rows of a list's window or total is left out of that list.",
        ),
    ] = 1
    key_file: Annotated[
        str | None,
        Meta(
            description="File with the key of `hashed`, 16 bytes or more; read at start. Agents of a fleet share it."
        ),
    ] = None


class Feature(Options, frozen=True, kw_only=True):
    """What is declared about one feature, instead of being inferred."""

    kind: Annotated[
        Kind | None,
        Meta(
            description="numeric, categorical, boolean, text or vector. `categorical` also takes numbers, as codes."
        ),
    ] = None
    min: Annotated[
        float | None,
        Meta(description="Values below are out of range: their request spans are kept."),
    ] = None
    max: Annotated[
        float | None,
        Meta(description="Values above are out of range: their request spans are kept."),
    ] = None
    values: Annotated[
        Values | None,
        Meta(description="How its frequent texts are shown; default: `privacy.values`."),
    ] = None

    def __post_init__(self) -> None:
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min is {self.min}; must not be above max ({self.max})")


class Windows(Options, frozen=True, kw_only=True):
    """Event-time tumbling windows."""

    width_s: Annotated[
        float, Meta(ge=1, le=86_400, description="Width of a window; whole seconds.")
    ] = 60.0
    out_of_orderness_s: Annotated[
        float, Meta(ge=0, le=86_400, description="How far the watermark trails the newest event.")
    ] = 10.0
    idle_timeout_s: Annotated[
        Seconds,
        Meta(
            description="A caught-up partition without rows for this long no longer holds the watermark."
        ),
    ] = 30.0
    owner_timeout_s: Annotated[
        Seconds, Meta(description="A partition without any news for this long counts as unowned.")
    ] = 60.0
    max_wait_s: Annotated[
        Seconds,
        Meta(
            description="An unowned or stuck partition holds a window at most this long; then it seals as partial."
        ),
    ] = 300.0
    max_skew_s: Annotated[
        Seconds,
        Meta(
            description="Event time may be this far ahead of the Kafka timestamp; beyond: `future`."
        ),
    ] = 300.0
    max_jump_s: Annotated[
        Seconds,
        Meta(description="The same for files, measured from the block's median event time."),
    ] = 86_400.0
    align_span_s: Annotated[
        Seconds, Meta(description="Partitions further ahead of the slowest than this are paused.")
    ] = 600.0
    max_open: Annotated[
        int, Meta(ge=2, le=1000, description="Open windows; past it the oldest is sealed.")
    ] = 8
    keep: Annotated[
        int,
        Meta(
            ge=1, le=1000, description="Sealed profiles kept per stream, for pages and thresholds."
        ),
    ] = 3

    def __post_init__(self) -> None:
        if self.width_s != int(self.width_s):
            raise ValueError(f"width_s is {self.width_s}; must be a whole number of seconds")


class Delivery(Options, frozen=True, kw_only=True):
    """When rows become chunks, and when offsets are committed."""

    mode: Annotated[
        Literal["memory", "volume"],
        Meta(
            description="`memory`: chunks are folded in process; offsets are committed after the collector accepted an export that holds them. At least once. `volume`: chunks and state are kept in `volume_path`; a crash loses and repeats nothing. One agent reads all partitions."
        ),
    ] = "memory"
    volume_path: Annotated[
        str | None,
        Meta(
            description="Directory of the journal and the snapshots; `mode: volume` needs it. It must survive the process, and belong to this agent alone.",
        ),
    ] = None
    snapshot_interval_s: Annotated[
        Seconds,
        Meta(
            description="`mode: volume`: time between snapshots. A restart folds again what came since."
        ),
    ] = 60.0
    sole_member_timeout_s: Annotated[
        Seconds,
        Meta(
            description="`mode: volume`: how long the agent waits, paused, while other members of the group hold partitions; then it exits."
        ),
    ] = 60.0
    cut_interval_s: Annotated[
        Seconds,
        Meta(description="Time between cuts: freshness of everything that leaves the agent."),
    ] = 1.0
    cut_max_bytes: Annotated[
        int,
        Meta(ge=1 << 20, le=1 << 32, description="Sketch memory of one delta that forces a cut."),
    ] = 32 << 20
    cut_max_windows: Annotated[
        int, Meta(ge=2, le=10_000, description="Windows touched by one delta that force a cut.")
    ] = 64
    drain_timeout_s: Annotated[
        Seconds,
        Meta(
            description="Deadline for the whole shutdown; must be below `kafka.session_timeout_s`."
        ),
    ] = 10.0


class Budget(Options, frozen=True, kw_only=True):
    """Hard limits on what the agent keeps and emits. Past them streams fold into `_overflow`, and a gauge says so."""

    max_streams: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000,
            description="Stream keys (model, version, segment), overflow streams excluded.",
        ),
    ] = 500
    max_features_per_stream: Annotated[
        int,
        Meta(
            ge=1,
            le=100_000,
            description="Columns of one stream; further ones are counted, not sketched.",
        ),
    ] = 200
    max_series: Annotated[
        int, Meta(ge=10, le=10_000_000, description="Exported time series of `inference.*`.")
    ] = 20_000
    max_memory_bytes: Annotated[
        int,
        Meta(
            ge=8 << 20,
            le=1 << 40,
            description="Sketch memory of the base: totals and open windows.",
        ),
    ] = 128 << 20


class Model(Options, frozen=True, kw_only=True):
    """A model that is known to exist: it has reserved budget, and is admitted before undeclared ones."""

    name: Annotated[str, Meta(min_length=1, description="Model name as it stands in events.")]
    versions: Annotated[int, Meta(ge=1, le=1000, description="Versions expected at a time.")] = 1
    segments: Annotated[
        int, Meta(ge=1, le=100_000, description="Segment combinations expected.")
    ] = 1
    features: Annotated[
        int, Meta(ge=1, le=100_000, description="Features expected; for `inferometer plan`.")
    ] = 20
    categorical: Annotated[
        int,
        Meta(
            ge=0,
            le=100_000,
            description="How many of them are categories or text; for `inferometer plan`.",
        ),
    ] = 0

    def __post_init__(self) -> None:
        if self.categorical > self.features:
            raise ValueError(
                f"categorical is {self.categorical}; must be at most features ({self.features})"
            )


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


class Config(Options, frozen=True, kw_only=True):
    """The whole configuration."""

    kafka: Annotated[Kafka, Meta(description="Source.")] = Kafka()
    decode: Annotated[Decode, Meta(description="Bytes to rows.")] = Decode()
    features: Annotated[dict[str, Feature], Meta(description="Declarations by feature name.")] = (
        msgspec.field(default_factory=dict)
    )
    models: Annotated[list[Model], Meta(description="Declared models.")] = msgspec.field(
        default_factory=list
    )
    privacy: Annotated[Privacy, Meta(description="Texts by name, hashed or off.")] = Privacy()
    windows: Annotated[Windows, Meta(description="Event-time windows.")] = Windows()
    delivery: Annotated[Delivery, Meta(description="Cuts and commits.")] = Delivery()
    budget: Annotated[Budget, Meta(description="Hard limits.")] = Budget()
    export: Annotated[Export, Meta(description="Metrics out.")] = Export()
    traces: Annotated[Traces, Meta(description="Traces out.")] = Traces()
    web: Annotated[Web, Meta(description="Pages.")] = Web()
    service: Annotated[Service, Meta(description="Resource.")] = Service()
    log: Annotated[Log, Meta(description="Logging.")] = Log()
    runtime: Annotated[Runtime, Meta(description="Threads.")] = Runtime()

    def __post_init__(self) -> None:
        if self.delivery.drain_timeout_s >= self.kafka.session_timeout_s:
            raise ValueError(
                f"delivery.drain_timeout_s is {self.delivery.drain_timeout_s}; must be below kafka.session_timeout_s ({self.kafka.session_timeout_s})"
            )
        if self.delivery.mode == "volume" and not self.delivery.volume_path:
            raise ValueError(
                "delivery.volume_path is not set; delivery.mode: volume needs a directory that survives the process"
            )
        self._require_other_dead_letter_topic()
        self._require_key()
        seen: set[str] = set()
        for index, model in enumerate(self.models):
            if model.name in seen:
                raise ValueError(
                    f'models[{index}].name is "{model.name}", as of a model before it; remove one'
                )
            seen.add(model.name)

    def _require_key(self) -> None:
        """A hash without a key is undone by a list of likely words."""
        asked = {
            "privacy.values": self.privacy.values,
            "privacy.predictions": self.privacy.predictions,
        }
        asked |= {f"features.{name}.values": f.values for name, f in self.features.items()}
        for option, values in asked.items():
            if values == "hashed" and self.privacy.key_file is None:
                raise ValueError(
                    f"privacy.key_file is not set; {option}: hashed needs a file with a key of 16 bytes or more"
                )

    def _require_other_dead_letter_topic(self) -> None:
        """A topic that is read and written would feed on itself."""
        topic, kafka = self.decode.dead_letter_topic, self.kafka
        if topic is None:
            return
        # topic_pattern may match it: the source leaves it out.
        for option, names in (
            ("kafka.topics", kafka.topics),
            ("kafka.label_topics", kafka.label_topics),
        ):
            if topic in names:
                raise ValueError(
                    f"decode.dead_letter_topic is {topic}, which {option} reads; name another topic"
                )

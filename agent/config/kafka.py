"""Options of the source."""

from __future__ import annotations

import re
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from agent.config.connection import Sasl, Tls
from agent.config.options import Options
from agent.config.syntax import require_address, require_topics_once


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

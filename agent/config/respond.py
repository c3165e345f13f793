"""Options of what becomes of verdicts: actions."""

from __future__ import annotations

import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from agent.config.connection import Tls
from agent.config.options import Options, Seconds, Secret

Severities = Literal["page", "ticket", "info"]
States = Literal["learning", "blind", "pending", "firing", "resolved", "ok"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


class Webhook(Options, frozen=True, kw_only=True):
    """POST a CloudEvent (structured JSON), signed as Standard Webhooks say."""

    url: Annotated[str | None, Meta(description="`https://host/path`.")] = None
    url_file: Annotated[
        str | None,
        Meta(description="File with the URL, where the URL is itself a secret; read at each try."),
    ] = None
    secret_file: Annotated[
        str | None,
        Meta(
            description="File with the signing secret: `whsec_` and base64, or plain text; further lines are older secrets, signed with too while receivers change over. Read at each try. Default: not signed."
        ),
    ] = None
    headers: Annotated[dict[str, Secret] | None, Meta(description="Sent with every request.")] = (
        None
    )
    headers_file: Annotated[
        str | None, Meta(description="File with `name: value` lines, for tokens; read at each try.")
    ] = None
    timeout_s: Annotated[Seconds, Meta(description="Limit for one request.")] = 15.0
    tls: Annotated[Tls, Meta(description="Certificates.")] = Tls()

    def __post_init__(self) -> None:
        if (self.url is None) == (self.url_file is None):
            raise ValueError("webhook needs one of url, url_file")
        if self.url is not None:
            require_url(self.url, "url")


class KafkaTopic(Options, frozen=True, kw_only=True):
    """Produce a CloudEvent to a topic of the brokers in `kafka`, keyed by model, idempotent."""

    topic: Annotated[str, Meta(min_length=1, max_length=249, description="Topic; must exist.")]
    timeout_s: Annotated[Seconds, Meta(description="Limit for one record.")] = 15.0


class Alertmanager(Options, frozen=True, kw_only=True):
    """Raise alerts through Alertmanager's API v2: repeated while they fire, ended when resolved."""

    urls: Annotated[
        list[str],
        Meta(
            min_length=1,
            description="`http://host:9093`, every member of a cluster; one that accepts is enough.",
        ),
    ]
    resend_s: Annotated[
        Seconds,
        Meta(
            description="Alerts that fire are sent again after this long; they end by themselves after four times as long, should the agent be gone."
        ),
    ] = 60.0
    labels: Annotated[dict[str, str], Meta(description="Further labels of every alert.")] = (
        msgspec.field(default_factory=dict)
    )
    headers: Annotated[dict[str, Secret] | None, Meta(description="Sent with every request.")] = (
        None
    )
    headers_file: Annotated[
        str | None, Meta(description="File with `name: value` lines, for tokens; read at each try.")
    ] = None
    timeout_s: Annotated[Seconds, Meta(description="Limit for one request.")] = 10.0
    tls: Annotated[Tls, Meta(description="Certificates.")] = Tls()

    def __post_init__(self) -> None:
        for index, url in enumerate(self.urls):
            require_url(url, f"urls[{index}]")


class Action(Options, frozen=True, kw_only=True):
    """One thing to do with verdicts. Exactly one of `webhook`, `kafka`, `alertmanager`."""

    name: Annotated[
        str, Meta(min_length=1, description="As monitors, metrics and the audit trail call it.")
    ]
    webhook: Annotated[Webhook | None, Meta(description="HTTP POST.")] = None
    kafka: Annotated[KafkaTopic | None, Meta(description="A record.")] = None
    alertmanager: Annotated[Alertmanager | None, Meta(description="An alert.")] = None
    on: Annotated[
        list[States],
        Meta(
            min_length=1,
            description="States whose beginning is told. `resolved` only of alarms told before.",
        ),
    ] = msgspec.field(default_factory=lambda: ["firing", "resolved"])
    severities: Annotated[
        list[Severities], Meta(min_length=1, description="Severities that are told.")
    ] = msgspec.field(default_factory=lambda: ["page", "ticket", "info"])
    models: Annotated[
        list[str], Meta(min_length=1, description="Models that are told of; `*` and `?` match.")
    ] = msgspec.field(default_factory=lambda: ["*"])
    monitors: Annotated[
        list[str],
        Meta(
            min_length=1,
            description="Monitors that are told of; `*` and `?` match. A monitor with `actions` of its own takes those.",
        ),
    ] = msgspec.field(default_factory=lambda: ["*"])
    hold_s: Annotated[
        float,
        Meta(
            ge=0,
            le=86_400,
            description="Debounce: what begins is told when it still holds this much later; an alarm that ends sooner is not told at all.",
        ),
    ] = 0.0
    max_per_minute: Annotated[int, Meta(ge=1, le=60_000, description="More wait in the queue.")] = (
        60
    )
    queue: Annotated[
        int,
        Meta(ge=1, le=100_000, description="Verdicts that may wait; more are dropped, counted."),
    ] = 1000
    give_up_s: Annotated[
        Seconds, Meta(description="A verdict that could not be delivered for this long has failed.")
    ] = 3600.0
    retry_initial_s: Annotated[
        Seconds, Meta(description="First pause after a failed try; doubles, with jitter.")
    ] = 1.0
    retry_max_s: Annotated[Seconds, Meta(description="Longest pause between tries.")] = 60.0
    dry_run: Annotated[
        bool,
        Meta(description="Do everything but send: the audit trail says what would have been sent."),
    ] = False

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(
                f'name is "{self.name[:80]}"; must be 1 to 63 letters, digits, `_`, `.` or `-`'
            )
        kinds = [k for k in ("webhook", "kafka", "alertmanager") if getattr(self, k) is not None]
        if len(kinds) != 1:
            given = " and ".join(kinds) or "none"
            raise ValueError(
                f'action "{self.name}" has {given} of webhook, kafka, alertmanager; give exactly one'
            )
        others = [state for state in self.on if state not in ("firing", "resolved")]
        if self.alertmanager is not None and others:
            raise ValueError(
                f'on of action "{self.name}" has {others[0]}; an alert only fires and is resolved: '
                "leave out the others"
            )


class Respond(Options, frozen=True, kw_only=True):
    """What becomes of verdicts, besides log events and metrics, which are always there."""

    actions: Annotated[list[Action], Meta(description="In the order they are tried.")] = (
        msgspec.field(default_factory=list)
    )
    dry_run: Annotated[bool, Meta(description="As `dry_run` of every action.")] = False
    source: Annotated[
        str | None,
        Meta(
            description="`source` of CloudEvents: the same for all that may take this agent's place. Default: `/inferometer/<service.name>`."
        ),
    ] = None
    audit_path: Annotated[
        str | None,
        Meta(
            description="File with one JSON line for each outcome of an action; it also keeps a restart from repeating what was delivered. Default: no file."
        ),
    ] = None
    audit_max_bytes: Annotated[
        int,
        Meta(
            ge=1 << 16,
            le=1 << 32,
            description="At this size the file becomes `<audit_path>.1`, in place of the one before.",
        ),
    ] = 16 << 20

    def __post_init__(self) -> None:
        names = [action.name for action in self.actions]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f'actions has "{name}" more than once; give each its own name')


def require_url(url: str, option: str) -> None:
    """ValueError, without what may be secret in it."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ValueError(
            f"{option} has a port that is not a number; use https://host:port"
        ) from None
    if parts.scheme.lower() not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{option} is not an http:// or https:// URL; use https://host/path")
    if parts.username or parts.password:
        raise ValueError(f"{option} holds a user or password; put them into headers_file")

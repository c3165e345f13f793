"""Who this agent is: one OpenTelemetry resource, the same for metrics, spans and the scrape page.

Order of precedence: configuration, OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES, default. The SDK's
`Resource.create` is not used: it reads the process environment and adds detectors of its own.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping
from urllib.parse import unquote

from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope
from opentelemetry.proto.resource.v1.resource_pb2 import Resource as ResourceMessage
from opentelemetry.sdk.resources import Resource

from agent import __version__
from agent.config import Service
from agent.emit.wire import LENGTH, attributes, tag, text

log = logging.getLogger(__name__)

SCOPE_NAME = "inferometer"
DEFAULT_SERVICE_NAME = "inferometer"


def build_resource(service: Service, env: Mapping[str, str]) -> Resource:
    """The resource of this process. A random `service.instance.id` is drawn when none is given.

    `telemetry.sdk.*` names this program: its points are made here, not by the OpenTelemetry SDK.
    """
    found = _from_environment(env.get("OTEL_RESOURCE_ATTRIBUTES", ""))
    if name := env.get("OTEL_SERVICE_NAME", ""):
        found["service.name"] = name
    found.update(service.attributes)
    if service.name is not None:
        found["service.name"] = service.name
    if service.instance_id is not None:
        found["service.instance.id"] = service.instance_id
    found.setdefault("service.name", DEFAULT_SERVICE_NAME)
    found.setdefault("service.instance.id", str(uuid.uuid4()))
    found.setdefault("service.version", __version__)
    found["telemetry.sdk.name"] = "inferometer"
    found["telemetry.sdk.language"] = "python"
    found["telemetry.sdk.version"] = __version__
    return Resource(dict(sorted(found.items())))


def encode_resource(resource: Resource) -> bytes:
    """The `Resource` message as bytes, without the field key around it."""
    pairs = {name: value for name, value in resource.attributes.items() if _plain(value)}
    return attributes(tag(ResourceMessage, "attributes", LENGTH), pairs)  # type: ignore[arg-type]


def encode_scope() -> bytes:
    """The `InstrumentationScope` message of everything this program emits."""
    return text(tag(InstrumentationScope, "name", LENGTH), SCOPE_NAME) + text(
        tag(InstrumentationScope, "version", LENGTH), __version__
    )


def _plain(value: object) -> bool:
    return isinstance(value, str | bool | int | float)


def _from_environment(value: str) -> dict[str, str]:
    """`key=value,key=value`, percent-encoded. One bad pair discards all, as the specification asks."""
    found: dict[str, str] = {}
    for pair in value.split(","):
        if not pair.strip():
            continue
        name, equals, raw = pair.partition("=")
        name = name.strip()
        try:
            if not equals or not name:
                raise ValueError("no key=value")
            found[unquote(name, errors="strict")] = unquote(raw.strip(), errors="strict")
        except ValueError:
            log.warning(
                "OTEL_RESOURCE_ATTRIBUTES is ignored: %r is not a percent-encoded key=value; correct it",
                pair.strip()[:80],
            )
            return {}
    return found

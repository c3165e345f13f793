"""Who this agent is: one OpenTelemetry resource, the same for metrics, spans and the scrape page.

Order of precedence: configuration, OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES, default. The SDK's
`Resource.create` is not used: it reads the process environment and adds detectors of its own.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote

from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope
from opentelemetry.proto.resource.v1.resource_pb2 import Resource as ResourceMessage
from opentelemetry.sdk.resources import Resource

from agent import __version__
from agent.config import Service
from agent.emit.wire import LENGTH, attributes, tag, text
from agent.types import Json

log = logging.getLogger(__name__)

SCOPE_NAME = "inferometer"
DEFAULT_SERVICE_NAME = "inferometer"


@dataclass(frozen=True, slots=True)
class AgentResource:
    """The resource in the three forms that exporters want: attributes, OTLP bytes, SDK object."""

    attributes: Mapping[str, str]
    encoded: bytes  # the `Resource` message, without the field key around it
    scope: bytes  # the `InstrumentationScope` message of everything this program emits
    sdk: Resource

    def describe(self) -> Json:
        """What the state page says about the service."""
        return {
            "name": self.attributes["service.name"],
            "version": self.attributes["service.version"],
            "instance_id": self.attributes["service.instance.id"],
        }


def make_resource(service: Service, env: Mapping[str, str], *, known_id: str = "") -> AgentResource:
    """The resource of this process. A random `service.instance.id` is drawn when none is given or known.

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
    found.setdefault("service.instance.id", known_id or str(uuid.uuid4()))
    found.setdefault("service.version", __version__)
    found["telemetry.sdk.name"] = "inferometer"
    found["telemetry.sdk.language"] = "python"
    found["telemetry.sdk.version"] = __version__
    pairs = dict(sorted(found.items()))
    scope = text(tag(InstrumentationScope, "name", LENGTH), SCOPE_NAME)
    scope += text(tag(InstrumentationScope, "version", LENGTH), __version__)
    encoded = attributes(tag(ResourceMessage, "attributes", LENGTH), pairs)
    return AgentResource(pairs, encoded, scope, Resource(pairs))


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

"""One resource for all signals, by the order of precedence."""

import logging

import pytest
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from agent import __version__
from agent.config import Service
from agent.emit.resource import make_resource


def test_defaults_name_the_program_and_draw_an_instance_id() -> None:
    one, two = make_resource(Service(), {}), make_resource(Service(), {})
    assert one.attributes["service.name"] == "inferometer"
    assert one.attributes["service.version"] == __version__
    assert one.attributes["service.instance.id"] != two.attributes["service.instance.id"]
    assert one.attributes["telemetry.sdk.name"] == "inferometer"
    assert one.attributes["telemetry.sdk.language"] == "python"


def test_config_wins_over_service_name_over_resource_attributes() -> None:
    env = {
        "OTEL_RESOURCE_ATTRIBUTES": "service.name=c,k=attributes,service.instance.id=pod-1,a%20b=x%2Cy",
        "OTEL_SERVICE_NAME": "b",
    }
    found = make_resource(Service(), {"OTEL_RESOURCE_ATTRIBUTES": env["OTEL_RESOURCE_ATTRIBUTES"]})
    assert found.attributes["service.name"] == "c"
    found = make_resource(Service(), env)
    assert found.attributes["service.name"] == "b"
    assert found.attributes["service.instance.id"] == "pod-1"
    assert found.attributes["a b"] == "x,y"
    found = make_resource(Service(name="a", instance_id="me", attributes={"k": "config"}), env)
    assert found.describe() == {"name": "a", "version": __version__, "instance_id": "me"}
    assert found.attributes["k"] == "config"


def test_the_three_forms_say_the_same() -> None:
    found = make_resource(Service(attributes={"deployment.environment.name": "tést"}), {})
    message = Resource.FromString(found.encoded)
    assert {a.key: a.value.string_value for a in message.attributes} == dict(found.attributes)
    assert dict(found.sdk.attributes) == dict(found.attributes)


@pytest.mark.parametrize("value", ["novalue", "a=1,=2", "a=%ff"])
def test_one_bad_pair_discards_the_variable_and_says_so(
    value: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        found = make_resource(Service(), {"OTEL_RESOURCE_ATTRIBUTES": f"x=1,{value}"})
    assert "x" not in found.attributes
    assert "OTEL_RESOURCE_ATTRIBUTES" in caplog.text

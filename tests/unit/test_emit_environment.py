"""OTEL_* variables and configuration become settings, by the order of precedence."""

from typing import Any

import pytest

from agent.config import Export, Otlp, Secret, Tls
from agent.emit.environment import (
    Signal,
    SignalSettings,
    export_interval_s,
    resolve,
    resolve_signal,
    temporality,
)
from agent.errors import ConfigError

PREFIX = "OTEL_EXPORTER_OTLP_"


def settings(signal: Signal = "metrics", otlp: Otlp | None = None, **env: str) -> SignalSettings:
    return resolve_signal(otlp or Otlp(), {PREFIX + k: v for k, v in env.items()}, signal)


def revealed(found: SignalSettings) -> dict[str, str]:
    return {name: secret.reveal() for name, secret in found.headers}


@pytest.mark.parametrize(
    ("env", "enabled", "expected"),
    [
        ({}, None, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:1"}, None, True),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://a:1"}, None, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://a:1"}, None, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, None, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:1"}, False, False),
        ({}, True, True),
        ({"OTEL_METRICS_EXPORTER": "otlp"}, None, True),
        ({"OTEL_METRICS_EXPORTER": "console, otlp"}, None, True),
        (
            {"OTEL_METRICS_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:1"},
            None,
            False,
        ),
        (
            {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:1"},
            None,
            True,
        ),
        (
            {"OTEL_SDK_DISABLED": "TRUE", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:1"},
            None,
            False,
        ),
        (
            {"OTEL_SDK_DISABLED": "yes", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:1"},
            None,
            True,
        ),
        ({"OTEL_SDK_DISABLED": "true", "OTEL_METRICS_EXPORTER": "none"}, True, True),
    ],
)
def test_a_signal_is_exported_when_it_has_an_address_and_nothing_forbids_it(
    env: dict[str, str], enabled: bool | None, expected: bool
) -> None:
    assert resolve_signal(Otlp(enabled=enabled), env, "metrics").enabled is expected


@pytest.mark.parametrize(
    ("signal", "otlp", "env", "expected"),
    [
        ("metrics", {"enabled": True}, {}, "http://localhost:4318/v1/metrics"),
        ("metrics", {}, {"ENDPOINT": "http://a:1"}, "http://a:1/v1/metrics"),
        ("traces", {}, {"ENDPOINT": "http://a:1/"}, "http://a:1/v1/traces"),
        ("traces", {}, {"ENDPOINT": "https://a/base/"}, "https://a/base/v1/traces"),
        ("metrics", {}, {"METRICS_ENDPOINT": "http://a:1"}, "http://a:1"),
        ("metrics", {}, {"METRICS_ENDPOINT": "http://a:1/x?k=v"}, "http://a:1/x?k=v"),
        ("metrics", {}, {"ENDPOINT": "http://a:1", "METRICS_ENDPOINT": "http://b:2/m"}, "http://b:2/m"),
        ("traces", {}, {"ENDPOINT": "http://a:1", "METRICS_ENDPOINT": "http://b:2/m"}, "http://a:1/v1/traces"),
        ("metrics", {"endpoint": "http://c:3"}, {"METRICS_ENDPOINT": "http://b:2/m"}, "http://c:3/v1/metrics"),
        ("metrics", {"endpoint": "http://c:3", "metrics_endpoint": "http://d:4/x"}, {}, "http://d:4/x"),
        ("traces", {"endpoint": "http://c:3", "metrics_endpoint": "http://d:4/x"}, {}, "http://c:3/v1/traces"),
    ],
)  # fmt: skip
def test_paths_are_added_to_base_endpoints_of_http_alone(
    signal: Signal, otlp: dict[str, Any], env: dict[str, str], expected: str
) -> None:
    found = settings(signal, Otlp(protocol="http/protobuf", **otlp), **env)
    assert found.endpoint == expected
    assert found.secure == expected.startswith("https")


@pytest.mark.parametrize(
    ("endpoint", "insecure", "target", "secure"),
    [
        ("http://a:4317", None, "a:4317", False),
        ("HTTPS://a:4317", None, "a:4317", True),
        ("https://a", None, "a:4317", True),
        ("http://a:1/path/is/ignored", None, "a:1", False),
        ("http://[::1]:4317", None, "[::1]:4317", False),
        ("a:4317", None, "a:4317", True),
        ("a:4317", True, "a:4317", False),
        ("https://a:4317", True, "a:4317", True),
        ("unix:///run/otel.sock", True, "unix:///run/otel.sock", False),
        ("dns:///a:4317", None, "dns:///a:4317", True),
    ],
)
def test_a_grpc_endpoint_is_a_url_or_a_target(
    endpoint: str, insecure: bool | None, target: str, secure: bool
) -> None:
    found = settings(otlp=Otlp(endpoint=endpoint, insecure=insecure))
    assert (found.endpoint, found.secure) == (target, secure)


def test_insecure_comes_from_the_signals_variable_first() -> None:
    assert not settings(ENDPOINT="a:1", INSECURE="true").secure
    assert settings(ENDPOINT="a:1", INSECURE="true", METRICS_INSECURE="false").secure
    assert settings(ENDPOINT="a:1", INSECURE="1").secure  # only `true` is true


def test_each_option_comes_from_config_then_signal_then_general_then_default() -> None:
    env = {
        "ENDPOINT": "http://a:1",
        "PROTOCOL": "http/protobuf",
        "TRACES_PROTOCOL": "grpc",
        "COMPRESSION": "none",
        "TRACES_COMPRESSION": "gzip",
        "TIMEOUT": "2500",
        "TRACES_TIMEOUT": "700",
        "HEADERS": "a=1,b=two%20words",
        "TRACES_HEADERS": "c=3",
    }
    metrics, traces = settings("metrics", **env), settings("traces", **env)
    assert (metrics.protocol, traces.protocol) == ("http/protobuf", "grpc")
    assert (metrics.compression, traces.compression) == ("none", "gzip")
    assert (metrics.timeout_s, traces.timeout_s) == (2.5, 0.7)
    assert revealed(metrics) == {"a": "1", "b": "two words"}
    assert revealed(traces) == {"c": "3"}

    configured = Otlp(
        protocol="grpc", compression="gzip", timeout_s=9.0, headers={"D": Secret("4")}
    )
    for signal in ("metrics", "traces"):
        found = settings(signal, configured, **env)  # type: ignore[arg-type]
        assert (found.protocol, found.compression, found.timeout_s) == ("grpc", "gzip", 9.0)
        assert revealed(found) == {"d": "4"}

    default = settings(ENDPOINT="http://a:1")
    assert (default.protocol, default.compression, default.timeout_s) == ("grpc", "gzip", 10.0)
    assert default.max_request_bytes < 4 << 20


def test_certificates_come_from_variables_unless_configured() -> None:
    env = {
        "ENDPOINT": "https://a:1",
        "CERTIFICATE": "ca.pem",
        "TRACES_CERTIFICATE": "traces-ca.pem",
        "CLIENT_CERTIFICATE": "c.pem",
        "CLIENT_KEY": "k.pem",
    }
    tls = settings("metrics", **env).tls
    assert (tls.ca_file, tls.cert_file, tls.key_file) == ("ca.pem", "c.pem", "k.pem")
    assert settings("traces", **env).tls.ca_file == "traces-ca.pem"
    assert settings("traces", Otlp(tls=Tls(ca_file="mine.pem")), **env).tls == Tls(
        ca_file="mine.pem"
    )


def test_interval_and_temporality_apply_where_config_is_silent() -> None:
    env = {
        "OTEL_METRIC_EXPORT_INTERVAL": "1500",
        "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "Delta",
    }
    assert export_interval_s(Export(), {}) == 10.0
    assert export_interval_s(Export(), env) == 1.5
    assert export_interval_s(Export(interval_s=3.0), env) == 3.0
    assert temporality(Export(), {}) == "cumulative"
    assert temporality(Export(), env) == "delta"
    assert temporality(Export(temporality="cumulative"), env) == "cumulative"
    found = resolve(Export(), env)
    assert (found.interval_s, found.temporality, found.metrics.enabled) == (1.5, "delta", False)


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"PROTOCOL": "http/json"}, [f"{PREFIX}PROTOCOL", "'http/json'", "http/protobuf"]),
        ({"METRICS_PROTOCOL": "x"}, [f"{PREFIX}METRICS_PROTOCOL"]),
        ({"COMPRESSION": "zstd"}, [f"{PREFIX}COMPRESSION", "'zstd'", "gzip"]),
        ({"TIMEOUT": "10s"}, [f"{PREFIX}TIMEOUT", "'10s'", "milliseconds"]),
        ({"TIMEOUT": "0"}, [f"{PREFIX}TIMEOUT", "1 to"]),
        ({"HEADERS": "topsecret"}, [f"{PREFIX}HEADERS", "name=value"]),
        ({"HEADERS": "a b=topsecret"}, [f"{PREFIX}HEADERS", "header name"]),
        ({"HEADERS": "a=topsecret%0d%0aHost: b"}, [f"{PREFIX}HEADERS", "'a'", "printable"]),
        ({"ENDPOINT": "http://a:port"}, [f"{PREFIX}ENDPOINT", "port"]),
        ({"ENDPOINT": "http://:4317"}, [f"{PREFIX}ENDPOINT", "host"]),
        ({"PROTOCOL": "http/protobuf", "ENDPOINT": "a:4318"}, [f"{PREFIX}ENDPOINT", "http://"]),
        ({"ENDPOINT": "user:topsecret@a:4317"}, [f"{PREFIX}ENDPOINT", "headers_file"]),
        ({"ENDPOINT": "dns:///topsecret@a:4317"}, [f"{PREFIX}ENDPOINT", "headers_file"]),
        ({"ENDPOINT": "http://user:a@topsecret#b@a:4317"}, [f"{PREFIX}ENDPOINT", "%40"]),
        (
            {"PROTOCOL": "http/protobuf", "ENDPOINT": "http://topsecret:1/2@a:4318"},
            [f"{PREFIX}ENDPOINT", "%40"],
        ),
    ],
)
def test_mistakes_name_the_variable_and_never_a_secret(
    env: dict[str, str], words: list[str]
) -> None:
    with pytest.raises(ConfigError) as raised:
        settings(**{"ENDPOINT": "http://a:1", **env})
    message = str(raised.value)
    assert all(word in message for word in words), message
    assert "topsecret" not in message and "\n" not in message


def test_what_grpc_cannot_do_with_tls_is_refused_at_start() -> None:
    for tls, word in (
        (Tls(check_hostname=False), "check_hostname"),
        (Tls(key_password=Secret("x")), "key_password"),
    ):
        with pytest.raises(ConfigError, match=word):
            settings(otlp=Otlp(endpoint="https://a:1", tls=tls))
        assert (
            settings(otlp=Otlp(endpoint="https://a:1", tls=tls, protocol="http/protobuf")).tls
            == tls
        )


def test_mistakes_in_what_is_not_used_do_not_stop_the_agent() -> None:
    assert not resolve_signal(Otlp(enabled=False), {f"{PREFIX}PROTOCOL": "x"}, "metrics").enabled


def test_settings_show_no_secret() -> None:
    found = settings(
        otlp=Otlp(
            endpoint="https://user:topsecret@a:1/x?api_key=topsecret",
            protocol="http/protobuf",
            headers={"authorization": Secret("Bearer topsecret")},
        )
    )
    assert "topsecret" in found.endpoint
    assert "topsecret" not in repr(found) + str(found) + found.place
    assert found.place == "https://a:1/x/v1/metrics"


def test_a_unix_socket_may_have_an_at_sign_in_its_name() -> None:
    assert settings(otlp=Otlp(endpoint="unix:///run/a@b.sock")).endpoint == "unix:///run/a@b.sock"

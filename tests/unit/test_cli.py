"""Commands from outside: exit status, what is on stdout, what is on stderr."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent import __version__, logs
from agent.cli import main

COMMANDS = ["run", "check", "plan", "replay", "warmup", "demo", "health"]
GOOD = "kafka: {topics: [predictions]}\n"


@pytest.fixture(autouse=True)
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder, and none of the variables that this program reads."""
    monkeypatch.chdir(tmp_path)
    for name in [n for n in os.environ if n.startswith(("INFEROMETER__", "OTEL_"))]:
        monkeypatch.delenv(name)
    # Commands of this process set logging up: not for the tests that follow.
    monkeypatch.setattr(logs, "set_up", lambda *_: None)


def written(text: str) -> str:
    Path("inferometer.yaml").write_text(text)
    return "inferometer.yaml"


def run(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    try:
        status = main(list(arguments))
    except SystemExit as stop:
        status = int(stop.code or 0)
    out, err = capfd.readouterr()
    return status, out, err


def test_help_teaches_and_exits_with_zero(capfd) -> None:
    status, out, err = run(capfd, "--help")
    assert status == 0 and err == ""
    for command in COMMANDS:
        assert f"    {command} " in out
    assert "inferometer replay events.jsonl" in out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(capfd, command: str) -> None:
    status, out, _ = run(capfd, command, "--help")
    assert status == 0
    assert f"inferometer {command}" in out.partition("example")[2]
    assert "--config FILE" in out


def test_version(capfd) -> None:
    assert run(capfd, "--version") == (0, f"inferometer {__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            [],
            "inferometer: the following arguments are required: COMMAND; see inferometer --help\n",
        ),
        (
            ["replay"],
            "inferometer replay: the following arguments are required: FILE; see inferometer replay --help\n",
        ),
        (
            ["check", "--sho"],
            "inferometer: unrecognized arguments: --sho; see inferometer --help\n",
        ),
        (
            ["demo", "--duration", "0"],
            "inferometer demo: argument --duration: 0 is not a number from 1 to 86400 (seconds); see inferometer demo --help\n",
        ),
        (
            ["demo", "--duration", "x"],
            "inferometer demo: argument --duration: x is not a number from 1 to 86400 (seconds); see inferometer demo --help\n",
        ),
        (
            ["demo", "--rate", "fast"],
            "inferometer demo: argument --rate: fast is not a number from 1 to 1000000 (events a second); see inferometer demo --help\n",
        ),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(capfd, arguments: list[str], line: str) -> None:
    assert run(capfd, *arguments) == (2, "", line)


def test_check_is_silent_on_stdout_and_says_valid_on_stderr(capfd) -> None:
    assert run(capfd, "check", "-c", written(GOOD)) == (0, "", "inferometer.yaml is valid\n")


def test_check_names_the_mistake_in_one_line_with_status_2(capfd) -> None:
    status, out, err = run(capfd, "check", "-c", written("kafka: {topcs: [a]}\n"))
    assert (status, out) == (2, "")
    assert err == (
        "inferometer: inferometer.yaml:1: kafka.topcs is not an option; did you mean kafka.topics?\n"
    )


def test_check_json_is_one_document_either_way(capfd) -> None:
    status, out, _ = run(capfd, "check", "--json", "-c", written(GOOD))
    assert (status, json.loads(out)) == (0, {"ok": True, "files": [], "warnings": []})
    status, out, _ = run(capfd, "check", "--json", "-c", "none.yaml")
    assert (status, json.loads(out)) == (
        2,
        {
            "ok": False,
            "error": "none.yaml: no such file or directory; give the file with -c FILE",
        },
    )


def test_check_without_topics_is_a_mistake(capfd) -> None:
    status, _, err = run(capfd, "check")
    assert status == 2 and err.startswith("inferometer: kafka.topics is empty; ")


def test_check_takes_topics_from_the_environment(capfd, monkeypatch) -> None:
    monkeypatch.setenv("INFEROMETER__KAFKA__TOPICS", "[a]")
    assert run(capfd, "check")[0] == 0


def test_check_opens_the_files_that_are_named(capfd) -> None:
    text = GOOD + "export: {otlp: {endpoint: 'https://c:4317', tls: {ca_file: ca.pem}}}\n"
    status, _, err = run(capfd, "check", "-c", written(text))
    assert status == 2
    assert err == (
        "inferometer: export.otlp.tls.ca_file is ca.pem: no such file or directory; "
        "mount the file or correct the path\n"
    )


def test_check_reads_the_opentelemetry_variables_too(capfd, monkeypatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4317")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "carrier-pigeon")
    status, _, err = run(capfd, "check", "-c", written(GOOD))
    assert status == 2
    assert "OTEL_EXPORTER_OTLP_PROTOCOL" in err and err.count("\n") == 1


def test_check_reads_field_paths(capfd) -> None:
    text = GOOD + "decode: {fields: {model: a..b}}\n"
    status, _, err = run(capfd, "check", "-c", written(text))
    assert status == 2
    assert err == (
        "inferometer: inferometer.yaml:2: decode.fields: model: path 'a..b' has an empty part; "
        "write \\. for a dot inside a key\n"
    )


def test_check_names_the_file_that_has_no_topics(capfd) -> None:
    status, _, err = run(capfd, "check", "-c", written("web: {port: 1}\n"))
    assert status == 2
    assert err.startswith("inferometer: inferometer.yaml: kafka.topics is empty; ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + "decode: {dead_letter_topic: predictions}\n", "which kafka.topics reads"),
        (
            "kafka: {topics: [a], label_topics: [b]}\ndecode: {dead_letter_topic: b}\n",
            "which kafka.label_topics reads",
        ),
        (GOOD + "decode: {dead_letter_topic: 'a b'}\n", 'dead_letter_topic is "a b"; a topic name'),
        ("kafka: {topics: [a], bootstrap_servers: ['h:0']}\n", "port from 1 to 65535"),
        ("kafka: {topics: [a], bootstrap_servers: ['h:65536']}\n", "port from 1 to 65535"),
        ("kafka: {topics: [a], bootstrap_servers: [h]}\n", 'bootstrap_servers[0] is "h"'),
        ("kafka: {topics: [a], bootstrap_servers: ['a:1', ':9092']}\n", "bootstrap_servers[1]"),
        ("kafka: {topics: [a], bootstrap_servers: ['::1:9092']}\n", "must be host:port"),
        ("kafka: {topics: [a], bootstrap_servers: ['a:1,b:2']}\n", "an entry of its own"),
        ("kafka: {topics: [a], bootstrap_servers: ['kafka://h:9092']}\n", "without a scheme"),
        ("kafka: {topics: ['']}\n", 'topics[0] is ""; a topic name'),
        ("kafka: {topics: ['..']}\n", 'topics[0] is ".."; a topic name'),
        (f"kafka: {{topics: [{'a' * 250}]}}\n", "1 to 249"),
        ("kafka: {topics: [a], label_topics: ['b/c']}\n", 'label_topics[0] is "b/c"'),
        ("kafka: {topics: [a, b, a]}\n", "topics names a twice"),
        ("kafka: {topics: [a], label_topics: [l, l]}\n", "label_topics names l twice"),
        ("kafka: {topics: [a, b], label_topics: [b]}\n", "label_topics and topics both name b"),
        ("kafka: {topics: [a], group_id: '  '}\n", "group_id is blank"),
        (GOOD + "models: [{name: m}, {name: n}, {name: m}]\n", 'models[2].name is "m"'),
        (GOOD + "web: {host: 'not a host'}\n", 'host is "not a host"'),
        (GOOD + "web: {host: ''}\n", 'host is ""'),
        (GOOD + "web: {host: 1.2.3.400}\n", "must be an IP address or a host name"),
    ],
)
def test_check_refuses_what_cannot_work_and_names_the_file(capfd, text: str, message: str) -> None:
    status, out, err = run(capfd, "check", "-c", written(text))
    assert (status, out) == (2, "")
    assert err.startswith("inferometer: inferometer.yaml:") and err.count("\n") == 1
    assert message in err


@pytest.mark.parametrize(
    ("protocol", "message"),
    [
        ("grpc", "export.otlp.endpoint begins with ftp://; must be http:// or https://"),
        ("http/protobuf", "export.otlp.endpoint is not an http:// or https:// URL"),
    ],
)
def test_check_refuses_an_endpoint_of_another_scheme(capfd, protocol: str, message: str) -> None:
    text = f"{GOOD}export: {{otlp: {{endpoint: 'ftp://c:4317', protocol: {protocol}}}}}\n"
    status, out, err = run(capfd, "check", "-c", written(text))
    assert (status, out) == (2, "") and err.count("\n") == 1
    assert err.startswith(f"inferometer: {message}")


@pytest.mark.parametrize(
    "text",
    [
        "kafka: {topics: [a.b_c-9], bootstrap_servers: ['[::1]:9092', 'k_1.example.:1', '10.0.0.1:65535']}\n",
        GOOD + "web: {host: '::'}\n",
        GOOD + "web: {host: localhost}\n",
        GOOD + "decode: {dead_letter_topic: other}\n",
        "kafka: {topic_pattern: 'pred.*'}\ndecode: {dead_letter_topic: predictions.dead}\n",
        GOOD + "export: {otlp: {endpoint: 'dns:///c:4317', insecure: true}}\n",
    ],
)
def test_check_takes_what_is_rare_but_right(capfd, text: str) -> None:
    assert run(capfd, "check", "-c", written(text)) == (0, "", "inferometer.yaml is valid\n")


@pytest.mark.parametrize("text", ["export: {prometheus: false}\n", "web: {enabled: false}\n"])
def test_check_warns_when_nothing_is_exported(capfd, text: str) -> None:
    status, out, err = run(capfd, "check", "-c", written(GOOD + text))
    assert (status, out) == (0, "")
    assert err.startswith("inferometer: warning: nothing is exported; ")
    status, out, _ = run(capfd, "check", "--json", "-c", "inferometer.yaml")
    assert status == 0 and len(json.loads(out)["warnings"]) == 1


def test_check_warns_of_tls_that_was_not_asked_for(capfd, monkeypatch) -> None:
    warning = "inferometer: warning: {} has no scheme http or https, so TLS is used; "
    text = GOOD + "export: {otlp: {endpoint: 'c:4317'}}\n"
    status, _, err = run(capfd, "check", "-c", written(text))
    assert status == 0 and err.count("warning") == 1
    assert err.startswith(warning.format("export.otlp.endpoint"))
    for sound in ("endpoint: 'c:4317', insecure: true", "endpoint: 'https://c:4317'"):
        text = f"{GOOD}export: {{otlp: {{{sound}}}}}\n"
        assert "warning" not in run(capfd, "check", "-c", written(text))[2]
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "c:4317")
    err = run(capfd, "check", "-c", written(GOOD))[2]
    assert err.startswith(warning.format("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"))


def test_check_judges_certificates(capfd) -> None:
    Path("ca.pem").write_text("no certificate")
    text = "kafka: {topics: [a], security_protocol: SSL, tls: {ca_file: ca.pem}}\n"
    status, _, err = run(capfd, "check", "-c", written(text))
    assert status == 2
    assert err.startswith(
        "inferometer: kafka.tls.ca_file is 'ca.pem'; it holds no PEM certificate."
    )


def test_check_show_masks_secrets(capfd, monkeypatch) -> None:
    monkeypatch.setenv("KAFKA_PASSWORD", "hunter2")
    text = (
        "kafka:\n  topics: [a]\n  security_protocol: SASL_SSL\n"
        "  sasl: {mechanism: PLAIN, username: u, password: '${env:KAFKA_PASSWORD}'}\n"
    )
    for extra in ([], ["--json"]):
        status, out, err = run(capfd, "check", "--show", *extra, "-c", written(text))
        assert status == 0
        assert "'***'" in out or '"***"' in out
        assert "hunter2" not in out + err


def test_run_without_topics_fails_before_it_starts(capfd) -> None:
    status, out, err = run(capfd, "run", "-c", written("log: {level: debug}\n"))
    assert (status, out) == (2, "")
    assert err.startswith("inferometer: inferometer.yaml: kafka.topics is empty; ")
    assert err.count("\n") == 1


def test_health_of_nobody_is_status_1(capfd) -> None:
    status, out, err = run(capfd, "health", "--url", "http://127.0.0.1:9")
    assert (status, out) == (1, "")
    assert err.startswith("http://127.0.0.1:9/livez: no answer")


def test_health_needs_a_known_port(capfd) -> None:
    status, _, err = run(capfd, "health", "-c", written("web: {port: 0}\n"))
    assert status == 2
    assert err == (
        "inferometer: web.enabled is false or web.port is 0: "
        "there is no known page to ask; give --url\n"
    )


def test_help_and_check_do_not_load_the_heavy_parts() -> None:
    Path("inferometer.yaml").write_text(GOOD)
    for arguments in (["--help"], ["check", "-c", "inferometer.yaml"]):
        code = (
            "import sys; from agent.cli import main\n"
            f"try: main({arguments!r})\nexcept SystemExit: pass\n"
            "heavy = {'numba', 'numpy', 'aiohttp', 'aiokafka', 'grpc', 'rich', 'opentelemetry'}\n"
            "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False
        )
        assert done.returncode == 0, done.stderr


def test_a_reader_that_leaves_early_is_not_a_traceback() -> None:
    Path("inferometer.yaml").write_text(GOOD)
    shell = f"{sys.executable} -m agent check --show -c inferometer.yaml | true"
    done = subprocess.run(
        ["sh", "-c", shell], capture_output=True, text=True, timeout=30, check=False
    )
    assert "Traceback" not in done.stderr and "BrokenPipe" not in done.stderr


def test_replay_json_is_one_document_on_stdout_and_nothing_else(capfd) -> None:
    Path("events.jsonl").write_text('{"model":"m","prediction":1.5}\nbroken\n')
    status, out, err = run(capfd, "replay", "events.jsonl", "--json", "--quiet")
    document = json.loads(out)
    assert status == 0 and err == ""
    assert (document["rows"], document["dropped"]) == (1, {"invalid_json": 1})
    assert document["streams"][0]["model"] == "m"


def test_replay_takes_the_model_of_events_that_name_none(capfd) -> None:
    Path("events.jsonl").write_text('{"prediction":1.5}\n')
    status, out, _ = run(capfd, "replay", "events.jsonl", "--json", "-q", "--model", "churn")
    assert status == 0
    assert [s["model"] for s in json.loads(out)["streams"]] == ["churn"]


def test_a_missing_file_is_one_line_and_status_2(capfd) -> None:
    status, out, err = run(capfd, "replay", "none.jsonl")
    assert (status, out) == (2, "")
    assert err.startswith("inferometer: none.jsonl: ") and err.count("\n") == 1


def test_warmup_says_how_many_kernels_are_ready(capfd) -> None:
    status, out, err = run(capfd, "warmup", "--json")
    document = json.loads(out)
    assert status == 0 and len(document["kernels"]) > 5
    assert err.startswith(f"{len(document['kernels'])} kernels ready after ")


def test_the_demo_takes_no_configuration(capfd) -> None:
    status, out, err = run(capfd, "demo", "-c", written(GOOD))
    assert (status, out) == (2, "") and "leave out --config" in err

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
            "inferometer demo: argument --duration: 0 is not from 1 to 86400 seconds; see inferometer demo --help\n",
        ),
        (
            ["demo", "--rate", "fast"],
            "inferometer demo: argument --rate: invalid _rate value: 'fast'; see inferometer demo --help\n",
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
    assert (status, json.loads(out)) == (0, {"ok": True, "files": []})
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
    assert err == ("inferometer: path 'a..b' has an empty part; write \\. for a dot inside a key\n")


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
    assert err.startswith("inferometer: kafka.topics is empty; ") and err.count("\n") == 1


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

"""`plan --url`: what a configuration would change in a running agent, and series of verdicts and drift."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.cli import main
from agent.commands import plan, plan_diff
from agent.config import Baseline, Budget, Config, Export, Model, Monitor, Source, Windows
from agent.config import Judge as JudgeOptions
from agent.config.monitors import Select, When
from agent.judge.engine import Judge
from agent.judge.watching import watching
from agent.judging import JudgingFold
from agent.telemetry import Telemetry
from agent.types import Json
from agent.verdict import Judged, Severity
from tests.support.profiles import WIDTH_MS, Row, by_window, normal_windows, profiles, write_events

SLOW = Monitor(name="slow", metric="latency_p99", when=When(above=0.5))
RUNNING = Config(
    judge=JudgeOptions(learn_windows=12),
    monitors=[SLOW],
    baselines={"last": Baseline(type="past", windows=10)},
    sources=[Source(name="feed", features=["x"])],
)


def seen(config: Config, windows: list[list[Row]], folder: Path) -> JudgingFold:
    """A judging fold that has sealed these windows, as an agent that read them has."""
    judge = Judge(config)
    fold = JudgingFold(config, start_ns=1, judge=judge, telemetry=Telemetry())
    judged = Judged()
    for sealed in by_window(profiles(folder, windows)):
        until = sealed[0].window + 1
        judged.add(judge.sealed(sealed, until, until * WIDTH_MS * 1_000_000))
    fold.standing.note(judged)
    return fold


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Json:
    """The state of an agent that has learned model m."""
    rows = normal_windows(1, 14, 200)
    return seen(RUNNING, rows, tmp_path_factory.mktemp("s")).state(0)


@contextmanager
def served(body: bytes) -> Iterator[str]:
    """The address of a server that answers `/v1/state` with these bytes."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/v1/state" else 404)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()


def compared(config: Config, state: Json, **references: str) -> Json:
    document = plan_diff.compare(config, plan.predict(config), "http://agent", state, references)
    return plan_diff.as_json(document)


NOTHING: Json = {"new": [], "gone": [], "changed": []}


def test_the_same_configuration_changes_nothing(state: Json) -> None:
    found = compared(RUNNING, state)
    for part in ("windows", "monitors", "baselines", "sources", "models", "references"):
        assert found[part] == NOTHING
    assert found["judges"] is True
    text = plan_diff.as_text(
        plan_diff.compare(RUNNING, plan.predict(RUNNING), "http://agent", state, {})
    )
    assert "what is watched stays the same" in text


def test_monitors_baselines_sources_and_windows_are_new_gone_or_changed(state: Json) -> None:
    wanted = Config(
        judge=JudgeOptions(learn_windows=12, days_per_false_page=90.0),
        windows=Windows(width_s=300.0),
        monitors=[
            Monitor(
                name="slow", metric="latency_p99", when=When(above=0.25), severity=Severity.TICKET
            ),
            Monitor(name="gaps", metric="missing_rate", when=When(above=0.1)),
        ],
        baselines={"stable": Baseline(type="twin", version="1")},
        sources=[Source(name="feed", features=["x", "y"])],
    )
    found = compared(wanted, state)
    assert found["monitors"]["new"] == ["gaps"]
    changed = {
        (c["name"], c["option"]): (c["was"], c["will"]) for c in found["monitors"]["changed"]
    }
    assert changed == {
        ("defaults", "days_per_false_page"): (30.0, 90.0),
        ("slow", "severity"): ("page", "ticket"),
        ("slow", "when"): (
            {"above": 0.5, "below": None, "changes_by": None},
            {"above": 0.25, "below": None, "changes_by": None},
        ),
    }
    assert found["baselines"] == {"new": ["stable"], "gone": ["last"], "changed": []}
    assert [c["option"] for c in found["sources"]["changed"]] == ["features"]
    assert found["windows"]["changed"] == [
        {"name": "width_s", "option": None, "was": 60.0, "will": 300.0}
    ]
    # Learned in windows of another width: it does not hold any more.
    assert found["references"]["gone"] == ["m 1"]


def test_models_and_references_are_compared_with_what_the_agent_has_seen(state: Json) -> None:
    wanted = Config(judge=RUNNING.judge, models=[Model(name="new-one")])
    found = compared(wanted, state, m="january")
    assert (found["models"]["new"], found["models"]["gone"]) == (["new-one"], ["m"])
    (changed,) = found["references"]["changed"]
    assert (changed["name"], changed["will"]) == ("m 1", "january")
    assert changed["was"] == state["judge"]["models"][0]["baseline"] != "january"
    assert found["monitors"]["gone"] == ["slow"]


def test_use_of_the_budget_is_beside_what_is_planned_and_allowed(state: Json) -> None:
    wanted = Config(
        judge=RUNNING.judge, models=[Model(name="m", features=2)], budget=Budget(max_series=500)
    )
    found = compared(wanted, state)
    predicted = plan.predict(wanted)
    assert predicted.expected is not None
    assert found["series"] == {
        "used": state["budget"]["series"]["used"],
        "planned": predicted.expected.series,
        "limit_was": 20_000,
        "limit_will": 500,
    }
    assert (
        predicted.expected.series > predicted.declared.series
    )  # verdicts and drift are series too
    none = compared(RUNNING, state)["series"]
    assert none["planned"] is None  # neither declared nor a sample: nothing is known


def test_an_agent_that_judges_nothing_is_said_and_its_budget_compared(state: Json) -> None:
    found = compared(RUNNING, {"budget": state["budget"]})
    assert found["judges"] is False
    assert found["monitors"] == NOTHING
    assert found["streams"]["limit_was"] == 500


def test_the_command_prints_the_difference(
    state: Json, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new.yaml"
    path.write_text(
        yaml.safe_dump({"monitors": [{"name": "p", "metric": "p99", "when": {"above": 3.0}}]})
    )
    with served(json.dumps(state).encode()) as url:
        assert main(["plan", "-c", str(path), "--url", url]) == 0
        table = capsys.readouterr().out
        assert main(["plan", "-c", str(path), "--url", f"{url}/", "--json"]) == 0
        document = json.loads(capsys.readouterr().out)
        assert main(["inventory", "--url", url, "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == state["judge"]["inventory"]
    assert f"Against the agent at {url}" in table
    assert "+ monitor p\n" in table and "- monitor slow\n" in table and "- source feed\n" in table
    assert "~ monitor defaults: learn_windows 12 -> " in table
    assert document["running"]["monitors"]["new"] == ["p"]


@pytest.mark.parametrize(
    ("body", "said"),
    [(b"<html>", "is not JSON"), (b"[]", "is not an agent's state"), (b'{"a": 1}', "is this an")],
)
def test_what_is_no_agent_is_said(
    body: bytes, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("{}\n")
    with served(body) as url:
        assert main(["plan", "-c", str(path), "--url", url]) != 0
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_an_address_that_is_none_or_answers_nothing_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("{}\n")
    with served(b"") as url:
        pass  # closed again: nobody listens there
    for address, said in ((url, "is the agent up"), ("agent:9464", "must begin with http")):
        assert main(["plan", "-c", str(path), "--url", address]) != 0
        assert said in capsys.readouterr().err


def test_what_is_watched_holds_no_part_that_changes_no_verdict() -> None:
    quiet = Config(judge=JudgeOptions(enabled=False))
    assert watching(quiet)["monitors"] == {}
    twice = [watching(RUNNING), json.loads(json.dumps(watching(RUNNING)))]
    assert twice[0] == twice[1]  # plain data, as it comes back from a page


# ---------------------------------------------------------------- series


@pytest.mark.parametrize("shown", ["none", "values", "bounds"])
def test_series_of_verdicts_and_drift_stay_below_what_is_planned(
    shown: Any, tmp_path: Path
) -> None:
    """A stream that learns, is calm, breaks, and is well again, watched by defaults and monitors."""
    rows = normal_windows(1, 16, 120) + normal_windows(2, 3, 120, 2.0) + normal_windows(3, 5, 120)
    rows += [rows[-1][:5], *normal_windows(4, 2, 120)]  # a window of too few rows
    config = Config(
        judge=JudgeOptions(learn_windows=12),
        export=Export(drift=shown),
        monitors=[
            SLOW,
            Monitor(name="mean", metric="mean", when=When(above=1.0)),
            Monitor(name="x", metric="drift", select=Select(feature="x")),
        ],
    )
    fold = seen(config, rows, tmp_path)
    path = write_events(tmp_path / "again.jsonl", rows)
    forecast = plan.predict(config, path).monitors
    assert forecast is not None
    metrics = {metric.name: len(metric.points) for metric in fold.snapshot(10**18).metrics}
    verdicts = sum(n for name, n in metrics.items() if name.startswith("inference.verdict."))
    drift = sum(n for name, n in metrics.items() if name.startswith("inference.drift."))
    assert 0 < verdicts <= forecast.verdict_series
    assert drift <= forecast.drift_series <= config.export.max_drift_series
    assert (drift > 0) is (shown != "none")

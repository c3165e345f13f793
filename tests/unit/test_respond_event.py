"""A verdict as a CloudEvent: its attributes follow the specification, its data the published schema."""

import math
import re
from pathlib import Path
from typing import Any

import jsonschema
import orjson
import pytest

from agent.config.source import load_config
from agent.respond.event import CONTENT_TYPE, MAX_CAUSES, alarm_of, event_of
from agent.types import StreamKey
from agent.verdict import Cause, State, Verdict, identity
from tests.support.verdicts import verdict

SCHEMA = Path(__file__).parents[2] / "deploy" / "response" / "verdict.schema.json"
SOURCE = "/inferometer/fleet"


def read(one: Verdict) -> dict[str, Any]:
    event = event_of(one, SOURCE)
    document = orjson.loads(event.body)
    assert document["id"] == event.id == identity(one)
    jsonschema.Draft202012Validator(
        orjson.loads(SCHEMA.read_bytes()), format_checker=jsonschema.FormatChecker()
    ).validate(document)
    return dict(document)


def test_the_attributes_are_those_of_cloudevents() -> None:
    document = read(verdict())
    assert {k: v for k, v in document.items() if k not in ("id", "data")} == {
        "specversion": "1.0",
        "source": SOURCE,
        "type": "inference.verdict.firing",
        "subject": "flight-delay/7",
        "time": "2026-01-05T11:00:00.000Z",
        "datacontenttype": "application/json",
        "partitionkey": "flight-delay",
        "severity": "page",
    }
    for name in document:
        assert re.fullmatch(r"[a-z0-9]{1,20}", name), "CloudEvents 1.0.2, attribute naming"
    assert CONTENT_TYPE.startswith("application/cloudevents+json")
    assert "." not in document["id"], "a full stop parts what is signed"


def test_the_data_says_all_that_the_verdict_does() -> None:
    data = read(verdict())["data"]
    assert data["stream"] == {
        "model": "flight-delay",
        "version": "7",
        "segment": {"region": "eu"},
    }
    assert (data["state"], data["previous"], data["severity"]) == ("firing", "pending", "page")
    assert (data["feature"], data["source"], data["alarm"]) == ("distance", "weather", "a-1")
    assert (data["window_start"], data["window_end"]) == (
        "2026-01-05T10:00:00.000Z",
        "2026-01-05T11:00:00.000Z",
    )
    assert [cause["feature"] for cause in data["attribution"]] == ["distance", "dep_hour"]
    assert data["attribution"][0]["score"] is None, "infinite has no word in JSON"
    assert data["attribution"][1]["score"] == 4.5


@pytest.mark.parametrize("state", list(State))
def test_every_state_fits_the_schema(state: State) -> None:
    assert read(verdict(state))["type"] == f"inference.verdict.{state.value}"


@pytest.mark.parametrize(
    "changes",
    [
        {"stream": StreamKey("", "", ()), "alarm": "", "feature": None, "source": None},
        {"value": math.inf, "threshold": math.nan, "minimum_effect": None, "attribution": ()},
        {"window_start_ms": -(1 << 62), "window_end_ms": 1 << 62},
        {"stream": StreamKey("m\n\u2028", "\x00", (("a b", "ü"),)), "why": "\ufffd odd"},
        {"attribution": tuple(Cause(statistic="loc", score=float(i)) for i in range(100))},
    ],
    ids=["nothing named", "not finite", "no calendar", "odd text", "many causes"],
)
def test_what_is_odd_still_makes_an_event(changes: dict[str, Any]) -> None:
    document = read(verdict(**changes))
    assert len(document["data"]["attribution"]) <= MAX_CAUSES


def test_an_alarm_has_a_name_also_where_the_judge_gave_none() -> None:
    assert alarm_of(verdict()) == "a-1"
    nameless = verdict(alarm="")
    assert alarm_of(nameless) == alarm_of(verdict(State.RESOLVED, alarm=""))
    assert alarm_of(nameless) != alarm_of(verdict(alarm="", monitor="other"))


def test_the_event_and_the_options_in_the_documentation_are_right(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "response.md").read_text()
    (shown,) = re.findall(r"```json\n(.*?)```", page, re.S)
    document = orjson.loads(shown)
    jsonschema.validate(document, orjson.loads(SCHEMA.read_bytes()))
    assert document.keys() == orjson.loads(event_of(verdict(), SOURCE).body).keys()
    assert document["data"].keys() == orjson.loads(event_of(verdict(), SOURCE).body)["data"].keys()
    (options,) = re.findall(r"```yaml\n(.*?)```", page, re.S)
    path = tmp_path / "inferometer.yaml"
    path.write_text(options)
    assert [action.name for action in load_config(path, {}).respond.actions] == ["rollback"]

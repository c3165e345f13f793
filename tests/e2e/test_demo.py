"""The whole demo, as a stranger runs it: real agent, model server and broker in processes of their own."""

import json
import subprocess
import sys

import pytest

from agent.demo.flights import CATEGORICAL, FEATURES
from tests.support import marked
from tests.support.wait import eventually_sync

DURATION_S = 25


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """One run: the document, what was said on stderr, and the environment that marks its processes."""
    environment = marked.mark() | {"TMPDIR": str(tmp_path_factory.mktemp("demo"))}
    done = subprocess.run(
        [sys.executable, "-m", "agent", "demo", "--duration", str(DURATION_S), "--json"],
        env=environment,
        capture_output=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout), done.stderr.decode(), environment


pytestmark = pytest.mark.timeout(240)


def test_every_produced_inference_and_label_is_counted(demo):
    document, errors, _ = demo
    assert list(document) == [
        *("produced", "counted", "labels", "streams", "injected", "caught"),
        *("canary", "verdicts", "actions"),
    ]
    assert document["produced"] == document["counted"] > 60_000
    assert 0.9 * document["counted"] < document["labels"] < document["counted"]
    assert "Traceback" not in errors


def test_every_injected_break_is_caught_within_seconds(demo):
    document, _, _ = demo
    assert [each["what"] for each in document["injected"]] == [
        "JFK weather feed turned null",
        "distance feed changed unit: miles to km",
    ]
    assert [each["what"] for each in document["caught"]] == [
        each["what"] for each in document["injected"]
    ]
    for fault, caught in zip(document["injected"], document["caught"], strict=True):
        assert fault["at_s"] > DURATION_S * 0.3
        assert 0 < caught["after_s"] < 10


def test_streams_add_up_to_what_was_produced(demo):
    document, _, _ = demo
    streams = {(s["version"], s["segment"]["origin"]): s for s in document["streams"]}
    airports = ["EWR", "JFK", "LGA"]
    assert sorted(streams) == [(version, origin) for version in "12" for origin in airports]
    assert sum(stream["rows"] for stream in streams.values()) == document["produced"]
    for stream in streams.values():
        assert stream["model"] == "flight-delay"
        assert set(stream["features"]) == set(FEATURES)
        for name, column in stream["features"].items():
            kind = "categorical" if name in CATEGORICAL else "numeric"
            assert column["kind"] == (kind if column["count"] else None)
            assert column["count"] + column["missing"] == stream["rows"]
            assert column["violations"] == 0
            assert "histogram" not in column
        assert stream["latency"]["count"] == stream["rows"]
        labels = dict(stream["predictions"]["label"]["top"])
        assert labels.get("late", 0) + labels.get("on_time", 0) == stream["rows"]


def test_each_break_is_one_alarm_that_names_its_source(demo):
    document, _, _ = demo
    firing = [v for v in document["verdicts"] if v["state"] == "firing"]
    assert [(v["monitor"], v["source"], v["severity"]) for v in firing] == [
        ("contract", "weather", "page"),
        ("distance", "distance", "page"),
        ("canary", None, "page"),
    ]
    weather, distance, _ = firing
    assert {cause["feature"] for cause in weather["attribution"]} >= {"temp", "dewp", "humid"}
    airports = [c for c in weather["attribution"] if c["segment"]]
    assert airports[0]["segment"] == {"origin": "JFK"}
    assert airports[0]["share"] > 0.9
    assert "distance" in [cause["feature"] for cause in distance["attribution"]]


def test_the_canary_is_caught_by_its_twin_and_rolled_back_through_the_webhook(demo):
    document, _, _ = demo
    (action,) = document["actions"]
    assert (action["action"], action["subject"]) == ("rollback", "flight-delay/2")
    assert action["type"] == "inference.verdict.firing"
    assert action["verified"] is True
    canary = document["canary"]
    assert 0 < canary["after_s"] < 10
    assert canary["after_s"] <= canary["rolled_back_s"] < 12
    rows = [s["rows"] for s in document["streams"] if s["version"] == "2"]
    assert 0 < sum(rows) < document["produced"] * 0.02, "its traffic ended early"


def test_the_silent_weather_feed_shows_in_jfks_missing_values_only(demo):
    document, _, _ = demo
    rates = {
        stream["segment"]["origin"]: stream["features"]["temp"]["missing"] / stream["rows"]
        for stream in document["streams"]
        if stream["version"] == "1"
    }
    assert rates["JFK"] > 0.4
    assert rates["EWR"] < 0.02
    assert rates["LGA"] < 0.02


def test_no_process_is_left(demo):
    environment = demo[2]
    eventually_sync(lambda: not marked.processes(environment), timeout_s=5)


def test_nothing_is_left_in_the_folder_for_temporary_files(demo, tmp_path_factory):
    assert not list((tmp_path_factory.getbasetemp()).glob("demo*/inferometer-demo-*"))


def test_a_real_broker_and_a_receiver_get_the_same_demo(real_kafka, otlp_receiver):
    before = set(real_kafka.admin.list_topics(timeout=10).topics)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "agent", "demo", "--duration", "12", "--json"),
            *("--kafka", real_kafka.bootstrap, "--otlp", otlp_receiver.grpc_endpoint),
        ],
        capture_output=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr.decode()
    document = json.loads(done.stdout)
    assert document["produced"] == document["counted"] > 20_000
    assert len(document["caught"]) == 2
    assert len(document["actions"]) == 1
    # The agent's last export is made while it stops: everything has arrived.
    assert otlp_receiver.points("inference.rows").total() == document["counted"]
    assert otlp_receiver.spans()
    after = set(real_kafka.admin.list_topics(timeout=10).topics)
    assert not {name for name in after - before if name.startswith("demo-")}

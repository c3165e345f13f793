"""Counts, faults and findings of a run, and its verdict."""

import orjson
import pytest

from agent.demo import report
from agent.demo.flights import DAY_MS, YEAR_START_MS
from agent.demo.main import days_for, run
from agent.demo.story import Story
from agent.demo.watch import Finding
from agent.errors import ConfigError

FAULT_DAY = 100


def fault(**changes):
    message = {
        "event": "injected",
        "what": "weather null",
        "streams": ["JFK"],
        "features": ["temp", "dewp"],
        "at_s": 33.0,
        "sim_ms": YEAR_START_MS + FAULT_DAY * DAY_MS + 1000,
    }
    return message | changes


def finding(day=FAULT_DAY + 1, stream="JFK", feature="temp"):
    return Finding("null", stream, feature, 0.0, 1.0, float("nan"), YEAR_START_MS + day * DAY_MS)


@pytest.fixture
def story():
    made = Story(365, 120.0, YEAR_START_MS)
    made.take_message(fault())
    made.take_message({"event": "done", "produced": 900, "labels": 800})
    made.take_state({"tally": {"rows": 900, "labels": 800, "dropped": {}}, "streams": []}, 40.0)
    return made


def test_a_finding_in_the_faults_columns_catches_it(story):
    story.take_findings([finding(), finding(feature="dewp")], 34.5)
    assert story.injected[0].after_s == 1.5
    assert [entry.features for entry in story.entries] == [["temp", "dewp"]]
    assert report.failures(story, 0) == []


def test_the_day_in_which_the_fault_began_counts(story):
    story.take_findings([finding(day=FAULT_DAY)], 34.0)
    assert story.injected[0].after_s == 1.0


@pytest.mark.parametrize(
    "other",
    [finding(day=FAULT_DAY - 1), finding(stream="LGA"), finding(feature="distance")],
    ids=["before it", "another stream", "another feature"],
)
def test_other_findings_do_not_catch_it(story, other):
    story.take_findings([other], 34.0)
    assert story.injected[0].after_s is None
    assert story.entries[0].injected is None
    assert report.failures(story, 0) == ["not caught: weather null"]


def test_the_first_finding_decides_the_delay(story):
    story.take_findings([finding()], 34.0)
    story.take_findings([finding(day=FAULT_DAY + 9)], 37.0)
    assert story.injected[0].after_s == 1.0


@pytest.mark.parametrize(
    ("tally", "reason"),
    [
        ({"rows": 899}, "produced 900 inferences, but counted 899"),
        ({"labels": 801}, "produced 800 labels, but counted 801"),
        ({"dropped": {"invalid_json": 2}}, "2 records were dropped: {'invalid_json': 2}"),
    ],
)
def test_unequal_counts_are_a_failure_that_says_so(story, tally, reason):
    story.take_findings([finding()], 34.0)
    state = {"tally": {"rows": 900, "labels": 800, "dropped": {}} | tally, "streams": []}
    story.take_state(state, 41.0)
    assert report.failures(story, 0) == [reason]


def test_unacknowledged_records_and_no_fault_are_failures():
    empty = Story(365, 120.0, YEAR_START_MS)
    assert report.failures(empty, 3) == [
        "3 records were not acknowledged by the broker",
        "no fault was injected: the run ended before its half",
    ]


def test_the_document_has_exactly_the_promised_keys(story):
    story.take_findings([finding()], 34.0)
    column = {"kind": "numeric", "count": 3, "histogram": {"scale": 5}}
    stream = {
        "model": "m",
        "version": "1",
        "segment": {},
        "rows": 3,
        "errors": 0,
        "totals": {
            "features": {"a": column},
            "predictions": {"score": column},
            "latency": None,
            "usage": {},
        },
    }
    story.take_state({**story.state, "streams": [stream]}, 42.0)
    body = orjson.loads(orjson.dumps(report.document(story)))
    assert list(body) == ["produced", "counted", "labels", "streams", "injected", "caught"]
    assert (body["produced"], body["counted"], body["labels"]) == (900, 900, 800)
    assert body["streams"][0]["features"] == {"a": {"kind": "numeric", "count": 3}}
    assert body["streams"][0]["prediction"] == {"kind": "numeric", "count": 3}
    assert body["injected"] == [{"what": "weather null", "at_s": 33.0}]
    assert body["caught"] == [{"what": "weather null", "after_s": 1.0}]


def test_rates_are_those_of_the_last_seconds():
    story = Story(365, 120.0, YEAR_START_MS)
    for second in range(10):
        rows = 1000 * second if second < 5 else 5000 + 100 * (second - 5)
        story.take_state({"tally": {"rows": rows, "labels": 2 * rows}}, float(second))
    assert story.rates() == pytest.approx((100, 200))


def test_two_minutes_hold_the_year_and_less_time_holds_less():
    assert days_for(120) == 365
    assert days_for(600) == 365
    assert days_for(24) == 73
    assert days_for(5) == 24
    assert days_for(60, rate=1000) == 65


def test_arguments_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="--duration is 2; must be at least 5 seconds"):
        run(duration_s=2, headless=True)

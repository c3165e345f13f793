"""Counts, faults, alarms and actions of a run, and its verdict."""

import orjson
import pytest

from agent.demo import report
from agent.demo.flights import DAY_MS, YEAR_START_MS
from agent.demo.main import days_for, run
from agent.demo.story import Story
from agent.errors import ConfigError
from tests.support.demo_states import event

FAULT_DAY = 100


def fault(**changes):
    message = {
        "event": "injected",
        "what": "weather null",
        "feed": "weather",
        "streams": ["JFK"],
        "features": ["temp", "dewp"],
        "at_s": 33.0,
        "sim_ms": YEAR_START_MS + FAULT_DAY * DAY_MS + 1000,
    }
    return message | changes


def alarm(day=FAULT_DAY + 1, **changes):
    known = {"source": "weather", "features": ["temp", "dewp"], "origin": "JFK"}
    return event("contract", day, **(known | changes))


@pytest.fixture
def story():
    made = Story(365, 120.0, YEAR_START_MS)
    made.take_message(fault())
    made.take_message({"event": "done", "produced": 900, "labels": 800})
    made.take_state({"tally": {"rows": 900, "labels": 800, "dropped": {}}, "streams": []}, 40.0)
    return made


@pytest.fixture
def with_canary(story):
    story.take_event("on-call", alarm(), 34.0)
    sim_ms = YEAR_START_MS + 200 * DAY_MS
    story.take_message({"event": "canary", "version": "2", "at_s": 50.0, "sim_ms": sim_ms})
    return story


def test_an_alarm_that_names_the_feed_catches_the_fault(story):
    assert not story.take_event("on-call", alarm(), 34.5)
    assert story.injected[0].after_s == 1.5
    (found,) = story.alarms.values()
    assert found.features == ["temp", "dewp"]
    assert found.segments == ["JFK"]
    assert found.sentence() == "weather JFK: temp, dewp: 32.6% of rows have no value"
    assert report.failures(story, 0) == []


def test_the_day_in_which_the_fault_began_counts(story):
    story.take_event("on-call", alarm(FAULT_DAY), 34.0)
    assert story.injected[0].after_s == 1.0


@pytest.mark.parametrize(
    "other",
    [
        alarm(FAULT_DAY - 1),
        alarm(source="distance", features=["distance"]),
        alarm(features=["pressure"]),
        alarm(severity="ticket"),
        alarm(version="2"),
    ],
    ids=["before it", "another feed", "another feature", "a ticket", "another version"],
)
def test_other_alarms_do_not_catch_it(story, other):
    story.take_event("on-call", other, 34.0)
    assert story.injected[0].after_s is None
    assert [each.fault for each in story.alarms.values()] == [None]
    assert report.failures(story, 0) == ["not caught: weather null"]


def test_an_alarm_is_one_from_firing_to_resolved(story):
    story.take_event("on-call", alarm(), 34.0)
    assert story.broken("JFK") == {"temp", "dewp"}
    assert story.broken("LGA") == set()
    story.take_event("on-call", alarm(FAULT_DAY + 9, state="resolved"), 37.0)
    assert len(story.alarms) == 1
    assert story.injected[0].after_s == 1.0
    assert story.broken() == set()
    assert [verdict["state"] for verdict in story.verdicts] == ["firing", "resolved"]


def test_the_twins_alarm_catches_the_canary(with_canary):
    with_canary.take_event("on-call", event("canary", 201, version="2"), 51.5)
    assert with_canary.canary.after_s == 1.5
    assert with_canary.broken() == {"temp", "dewp"}, (
        "the stable version's features are another matter"
    )
    assert report.failures(with_canary, 0) == [
        "the canary was caught, but no rollback reached the webhook"
    ]


def test_a_rollback_event_asks_for_a_rollback_once_it_fires(with_canary):
    with_canary.take_event("on-call", event("canary", 201, version="2"), 51.5)
    assert with_canary.take_event("rollback", event("canary", 201, version="2"), 51.6)
    assert with_canary.actions == [
        {
            "action": "rollback",
            "at_s": 51.6,
            "id": "canary-2-firing",
            "type": "inference.verdict.firing",
            "subject": "flight-delay/2",
            "alarm": "canary:flight-delay/2",
            "verified": True,
        }
    ]
    with_canary.take_message({"event": "rolled_back", "at_s": 52.0})
    assert with_canary.canary.rolled_back_s == 2.0
    assert report.failures(with_canary, 0) == []
    assert "webhook: rollback of flight-delay/2, signature verified" in report.text(with_canary)


def test_a_canary_that_nobody_noticed_is_a_failure(with_canary):
    assert report.failures(with_canary, 0) == [
        "not caught: canary v2 is worse than its stable twin"
    ]


@pytest.mark.parametrize(
    ("tally", "reason"),
    [
        ({"rows": 899}, "produced 900 inferences, but counted 899"),
        ({"labels": 801}, "produced 800 labels, but counted 801"),
        ({"dropped": {"invalid_json": 2}}, "2 records were dropped: {'invalid_json': 2}"),
    ],
)
def test_unequal_counts_are_a_failure_that_says_so(story, tally, reason):
    story.take_event("on-call", alarm(), 34.0)
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
    story.take_event("on-call", alarm(), 34.0)
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
    assert list(body) == [
        *("produced", "counted", "labels", "streams", "injected", "caught"),
        *("canary", "verdicts", "actions"),
    ]
    assert (body["produced"], body["counted"], body["labels"]) == (900, 900, 800)
    assert body["streams"][0]["features"] == {"a": {"kind": "numeric", "count": 3}}
    assert body["streams"][0]["prediction"] == {"kind": "numeric", "count": 3}
    assert body["injected"] == [{"what": "weather null", "at_s": 33.0}]
    assert body["caught"] == [{"what": "weather null", "after_s": 1.0}]
    assert body["canary"] is None
    assert [(v["source"], v["at_s"]) for v in body["verdicts"]] == [("weather", 34.0)]
    assert body["actions"] == []


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

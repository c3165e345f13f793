"""What is shown of sealed windows: January, the last seven days, and how far apart they are."""

import numpy as np
import orjson
import pytest

from agent import cli
from agent.demo.flights import DAY_MS, FEATURES, YEAR_START_MS
from agent.demo.watch import SCORE, Values, Watch, compare, late_share, latency_quantile, merge
from tests.support.demo_states import numeric_column, ordinary_day, stream

ROWS = 300


@pytest.fixture
def rng():
    return np.random.default_rng(3)


@pytest.fixture
def watch():
    return Watch(start_ms=YEAR_START_MS)


def feed_days(watch, rng, days, change=lambda day, features: features, **more):
    for day in days:
        features = change(day, ordinary_day(rng, "JFK", ROWS))
        watch.feed({"streams": [stream("JFK", day, features, ROWS, **more)]})


def jfk(watch):
    return [watch.streams["1", "JFK"]]


def kilometres(day, features):
    values = np.random.default_rng(day).choice([100.0, 200.0, 400.0, 800.0, 1600.0], ROWS)
    return features | {"distance": numeric_column(values * 1.609344)}


def test_windows_already_seen_are_not_taken_twice(watch, rng):
    state = {"streams": [stream("JFK", 0, ordinary_day(rng, "JFK"), ROWS)]}
    watch.feed(state)
    watch.feed(state)
    assert len(jfk(watch)[0].days) == 1


def test_the_reference_is_what_was_built_of_the_file(watch, rng, tmp_path):
    distances = rng.choice([100.0, 200.0, 400.0, 800.0], 600)
    events = [
        {
            "ts": YEAR_START_MS + i * 60_000,
            "model": "flight-delay",
            "version": "1",
            "features": {"distance": value, "temp": 40.0 if i % 3 else None, "carrier": "UA"},
            "prediction": {"score": 0.25},
            "segment": {"origin": ("EWR", "JFK")[i % 2]},
        }
        for i, value in enumerate(distances.tolist())
    ]
    data, reference = tmp_path / "january.jsonl", tmp_path / "january.profile"
    data.write_bytes(b"\n".join(orjson.dumps(e) for e in events))
    assert cli.main(["profile", "build", str(data), "-o", str(reference), "--window", "3600"]) == 0
    watch.refer_to(reference)
    held = watch.reference
    assert set(held) == {*FEATURES, SCORE}
    assert held["distance"].rows == 600
    assert held["distance"].histogram.total == 600
    assert held["temp"].missing == 200
    assert held[SCORE].present == 600
    assert held["humid"].missing == 600


def test_seven_days_are_recent(watch, rng):
    feed_days(watch, rng, range(20))
    watch.reference["distance"] = watch.overall("distance")[1]
    feed_days(watch, rng, range(20, 40), kilometres)
    reference, recent = watch.overall("distance")
    assert recent.rows == 7 * ROWS
    assert compare(reference, recent).corrected > 1


def test_merged_values_are_those_of_all_parts(rng):
    parts = [rng.lognormal(0, 1, 200), rng.lognormal(2, 1, 100)]
    parts[0][:10] = np.nan
    merged = merge(Values.from_json(numeric_column(p), len(p)) for p in parts)
    whole = Values.from_json(numeric_column(np.concatenate(parts)), 300)
    assert (merged.rows, merged.missing) == (300, 10)
    assert merged.histogram.counts.tolist() == whole.histogram.counts.tolist()
    assert merged.histogram.keys.tolist() == whole.histogram.keys.tolist()


def test_late_share_and_latency_cover_the_last_week(watch, rng):
    feed_days(watch, rng, range(10), late=30)
    feed_days(watch, rng, range(10, 17), late=60)
    assert late_share(jfk(watch)) == pytest.approx(60 / ROWS)
    assert latency_quantile(jfk(watch), 0.5) == pytest.approx(0.002, rel=0.02)
    assert watch.late_by_week[0] == (7 * 30, 7 * ROWS)
    assert watch.newest_ms == YEAR_START_MS + 17 * DAY_MS


def test_the_canarys_airports_are_one_group(watch, rng):
    features = ordinary_day(rng, "JFK", ROWS)
    bodies = [stream(origin, 0, features, ROWS) for origin in ("LGA", "JFK")]
    watch.feed({"streams": bodies + [body | {"version": "2"} for body in bodies]})
    assert {name: len(streams) for name, streams in watch.groups().items()} == {
        "origin JFK": 1,
        "origin LGA": 1,
        "canary v2": 2,
    }


def test_every_feature_of_an_event_is_shown(watch, rng):
    feed_days(watch, rng, range(1))
    assert set(FEATURES) <= set(jfk(watch)[0].days[0].columns)

"""What counts as a break, and what does not."""

import numpy as np
import pytest

from agent.demo.flights import DAY_MS, FEATURES, YEAR_START_MS
from agent.demo.watch import Values, Watch, compare, late_share, latency_quantile, merge
from tests.support.demo_states import numeric_column, ordinary_day, stream

ROWS = 300


@pytest.fixture
def rng():
    return np.random.default_rng(3)


@pytest.fixture
def watch():
    return Watch(start_ms=YEAR_START_MS, reference_days=14)


def feed_days(watch, rng, days, change=lambda day, features: features, **more):
    found = []
    for day in days:
        features = change(day, ordinary_day(rng, "JFK", ROWS))
        found += watch.feed({"streams": [stream("JFK", day, features, ROWS, **more)]})
    return found


def nulls(features, name, rows=ROWS):
    values = np.full(ROWS, 100.0)
    values[:rows] = np.nan
    return features | {name: numeric_column(values)}


def test_ordinary_days_are_no_break(watch, rng):
    assert feed_days(watch, rng, range(60)) == []


def test_a_feature_that_turns_null_is_found_in_its_first_whole_day(watch, rng):
    feed_days(watch, rng, range(30))
    found = feed_days(watch, rng, [30], lambda _, f: nulls(f, "temp"))
    assert [(f.kind, f.stream, f.feature) for f in found] == [("null", "JFK", "temp")]
    assert found[0].before == 0.0
    assert found[0].after == 1.0
    assert found[0].from_ms == YEAR_START_MS + 30 * DAY_MS
    assert watch.is_broken("temp")


def test_a_day_that_is_half_null_does_not_hide_the_next(watch, rng):
    feed_days(watch, rng, range(30))
    assert feed_days(watch, rng, [30], lambda _, f: nulls(f, "temp", ROWS // 2)) == []
    found = feed_days(watch, rng, [31], lambda _, f: nulls(f, "temp"))
    assert [f.feature for f in found] == ["temp"]


def test_a_feature_that_vanishes_counts_as_null(watch, rng):
    feed_days(watch, rng, range(30))
    found = feed_days(
        watch, rng, [30], lambda _, f: {name: f[name] for name in f if name != "distance"}
    )
    assert [(f.kind, f.feature) for f in found] == [("null", "distance")]


def test_a_feature_that_often_misses_half_its_values_is_not_reported_for_it(watch, rng):
    assert (
        feed_days(
            watch, rng, range(60), lambda d, f: nulls(f, "pressure", ROWS // 2 * (d % 3 == 0))
        )
        == []
    )


def test_each_break_is_reported_once(watch, rng):
    feed_days(watch, rng, range(30))
    found = feed_days(watch, rng, range(30, 50), lambda _, f: nulls(f, "temp"))
    assert len(found) == 1


def kilometres(day, features):
    values = np.random.default_rng(day).choice([100.0, 200.0, 400.0, 800.0, 1600.0], ROWS)
    return features | {"distance": numeric_column(values * 1.609344)}


def test_a_unit_change_is_found_on_its_second_day(watch, rng):
    feed_days(watch, rng, range(30))
    assert feed_days(watch, rng, [30], kilometres) == []
    found = feed_days(watch, rng, [31], kilometres)
    assert [(f.kind, f.feature) for f in found] == [("shift", "distance")]
    assert found[0].psi > 1
    assert found[0].after / found[0].before == pytest.approx(1.609344, rel=0.03)
    assert found[0].from_ms == YEAR_START_MS + 30 * DAY_MS


def test_one_odd_day_is_no_shift(watch, rng):
    feed_days(watch, rng, range(30))
    assert feed_days(watch, rng, [30], kilometres) == []
    assert feed_days(watch, rng, range(31, 60)) == []


def test_a_feature_that_is_never_quiet_does_not_shift(watch):
    def weather(day, features):
        centre = np.random.default_rng(day).uniform(50, 500)
        return features | {
            "temp": numeric_column(np.random.default_rng(day).normal(centre, 5, ROWS))
        }

    assert feed_days(watch, np.random.default_rng(1), range(80), weather) == []


def test_windows_already_seen_are_not_taken_twice(watch, rng):
    state = {"streams": [stream("JFK", 0, ordinary_day(rng, "JFK"), ROWS)]}
    watch.feed(state)
    watch.feed(state)
    assert len(watch.streams["JFK"].days) == 1
    assert watch.streams["JFK"].reference["temp"].rows == ROWS


def test_the_reference_is_the_first_weeks_and_then_stays(watch, rng):
    feed_days(watch, rng, range(20))
    held = watch.streams["JFK"].reference["distance"]
    assert held.rows == 14 * ROWS
    feed_days(watch, rng, range(20, 40), kilometres)
    assert watch.streams["JFK"].reference["distance"] is held
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
    jfk = watch.streams["JFK"]
    assert late_share(jfk) == pytest.approx(60 / ROWS)
    assert latency_quantile(jfk, 0.5) == pytest.approx(0.002, rel=0.02)
    assert watch.late_by_week[0] == (7 * 30, 7 * ROWS)


def test_every_feature_of_an_event_is_watched(watch, rng):
    feed_days(watch, rng, range(1))
    assert set(FEATURES) <= set(watch.streams["JFK"].reference)

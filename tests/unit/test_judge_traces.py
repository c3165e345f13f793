"""Trace ids of causes: which kept requests a verdict names, how many are held, and what their links say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from agent.fold.profile import Profile
from agent.judge.cells import Prepared
from agent.judge.counted import counted
from agent.judge.reference import ModelKey
from agent.judge.traces import DRAWN, ENDS, MOST_IDS, MOST_LINKS, Traces
from agent.sketch.hash import merge_hash
from agent.sketch.histogram import MAX_SCALE, base_of
from agent.sketch.links import MOST_LINKS as MOST_OF_A_ROW
from agent.sketch.links import is_link, links_of, middle_of, text_bucket
from agent.types import Column, Exemplar, Partition, RequestSpan, Role, SpanWhy, StreamKey
from agent.verdict import Cause, Severity, State, Verdict
from tests.support.blocks import LaneTable, Row, block_of, feature, prediction
from tests.support.profiles import START_MS, WIDTH_MS, by_window, normal_windows, profiles

STREAM = StreamKey("m", "1")
KEY = ModelKey("m", "1")
WINDOW = START_MS // WIDTH_MS


def span_of(number: int, stream: StreamKey = STREAM) -> RequestSpan:
    return RequestSpan(
        trace_id=number.to_bytes(16),
        span_id=number.to_bytes(8),
        parent_span_id=b"",
        link=None,
        trace_state="",
        start_ns=START_MS * 1_000_000,
        end_ns=(START_MS + 1) * 1_000_000,
        stream=stream,
        why=SpanWhy.BASE_RATE,
        status="",
        request_id="",
        partition=Partition("t", 0),
        offset=number,
        row=0,
        sampling_threshold=None,
    )


def linked(values: dict[Column, object], number: int = 1) -> list[Exemplar]:
    """Links of one row with these values."""
    table = LaneTable()
    block = block_of(table, [Row(STREAM, START_MS, values)])
    return links_of(block, 0, table.numeric_lanes[0], table.string_lanes[0], span_of(number))


def link(number: int, value: float, column: Column, window: int = WINDOW) -> Exemplar:
    time_ns = (window * WIDTH_MS + 1) * 1_000_000
    return Exemplar(STREAM, column, middle_of(value), time_ns, number.to_bytes(16), b"")


def verdict_of(causes: Sequence[Cause], state: State = State.FIRING) -> Verdict:
    return Verdict(
        monitor="drift",
        stream=STREAM,
        window_start_ms=START_MS,
        window_end_ms=START_MS + WIDTH_MS,
        state=state,
        previous=State.OK,
        severity=Severity.PAGE,
        value=1.0,
        threshold=1.0,
        attribution=tuple(causes),
    )


# ---------------------------------------------------------------- links


@pytest.mark.parametrize("value", [1e-12, 0.3, 1.0, 3.0, 1024.0, 6.02e18, -7.5])
def test_a_link_holds_the_middle_of_a_bucket_and_not_the_value(value: float) -> None:
    said = middle_of(value)
    bound = math.sqrt(base_of(MAX_SCALE))  # half a bucket, as a ratio
    assert said != value
    assert 1 / bound <= said / value * (1 + 1e-12) and said / value <= bound * (1 + 1e-12)
    assert middle_of(said) == pytest.approx(said, rel=1e-12)  # it is in its own bucket
    assert text_bucket(said) is None


def test_a_row_leaves_links_of_numbers_booleans_and_texts_without_a_text() -> None:
    made = linked(
        {
            feature("n"): 2.5,
            feature("zero"): 0.0,
            feature("flag"): True,
            feature("who"): "somebody",
            feature("gone"): None,
            feature("v"): [1.0, 2.0],
            feature("huge"): 1e30,
            prediction("score"): 0.25,
        }
    )
    assert all(is_link(e) and e.trace_id == (1).to_bytes(16) for e in made)
    found = {e.column.name: e.value for e in made}
    assert found.keys() == {"n", "zero", "flag", "who", "score"}
    assert found["zero"] == 0.0
    # Bits 4 to 11 of the hash, the slice that string sketches count by.
    assert text_bucket(found["who"]) == merge_hash(b"somebody") // 16 % 256


def test_wide_rows_take_turns_so_that_each_column_is_linked() -> None:
    columns = [feature(f"f{i:03}") for i in range(50)]
    rng = np.random.default_rng(1)
    seen: dict[str, int] = {}
    for number in rng.integers(1, 1 << 62, 300).tolist():
        made = linked(dict.fromkeys(columns, 1.5), number)
        assert len(made) == MOST_OF_A_ROW
        for each in made:
            seen[each.column.name] = seen.get(each.column.name, 0) + 1
    assert len(seen) == 50
    assert min(seen.values()) > 10  # 48 on average


# ---------------------------------------------------------------- naming


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Prepared, Profile]:
    """A baseline of x, y and c, and a window in which x is 3 higher, c has a new text, y is gone."""
    before = normal_windows(1, 1, 4000)
    after = normal_windows(2, 1, 1000, 3.0)
    for row in after[0]:
        row["c"], row["y"] = "new", None
    (baseline,) = by_window(profiles(tmp_path_factory.mktemp("a"), before))
    (window,) = by_window(profiles(tmp_path_factory.mktemp("b"), after))
    return Prepared(baseline[0]), window[0]


def ids(verdict: Verdict) -> list[tuple[str, ...]]:
    return [cause.trace_ids for cause in verdict.attribution]


def test_requests_in_the_bins_that_moved_are_named_and_others_are_not(
    moved: tuple[Prepared, Profile],
) -> None:
    baseline, whole = moved
    x = feature("x")
    traces = Traces(WIDTH_MS)
    traces.add([link(n, value, x) for n, value in enumerate((-0.5, 3.2, 0.4, 3.9, -1.5))], None)
    named = traces.name(
        verdict_of([Cause(statistic="loc", score=9.0, feature="x")]), KEY, whole, baseline
    )
    (found,) = ids(named)
    assert set(found) == {(1).to_bytes(16).hex(), (3).to_bytes(16).hex()}


def test_requests_with_a_new_text_are_named_by_its_bucket(
    moved: tuple[Prepared, Profile],
) -> None:
    baseline, whole = moved
    traces = Traces(WIDTH_MS)
    for number, text in enumerate("abc"):
        traces.add(linked({feature("c"): text}, 10 + number), None)
    traces.add(linked({feature("c"): "new"}, 20), None)
    named = traces.name(
        verdict_of([Cause(statistic="unseen", score=9.0, feature="c")]), KEY, whole, baseline
    )
    assert ids(named) == [((20).to_bytes(16).hex(),)]


def test_a_column_that_is_gone_is_gone_in_any_request(moved: tuple[Prepared, Profile]) -> None:
    baseline, whole = moved
    traces = Traces(WIDTH_MS)
    traces.add([link(n, 3.0, feature("x")) for n in range(9)], None)
    gone = Cause(statistic="vanished", score=9.0, feature="y")
    half = Cause(statistic="missing", score=9.0, feature="x")
    named = traces.name(verdict_of([gone, half]), KEY, whole, baseline)
    assert len(ids(named)[0]) == MOST_IDS
    assert ids(named)[1] == ()  # x is there: nobody knows which requests lack it


@pytest.mark.parametrize("statistic", ["pairs", "type", "volume"])
def test_what_is_about_no_value_names_no_request(
    statistic: str, moved: tuple[Prepared, Profile]
) -> None:
    baseline, whole = moved
    traces = Traces(WIDTH_MS)
    traces.add([link(1, 3.5, feature("x"))], None)
    cause = Cause(statistic=statistic, score=9.0, feature="x")
    assert ids(traces.name(verdict_of([cause]), KEY, whole, baseline)) == [()]


def test_a_quiet_verdict_a_strange_model_and_a_learning_one_name_nothing(
    moved: tuple[Prepared, Profile],
) -> None:
    baseline, whole = moved
    traces = Traces(WIDTH_MS)
    traces.add([link(1, 3.5, feature("x"))], None)
    cause = Cause(statistic="loc", score=9.0, feature="x")
    quiet = verdict_of([cause], State.RESOLVED)
    assert traces.name(quiet, KEY, whole, baseline) is quiet
    firing = verdict_of([cause])
    assert traces.name(firing, ModelKey("other", "1"), whole, baseline) is firing
    assert ids(traces.name(firing, KEY, whole, None)) == [()]


def test_only_requests_of_the_segment_are_named_for_a_segment(
    moved: tuple[Prepared, Profile],
) -> None:
    baseline, whole = moved
    traces = Traces(WIDTH_MS)
    eu, us = (StreamKey("m", "1", (("region", r),)) for r in ("eu", "us"))
    for number, stream in enumerate((eu, us, eu)):
        e = link(number, 3.5, feature("x"))
        traces.add([Exemplar(stream, e.column, e.value, e.time_ns, e.trace_id, b"")], None)
    cause = Cause(statistic="loc", score=9.0, feature="x", segment=(("region", "eu"),))
    (found,) = ids(traces.name(verdict_of([cause]), KEY, whole, baseline))
    assert set(found) == {(0).to_bytes(16).hex(), (2).to_bytes(16).hex()}


@pytest.mark.parametrize("values", ["normal", "integers", "signs", "constant"])
def test_a_value_is_placed_where_its_profile_counts_it(values: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    of = {
        "normal": rng.normal(5, 2, 400),
        "integers": rng.integers(-3, 90, 400).astype(float),
        "signs": rng.choice([-1.0, 0.0, 1e-30, 1.0, 1e9], 400),
        "constant": np.full(400, 7.25),
    }[values]
    (sealed,) = by_window(profiles(tmp_path, [[{"x": float(v)} for v in of]]))
    x = Column(Role.FEATURE, "x")
    numbers = counted(sealed[0]).columns[x].numbers
    assert numbers is not None
    base = Prepared(sealed[0]).columns[x].at(numbers.scale)
    counts = np.zeros(len(base.ranks))
    for value in of:
        counts[base.place_of(middle_of(float(value)))] += 1
    assert counts.tolist() == base.placed(numbers).tolist()


# ---------------------------------------------------------------- bounds


def test_links_are_bounded_for_each_column_and_in_all_and_keep_both_ends() -> None:
    x = feature("x")
    traces = Traces(WIDTH_MS)
    rng = np.random.default_rng(5)
    values = rng.permutation(1000).tolist()
    traces.add([link(int(v) + 1, float(v), x) for v in values], None)
    most = 2 * (DRAWN + 2 * ENDS)
    assert len(traces) <= 2 * most  # the column's, and those of all columns
    ends = {n.trace_id for _, held in traces.kept().links for n in held}
    assert {(1).to_bytes(16), (1000).to_bytes(16)} <= ends
    traces.add([link(1, 1.0, feature(f"f{n}")) for n in range(MOST_LINKS + 10)], None)
    assert len(traces) == MOST_LINKS


def test_links_of_judged_windows_are_forgotten_and_taken_no_more() -> None:
    x = feature("x")
    traces = Traces(WIDTH_MS)
    traces.add([link(1, 1.0, x), link(2, 1.0, x, WINDOW + 1)], None)
    traces.forget(WINDOW + 1)
    assert {place.window for place, _ in traces.kept().links} == {WINDOW + 1}
    before = len(traces)
    traces.add([link(3, 1.0, x)], WINDOW + 1)
    assert len(traces) == before
    again = Traces(WIDTH_MS)
    again.restore(traces.kept())
    assert (len(again), again.kept()) == (len(traces), traces.kept())

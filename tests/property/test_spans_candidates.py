"""The compiled pass over a block chooses exactly the rows that the definition chooses one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.config import Feature, Traces
from agent.decode.candidates import LATENCY, WHY, Facts, StreamRules
from agent.decode.kept import view_of
from agent.decode.kernels.candidates import ERROR
from agent.decode.scalars import valid_traceparent
from agent.decode.spans import SpanSampler, _Budget
from agent.decode.trace_context import randomness_in, rejection_threshold
from agent.types import Partition, StreamKey
from tests.reference.sampling import Asked, why
from tests.support.blocks import LaneTable, Row, block_of, feature

PLACE = Partition("events", 3)
STREAMS = [StreamKey("a", "1"), StreamKey("b", ""), StreamKey("c", "", (("region", "eu"),))]
SLOW = {STREAMS[0]: 0.5, STREAMS[2]: 0.25}

hexadecimal = st.text("0123456789abcdef", min_size=14, max_size=14)
state_part = st.one_of(
    hexadecimal.map("rv:{}".format),
    hexadecimal.map(lambda digits: f"rv:{digits[:-1]}"),
    hexadecimal.map(lambda digits: f"rv:{digits}0"),
    hexadecimal.map(lambda digits: f"rv:{digits.upper()}"),
    st.sampled_from(["th:8", "x:y", "", "rv:", "ot=rv:00000000000000"]),
)
member = st.one_of(
    st.lists(state_part, max_size=3).map(lambda parts: "ot=" + ";".join(parts)),
    st.sampled_from(["a=1", "xot=rv:ffffffffffffff", "ot", "ot=", "b=ot=rv:ffffffffffffff", "é=1"]),
    st.text("ot=rv:;, fF0\n", max_size=30),
)
tracestate = st.one_of(
    st.just(""),
    st.lists(member, max_size=4).map(",".join),
    st.lists(member, max_size=4).map(" , ".join),
    st.lists(member, max_size=4).map(lambda members: "v=" + "x" * 500 + "," + ",".join(members)),
)
traceparent = st.one_of(
    st.none(),
    st.builds(
        lambda version, trace, flags: f"{version}-{'1' * 18}{trace}-{'2' * 16}-{flags:02x}",
        st.sampled_from(["00", "cc"]),
        st.one_of(hexadecimal, st.sampled_from(["80000000000000", "7fffffffffffff", "f" * 14])),
        st.integers(0, 255),
    ),
)
number = st.one_of(
    st.none(), st.floats(-10, 10), st.sampled_from([2.0**64, -(2.0**65), float("nan"), 1e300])
)
row = st.fixed_dictionaries(
    {
        "stream": st.sampled_from(STREAMS),
        "status": st.sampled_from(["", "", "", "500"]),
        "latency_s": st.one_of(st.none(), st.sampled_from([0.1, 0.25, 0.3, 0.5, 0.6])),
        "x": number,
        "bounded": number,
        "traceparent": traceparent,
        "tracestate": tracestate,
        "offset": st.integers(0, (1 << 63) - 1),
        "row": st.integers(0, 5),
        "n_rows": st.sampled_from([1, 1, 6]),
    }
)


@settings(max_examples=300, deadline=None)
@given(
    blocks=st.lists(st.lists(row, min_size=1, max_size=30), min_size=1, max_size=3),
    rate=st.sampled_from([0.0, 0.001, 0.5, 0.53, 1.0]),
    slow=st.booleans(),
)
def test_a_block_gives_the_rows_that_are_chosen_one_by_one(
    blocks: list[list[dict[str, Any]]], rate: float, slow: bool
) -> None:
    declared = {"bounded": Feature(min=-1.0, max=5.0)}
    sampler = SpanSampler(Traces(base_rate=rate, slow=slow, max_per_s=1e6), declared)
    sampler.slow_above_s = SLOW
    table = LaneTable()
    rules = StreamRules(table, sampler.limits)
    for asked in blocks:
        rows, facts, expected = [], [], []
        for i, one in enumerate(asked):
            values = {
                feature(name): one[name] for name in ("x", "bounded") if one[name] is not None
            }
            if one["latency_s"] is not None:
                values[LATENCY] = one["latency_s"]
            rows.append(Row(one["stream"], 0, values, is_error=one["status"] != ""))
            place = one["row"] if one["n_rows"] > 1 else 0
            context = one["traceparent"]
            assert context is None or valid_traceparent(context)
            facts.append(
                Facts(
                    one["offset"],
                    place,
                    one["n_rows"],
                    one["latency_s"],
                    one["status"],
                    "",
                    context,
                    one["tracestate"],
                )
            )
            wild = [x for x in (one["x"], one["bounded"]) if x is not None and abs(x) > 2.0**64]
            outside = one["bounded"] is not None and (one["bounded"] < -1 or one["bounded"] > 5)
            reason = why(
                Asked(
                    one["status"],
                    one["latency_s"],
                    bool(wild or outside),
                    context,
                    one["tracestate"],
                    one["offset"],
                    place,
                    one["n_rows"],
                ),
                SLOW.get(one["stream"], float("inf")) if slow else float("inf"),
                rejection_threshold(rate),
                "lineage",
                PLACE,
            )
            if reason is not None:
                expected.append((i, reason))
        found = sampler.choose(view_of(block_of(table, rows), facts), rules, PLACE, "lineage")
        whys = [WHY[code] for code in found.why.tolist()]
        assert list(zip(found.rows.tolist(), whys, strict=True)) == expected


@settings(max_examples=300, deadline=None)
@given(tracestate)
def test_randomness_in_a_trace_state_is_read_as_the_expression_reads_it(text: str) -> None:
    """At both ends of what there may be, so that either reading decides."""
    sampler = SpanSampler(Traces(base_rate=0.5, max_per_s=1e6), {})
    table = LaneTable()
    rules = StreamRules(table, {})
    block = block_of(table, [Row(STREAMS[0], 0, {feature("x"): 1.0})] * 2)
    facts = [
        Facts(0, 0, 1, None, "", "", f"00-{'1' * 18}{digit * 14}-{'2' * 16}-01", text)
        for digit in ("f", "0")
    ]
    found = sampler.choose(view_of(block, facts), rules, PLACE, "")
    is_sound = 0 < len(text) <= 512 and all(" " <= c <= "~" for c in text)
    explicit = randomness_in(text) if is_sound else None
    if explicit is None:
        assert found.rows.tolist() == [0]
    else:
        assert found.rows.tolist() == ([0, 1] if explicit >= 1 << 55 else [])


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@given(
    st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.0, 10.0, 33.5]),
    st.lists(st.tuples(st.floats(0, 2), st.lists(st.booleans(), max_size=40)), max_size=6),
)
def test_a_budget_taken_by_the_block_is_the_one_taken_row_by_row(
    per_s: float, blocks: list[tuple[float, list[bool]]]
) -> None:
    clock = Clock()
    budget = _Budget(per_s, clock)
    size = max(1.0, per_s) if per_s else 0.0
    floor = size / 2 if size >= 2 else 0.0
    tokens = size
    for wait_s, errors in blocks:
        before = clock.now
        clock.now += wait_s
        tokens = min(size, tokens + (clock.now - before) * per_s)
        expected = []
        for is_error in errors:
            granted = tokens >= 1 and (is_error or tokens - 1 >= floor)
            tokens -= granted
            expected.append(granted)
        codes = np.array([ERROR if is_error else 0 for is_error in errors], np.uint8)
        n_any, n_errors = budget.take(codes.tobytes())
        behind = np.cumsum(codes[n_any:] == ERROR) * (codes[n_any:] == ERROR)
        taken = [True] * n_any + ((behind > 0) & (behind <= n_errors)).tolist()
        assert taken == expected


def test_streams_and_lanes_that_come_later_are_learned() -> None:
    sampler = SpanSampler(Traces(base_rate=0.0, max_per_s=1e6), {"late": Feature(max=1.0)})
    table = LaneTable()
    rules = StreamRules(table, sampler.limits)

    def found(stream: StreamKey, **values: float) -> bool:
        block = block_of(table, [Row(stream, 0, {feature(k): x for k, x in values.items()})])
        view = view_of(block, [Facts(0, 0, 1, None, "", "", None, "")])
        return bool(len(sampler.choose(view, rules, PLACE, "")))

    assert not found(STREAMS[0], a=2.0)
    assert found(STREAMS[0], a=2.0, late=2.0)
    assert not found(STREAMS[1], late=1.0)
    assert found(STREAMS[1], late=1.5)
    for i in range(300):  # more streams, shapes and ranges than there was room for
        assert not found(StreamKey(f"m{i}", ""), **{f"f{j}": 1.0 for j in range(i % 7)})
        assert found(StreamKey(f"m{i}", ""), late=3.0)
    table.keys.clear()
    table.numeric_lanes.clear()
    table._numbers.clear()
    table._first.clear()
    table.generation += 1
    assert not found(STREAMS[2], b=2.0)
    assert found(STREAMS[2], late=2.0)


def test_rows_that_are_not_counted_here_are_passed_over() -> None:
    sampler = SpanSampler(Traces(base_rate=1.0, max_per_s=1e6), {})
    table = LaneTable()
    block = block_of(table, [Row(STREAMS[0], 0, {feature("x"): 1.0}, is_error=True)] * 3)
    block.stream[1] = -1
    view = view_of(block, [Facts(i, 0, 1, None, "e", "", None, "") for i in range(3)])
    rules = StreamRules(table, {})
    assert sampler.choose(view, rules, PLACE, "").rows.tolist() == [0, 2]


def test_what_a_block_holds_beyond_the_budget_is_counted_and_makes_no_objects() -> None:
    clock = Clock()
    sampler = SpanSampler(Traces(base_rate=1.0, max_per_s=10), {}, clock=clock)
    table = LaneTable()
    rules = StreamRules(table, {})
    rows = [Row(STREAMS[0], 0, {feature("x"): 1.0}, is_error=i % 2 == 1) for i in range(2000)]
    view = view_of(
        block_of(table, rows), [Facts(i, 0, 1, None, "", "", None, "") for i in range(2000)]
    )
    found = sampler.choose(view, rules, PLACE, "")
    # Five of any kind, then the reserve for errors.
    assert found.rows.tolist() == [0, 1, 2, 3, 4, 5, 7, 9, 11, 13]
    counts = sampler.take_counts()
    assert counts == {("over_budget", "error"): 1000 - 7, ("over_budget", "base_rate"): 1000 - 3}

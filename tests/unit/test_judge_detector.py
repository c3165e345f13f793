"""The change detector: what it promises, when it fires, what it remembers."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest

from agent.errors import DecodeError
from agent.judge.calibration import NOTHING_LEARNED, Calibration, CellNoise
from agent.judge.cells import CellKey, CellValue, Statistic
from agent.judge.detector import CellId, ChangeDetector, Step
from agent.verdict import State
from benchmarks.verdicts.windows import column

ROWS, BASELINE = 10_000.0, 1e9
SPREAD = math.sqrt(1 / 12)
TARGET = 2_000.0


def loc(name: str, z: float, rows: float = ROWS) -> CellValue:
    """A location cell so many standard errors from its baseline, which is as good as infinite."""
    effect = z * SPREAD / math.sqrt(rows)
    return CellValue(
        CellKey(column(name), Statistic.LOC), z, rows, BASELINE, effect, 0.0, "two", SPREAD
    )


def missing(name: str, z: float) -> CellValue:
    key = CellKey(column(name), Statistic.MISSING)
    return CellValue(key, z, ROWS, BASELINE, 0.01 * z, 0.0, "two", 0.1, 0.5)


def calibration(names: list[str], windows: int = 500, guard: float = 1.0) -> Calibration:
    cells = [
        CellNoise(CellKey(column(name), statistic), [1.0, 2.0], [1.0, 1.0], [0.0, 0.0])
        for name in names
        for statistic in (Statistic.LOC, Statistic.MISSING)
    ]
    return Calibration(windows, BASELINE, cells, guard=guard)


NAMES = [f"f{i}" for i in range(20)]


def detector(target: float = TARGET, **more) -> ChangeDetector:
    return ChangeDetector(calibration(NAMES, **more), target)


def window(rng: np.random.Generator, names=NAMES, **shifted: float) -> list[CellValue]:
    return [loc(name, float(rng.standard_normal()) + shifted.get(name, 0.0)) for name in names]


def test_by_chance_it_pages_less_often_than_its_budget() -> None:
    """Independent cells: 6,000 windows at a budget of one in 200, so 30 pages would be allowed."""
    rng = np.random.default_rng(1)
    judge, pages, was = detector(200.0), 0, State.OK
    for i in range(6_000):
        step = judge.step(i, window(rng))
        pages += step.state is State.FIRING and was is not State.FIRING
        was = step.state
    assert pages <= 30


def test_evidence_without_change_has_a_mean_of_at_most_the_number_of_windows() -> None:
    """M is an e-detector: E M(t) <= t, whatever the dependence; here all cells are one."""
    rng = np.random.default_rng(2)
    total = 0.0
    runs = 150
    for _ in range(runs):
        judge = detector(1e12)
        for i in range(20):
            z = float(rng.standard_normal())
            step = judge.step(i, [loc(name, z) for name in NAMES])
        total += step.m
    assert total / runs <= 20


@pytest.mark.parametrize("z", [9.0, 40.0, -40.0])
def test_a_clear_change_fires_in_the_second_window_and_names_its_cell(z: float) -> None:
    rng = np.random.default_rng(3)
    judge = detector()
    for i in range(30):
        assert judge.step(i, window(rng)).state is State.OK
    first = judge.step(30, window(rng, f7=z))
    second = judge.step(31, window(rng, f7=z))
    assert (first.state, first.is_frozen) == (State.PENDING, True)
    assert (second.state, second.previous) == (State.FIRING, State.PENDING)
    assert second.evidence[0].id == CellId(None, CellKey(column("f7"), Statistic.LOC))
    assert second.evidence[0].share > 0.9
    assert len(second.evidence) == 1


def test_an_outlier_of_any_size_does_not_page_by_itself() -> None:
    judge = detector()
    judge.step(0, [loc(name, 0.0) for name in NAMES])
    step = judge.step(1, [loc(name, 1e6 if name == "f3" else 0.0) for name in NAMES])
    assert step.state is State.PENDING
    for i in range(2, 6):
        step = judge.step(i, [loc(name, 0.0) for name in NAMES])
    assert step.state is State.OK


def test_a_change_within_the_tolerance_never_pages_however_many_rows() -> None:
    rng = np.random.default_rng(4)
    judge = detector()
    for i in range(200):
        rows = 1e6
        z = 0.004 / (SPREAD / math.sqrt(rows)) + float(rng.standard_normal())
        step = judge.step(i, [loc(name, z, rows) for name in NAMES])
        assert step.state is State.OK


def test_an_alarm_ends_after_three_windows_as_before() -> None:
    rng = np.random.default_rng(5)
    judge = detector()
    for i in range(10):
        judge.step(i, window(rng))
    for i in range(10, 16):
        step = judge.step(i, window(rng, f1=12.0))
    assert step.state is State.FIRING
    states = [judge.step(i, window(rng)).state for i in range(16, 30)]
    end = states.index(State.RESOLVED)
    assert end >= 2
    assert all(state is State.FIRING for state in states[:end])
    assert all(state is State.OK for state in states[end + 1 :])


def test_a_long_strong_change_ends_as_soon_as_a_short_one() -> None:
    """Evidence that grew for sixty windows takes as many to fall; that it is back is seen in three."""
    judge = detector()
    for i in range(60):
        step = judge.step(i, [loc(name, 12.0 if name == "f2" else 0.0) for name in NAMES])
    states = [judge.step(i, [loc(name, 0.0) for name in NAMES]) for i in range(60, 64)]
    assert step.state is State.FIRING
    assert [s.state for s in states] == [State.FIRING, State.FIRING, State.RESOLVED, State.OK]
    assert states[0].m > states[0].threshold
    assert [e.is_back for e in states[0].evidence] == [True]


def test_a_small_change_that_lasts_is_not_taken_for_its_end() -> None:
    """No window of it is two deviations beyond what is allowed, and evidence still grows."""
    judge = detector()
    moved = [loc(name, 2.4 if name == "f2" else 0.0, rows=100.0) for name in NAMES]
    states = [judge.step(i, moved).state for i in range(80)]
    fired = states.index(State.FIRING)
    assert 5 < fired < 40
    assert set(states[fired:]) == {State.FIRING}


def test_an_alarm_stays_while_what_moved_is_absent() -> None:
    rng = np.random.default_rng(6)
    judge = detector()
    for i in range(4):
        step = judge.step(i, window(rng, f1=20.0))
    assert step.state is State.FIRING
    others = [name for name in NAMES if name != "f1"]
    for i in range(4, 12):
        assert judge.step(i, window(rng, others)).state is State.FIRING


def test_a_restart_continues_bit_by_bit() -> None:
    def stream(seed: int):
        rng = np.random.default_rng(seed)
        for i in range(60):
            segments = {(("r", "eu"),): window(rng, ["f0", "f1"])}
            yield i, window(rng, f2=6.0 if 25 <= i < 40 else 0.0), segments

    whole, parts = detector(), detector()
    for i, cells, segments in stream(7):
        a = whole.step(i, cells, segments)
        b = parts.step(i, cells, segments)
        assert a == b
        kept = parts.dump()
        parts = detector()
        parts.load(kept)
        assert parts.dump() == kept == whole.dump()


def test_the_order_of_columns_changes_no_verdict() -> None:
    rng = np.random.default_rng(8)
    one, other = detector(), detector()
    for i in range(40):
        cells = window(rng, f4=7.0 if i > 20 else 0.0)
        a, b = one.step(i, cells), other.step(i, cells[::-1])
        assert (a.state, a.m) == (b.state, pytest.approx(b.m, rel=1e-12))
        assert [e.id for e in a.evidence] == [e.id for e in b.evidence]


def test_segments_cannot_deafen_the_model() -> None:
    """500 segments take half the weight: a change of all traffic still fires in two windows."""
    rng = np.random.default_rng(9)
    judge = detector()
    segments = [(("s", f"{i:03}"),) for i in range(500)]
    for i in range(12):
        step = judge.step(
            i,
            window(rng, f5=12.0 if i >= 10 else 0.0),
            {s: window(rng, ["f0"]) for s in segments},
        )
    assert step.state is State.FIRING
    assert step.evidence[0].id.segment is None


def test_a_change_of_one_segment_is_found_there() -> None:
    rng = np.random.default_rng(10)
    judge = detector()
    a, b = (("s", "a"),), (("s", "b"),)
    for i in range(13):
        shifted = {"f0": 12.0} if i >= 10 else {}
        step = judge.step(i, window(rng), {a: window(rng, ["f0"], **shifted), b: window(rng)})
    assert step.state is State.FIRING
    assert step.evidence[0].id.segment == a


def test_cells_that_turn_up_later_are_judged_too() -> None:
    rng = np.random.default_rng(11)
    judge = detector()
    for i in range(5):
        judge.step(i, window(rng, NAMES[:5]))
    for i in range(5, 9):
        step = judge.step(i, window(rng, [*NAMES[:5], "late"], late=15.0))
    assert step.state is State.FIRING
    assert step.evidence[0].id.key.column == column("late")


def test_less_history_needs_more_evidence() -> None:
    def windows_until_firing(history: int) -> int:
        judge = detector(windows=history)
        judge.step(0, [loc(name, 0.0) for name in NAMES])
        for i in range(1, 30):
            cells = [loc(name, 6.5 if name == "f0" else 0.0) for name in NAMES]
            if judge.step(i, cells).state is State.FIRING:
                return i
        return 30

    assert windows_until_firing(500) <= windows_until_firing(40) <= windows_until_firing(10)
    assert windows_until_firing(10) > windows_until_firing(500)


def test_a_guard_from_history_raises_the_threshold() -> None:
    assert detector(guard=3.0).threshold == 3.0 * TARGET


def test_without_history_it_learns_and_says_so() -> None:
    judge = ChangeDetector(NOTHING_LEARNED, TARGET)
    step = judge.step(0, [loc("f0", 50.0)])
    assert (step.state, step.evidence) == (State.LEARNING, [])


def test_windows_that_show_less_than_asked_are_blind_and_say_what_they_show() -> None:
    judge = detector()
    small = [loc(name, 0.0, rows=300.0) for name in NAMES]
    step = judge.step(0, small)
    assert step.state is State.BLIND
    assert step.minimum_effect == pytest.approx(0.005 + 6 * SPREAD / math.sqrt(300), rel=0.05)
    large = judge.step(1, [loc(name, 0.0) for name in NAMES])
    assert large.state is State.OK
    for i in range(2, 5):
        cells = [loc(name, 30.0 if name == "f0" else 0.0, rows=300.0) for name in NAMES]
        step = judge.step(i, cells)
    assert step.state is State.FIRING, "a change that is large enough fires all the same"


def test_a_volume_that_was_never_calibrated_is_left_out() -> None:
    rng = np.random.default_rng(12)
    judge = detector()
    volume = CellValue(CellKey(None, Statistic.VOLUME), 3.0, 20.0, 1e4, -6.0, 0.0, "two")
    for i in range(10):
        step: Step = judge.step(i, [*window(rng), volume])
    assert step.state is State.OK


def test_a_burst_of_missing_values_fires() -> None:
    judge = detector()
    for i in range(3):
        step = judge.step(i, [missing(n, 30.0 if n == "f9" and i else 0.0) for n in NAMES])
    assert step.state is State.FIRING
    assert step.evidence[0].id.key == CellKey(column("f9"), Statistic.MISSING)


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x92\x90\x90"])
def test_bytes_that_are_no_state_are_refused(data: bytes) -> None:
    with pytest.raises(DecodeError, match="change detector"):
        detector().load(data)


def test_a_state_whose_parts_do_not_match_is_refused() -> None:
    judge = detector()
    judge.step(0, window(np.random.default_rng(0)))
    kept = msgspec.msgpack.decode(judge.dump())
    kept[1].pop()
    with pytest.raises(DecodeError, match="do not match"):
        judge.load(msgspec.msgpack.encode(kept))

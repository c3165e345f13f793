"""The state test: far is far, near is near, however many rows."""

from __future__ import annotations

import math

import numpy as np
import pytest

from agent.errors import DecodeError
from agent.judge.calibration import NOTHING_LEARNED, Calibration, CellNoise
from agent.judge.cells import CellKey, CellValue, Prepared, Statistic, measure
from agent.judge.state_test import StateTest
from agent.verdict import State
from benchmarks.verdicts.windows import column, counted_of

KEY = CellKey(column("x"), Statistic.SHAPE)
EXACT = Calibration(500, 1e6, [CellNoise(KEY, [1.0, 2.0], [1.0, 1.0], [0.0, 0.0])])


def shape(psi: float, n: float = 10_000.0, m: float = 1e6, df: float = 22.0) -> CellValue:
    rows = n * m / (n + m)
    return CellValue(KEY, math.log(psi * rows / df), n, m, psi - df / rows, df, "upper")


@pytest.mark.parametrize("n", [1e4, 1e5, 1e7])
def test_what_is_within_the_limit_never_fires_however_many_rows(n: float) -> None:
    judge = StateTest(EXACT, 8640.0)
    for i in range(5):
        assert judge.step(i, [shape(0.1 + 22.0 / n, n)]).state is State.OK


@pytest.mark.parametrize("n", [1e4, 1e6])
def test_far_beyond_the_limit_is_pending_then_fires_then_resolves(n: float) -> None:
    judge = StateTest(EXACT, 8640.0)
    states = [judge.step(i, [shape(0.5 if i in (2, 3, 4) else 0.02, n)]).state for i in range(9)]
    assert states == [
        State.OK,
        State.OK,
        State.PENDING,
        State.FIRING,
        State.FIRING,
        State.FIRING,
        State.FIRING,
        State.RESOLVED,
        State.OK,
    ]


def test_one_window_of_three_is_not_enough() -> None:
    judge = StateTest(EXACT, 8640.0)
    states = [judge.step(i, [shape(0.5 if i % 3 == 0 else 0.02)]).state for i in range(9)]
    assert set(states) == {State.PENDING}


def test_few_rows_far_away_by_chance_do_not_fire() -> None:
    rng = np.random.default_rng(1)
    base = Prepared(counted_of({"x": rng.normal(size=5_000)}))
    judge = StateTest(NOTHING_LEARNED, 8640.0)
    for i in range(300):
        assert (
            judge.step(i, measure(base, counted_of({"x": rng.normal(size=100)}))).state is State.OK
        )


def test_evidence_names_the_column_its_distance_and_what_could_be_seen() -> None:
    judge = StateTest(EXACT, 8640.0)
    judge.step(0, [shape(0.4)])
    step = judge.step(1, [shape(0.4)])
    (found,) = step.evidence
    assert found.id.key == KEY
    assert found.effect == pytest.approx(0.4, abs=0.01)
    assert 0.1 < found.minimum < 0.2
    assert found.score >= step.threshold


def test_a_restart_continues_where_it_was() -> None:
    judge = StateTest(EXACT, 8640.0)
    judge.step(0, [shape(0.4)])
    other = StateTest(EXACT, 8640.0)
    other.load(judge.dump())
    assert other.step(1, [shape(0.4)]) == judge.step(1, [shape(0.4)])
    assert other.dump() == judge.dump()
    with pytest.raises(DecodeError, match="state test"):
        other.load(b"\xc1")


def located(at_sd: float, rest: float, n: float = 1_000.0, m: float = 5e5) -> list[CellValue]:
    """A location off by so many deviations, and its column's shape: what that takes of PSI, and `rest` more."""
    rows, df = n * m / (n + m), 22.0
    psi = at_sd**2 + rest + df / rows
    return [
        CellValue(CellKey(column("x"), Statistic.LOC), 0.0, n, m, at_sd, 0.0, "two", 1.0),
        CellValue(KEY, math.log(psi * rows / df), n, m, psi - df / rows, df, "upper"),
    ]


@pytest.mark.parametrize(
    ("at_sd", "rest", "fires"),
    [(0.4, 0.0, False), (0.7, 0.0, False), (2.0, 0.0, True), (0.0, 0.5, True), (0.4, 0.5, True)],
)
def test_what_a_location_does_by_itself_is_not_held_against_it(
    at_sd: float, rest: float, fires: bool
) -> None:
    """Location wanders by .14 of its deviations: five of them are within reach, fourteen are not."""
    phi = 1.0 + 0.02 * 1_000.0
    wanders = CellNoise(
        CellKey(column("x"), Statistic.LOC), [1_000.0, 5e5], [phi, phi], [0.0, 0.0], 0.0
    )
    still = CellNoise(KEY, [1_000.0, 5e5], [1.0, 1.0], [0.0, 0.0], 0.0, [1.0, 1.0])
    judge = StateTest(Calibration(500, 5e5, [wanders, still]), 8640.0)
    states = {judge.step(i, located(at_sd, rest)).state for i in range(3)}
    assert (State.FIRING in states) is fires
    alone = StateTest(Calibration(500, 5e5, [still]), 8640.0)
    assert State.FIRING in {alone.step(i, located(0.7, 0.0)[1:]).state for i in range(3)}

"""Broken correlations: found, named, and not found where nothing broke. Section 6's cases at fixed seeds."""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import norm, rankdata  # type: ignore[import-untyped]

from agent.config import Config
from agent.config import Judge as JudgeOptions
from agent.errors import DecodeError
from agent.judge.cells import Prepared, Statistic, measure
from agent.judge.detector import ChangeDetector
from agent.judge.history import calibrated
from agent.judge.pairs_cells import PairsFound, measure_pairs, paired
from agent.judge.pairs_noise import PairBaseline, correlations
from agent.judge.reference import ModelKey, Reference, ReferenceStream
from agent.judge.score_tables import score_table, tables_of
from agent.judge.union import united
from agent.sketch.pair_scorer import Tables
from agent.sketch.pair_sums import PairSums
from agent.types import Column
from tests.support.blocks import feature
from tests.support.tabular import STREAM, profiles_of

Table = dict[str, NDArray[Any]]
#: x of a window that fires by chance once in 10,000.
FIRES = 3.719


def correlated(
    n: int,
    seed: int,
    *,
    strong: float = 0.8,
    middling: float = 0.5,
    together: bool = True,
    linked: bool = True,
    swapped: bool = False,
) -> Table:
    """Eight numbers, a category and a boolean. `together`: f4 and f5 have one volatility; `linked`: the
    category follows f0; `swapped`: f0 and f2 have changed places."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, 8))
    z[:, 1] = strong * z[:, 0] + np.sqrt(1 - strong**2) * z[:, 1]
    z[:, 3] = middling * z[:, 2] + np.sqrt(1 - middling**2) * z[:, 3]
    volatility = np.exp(0.7 * rng.normal(size=(n, 2)))
    z[:, 4] *= volatility[:, 0]
    z[:, 5] *= volatility[:, 0 if together else 1]
    place = (z[:, 0] > 0.5).astype(int) + (z[:, 0] > -0.7)
    if not linked:
        place = rng.permutation(place)
    columns: Table = {f"f{i}": z[:, i].copy() for i in range(6)}
    columns["f6"] = np.exp(2.0 * z[:, 6])
    columns["f7"] = np.where(z[:, 7] > 0.5, 0.0, np.exp(z[:, 7]))
    columns["c"] = np.array(["a", "b", "cc"])[place]
    columns["flag"] = rng.random(n) < 1.0 / (1.0 + np.exp(-z[:, 2]))
    if swapped:
        columns["f0"], columns["f2"] = columns["f2"], columns["f0"]
    return columns


def learned(columns: Table) -> tuple[PairBaseline, Tables]:
    """As `profile build` does it: tables from all rows, then blocks of 250."""
    whole = united(profiles_of(columns, 10_000), STREAM)
    table = score_table(whole)
    assert table is not None
    tables: Tables = {("m", "1"): table}
    found = paired(table, whole, profiles_of(columns, 250, tables))
    assert found is not None
    return found, tables


@cache
def reference() -> tuple[PairBaseline, Tables]:
    return learned(correlated(20_000, 1))


def judged(
    columns: Table, rows: int, known: tuple[PairBaseline, Tables] | None = None
) -> list[PairsFound]:
    baseline, tables = known or reference()
    found = [measure_pairs(baseline, window) for window in profiles_of(columns, rows, tables)]
    return [one for one in found if one is not None]


def between(baseline: PairBaseline, a: str, b: str) -> float:
    """The baseline's correlation of the values of two columns."""
    owners = [owner.column for owner in baseline.table.owners]
    wanted = {owners.index(feature(a)), owners.index(feature(b))}
    pairs = zip(baseline.pairs.first, baseline.pairs.second, baseline.before, strict=True)
    return next(float(r) for i, j, r in pairs if {int(i), int(j)} == wanted)


def test_correlations_are_those_of_normal_scores_by_rank() -> None:
    columns = correlated(20_000, 1)
    baseline, _ = reference()
    for a, b in (("f0", "f1"), ("f2", "f3"), ("f4", "f6"), ("f0", "f7"), ("f6", "f7")):
        scores = [norm.ppf((rankdata(columns[name]) - 0.5) / 20_000) for name in (a, b)]
        assert between(baseline, a, b) == pytest.approx(np.corrcoef(scores)[0, 1], abs=0.01)


@pytest.mark.parametrize(
    ("broken", "rows", "pair"),
    [
        ({"strong": 0.0}, 1000, {"f0", "f1"}),
        ({"middling": 0.0}, 1000, {"f2", "f3"}),
        ({"swapped": True}, 1000, {"f0", "f1", "f2", "c"}),
        ({"linked": False}, 1000, {"f0", "f1", "c"}),
        ({"together": False}, 1000, {"f4", "f5"}),
        ({"middling": 0.4}, 10_000, {"f2", "f3"}),
    ],
)
def test_each_break_fires_in_every_window_and_the_pair_is_named(
    broken: dict[str, float], rows: int, pair: set[str]
) -> None:
    found = judged(correlated(5 * rows, 2, **broken), rows)  # type: ignore[arg-type]
    assert len(found) == 5
    for one in found:
        assert one.value.x > FIRES
        assert {column.name for column in one.broken[0].columns} <= pair
        assert one.culprit.name in pair


def test_a_broken_pair_says_what_it_was_and_is() -> None:
    (found,) = judged(correlated(4000, 3, strong=0.0), 4000)
    assert found.value.key == (None, Statistic.PAIRS)
    before, now = found.broken[0].before, found.broken[0].now
    assert found.detail.startswith(f"f0 x f1: correlation {before:.2f} -> {now:.2f}")
    assert before == pytest.approx(0.8, abs=0.02)
    assert now == pytest.approx(0.0, abs=0.05)
    (spreads,) = judged(correlated(4000, 3, together=False), 4000)
    assert spreads.detail.startswith("spread of f4 x spread of f5: correlation 0.")


@pytest.mark.parametrize("rows", [300, 1000, 5000])
def test_windows_of_an_unchanged_stream_do_not_fire(rows: int) -> None:
    n_windows = min(150, 150_000 // rows)
    x = np.array([one.value.x for one in judged(correlated(n_windows * rows, 4), rows)])
    assert len(x) == n_windows
    # Nominal 1 %, at most: three standard errors above it.
    assert (x > 2.326).mean() <= 0.01 + 3 * np.sqrt(0.01 / n_windows)
    assert x.max() < FIRES


def test_rows_that_come_in_clusters_do_not_fire() -> None:
    def sessions(n: int, seed: int) -> Table:
        return {name: np.repeat(v, 25) for name, v in correlated(n // 25, seed).items()}

    known = learned(sessions(50_000, 5))
    x = [one.value.x for one in judged(sessions(100_000, 6), 1000, known)]
    assert len(x) == 100
    assert max(x) < FIRES


@pytest.mark.parametrize("column", ["f1", "f6"])
@pytest.mark.parametrize(
    "change",
    [
        lambda v: 1.6 * v,
        lambda v: v + 0.3,
        lambda v: np.where(np.arange(len(v)) % 10 < 3, np.nan, v),
        lambda v: np.full(len(v), np.nan),
        lambda v: np.full(len(v), 1.0),
    ],
    ids=["unit", "shift", "missing in 30 %", "null", "stuck"],
)
def test_a_column_that_changes_by_itself_is_left_to_its_own_cells(
    change: object, column: str
) -> None:
    columns = correlated(5000, 7)
    columns[column] = change(columns[column])  # type: ignore[operator]
    assert all(one.value.x < FIRES for one in judged(columns, 1000))


def test_values_closer_than_buckets_resolve_are_scored_by_mean_and_deviation() -> None:
    def pressure(n: int, seed: int, r: float) -> Table:
        z = np.random.default_rng(seed).normal(size=(n, 3))
        z[:, 1] = r * z[:, 0] + np.sqrt(1 - r * r) * z[:, 1]
        return {"hpa": 1013.0 + 2.0 * z[:, 0], "lon": -73.98 + 0.05 * z[:, 1], "x": z[:, 2]}

    known = learned(pressure(20_000, 8, 0.7))
    assert between(known[0], "hpa", "lon") == pytest.approx(0.7, abs=0.02)
    (broken,) = judged(pressure(1000, 9, 0.0), 1000, known)
    assert broken.value.x > FIRES
    assert broken.detail.startswith("hpa x lon: correlation 0.7")


def test_windows_without_sums_or_with_those_of_another_table_have_no_cell() -> None:
    baseline, _ = reference()
    columns = correlated(1000, 10)
    (plain,) = profiles_of(columns, 1000)
    assert plain.pairs == b""
    assert measure_pairs(baseline, plain) is None
    other, tables = learned(correlated(5000, 11))
    assert other.table.id != baseline.table.id
    (foreign,) = profiles_of(columns, 1000, tables)
    assert measure_pairs(baseline, foreign) is None


def test_a_baseline_with_few_blocks_learns_nothing_and_judges_nothing() -> None:
    few, tables = learned(correlated(3000, 15))
    assert few.levels == []
    assert judged(correlated(1000, 16, strong=0.0), 1000, (few, tables)) == []


def test_judging_a_union_is_judging_all_its_rows() -> None:
    baseline, tables = reference()
    columns = correlated(3000, 12, middling=0.3)
    parts = profiles_of(columns, 1000, tables)
    (whole,) = profiles_of(columns, 3000, tables)
    both = [measure_pairs(baseline, window) for window in (united(parts, STREAM), whole)]
    assert both[0] == both[1]
    assert both[0] is not None


def test_a_reference_keeps_what_pairs_do() -> None:
    baseline, tables = reference()
    (profile,) = profiles_of(correlated(1000, 13), 1000)
    stream = ReferenceStream(profile=profile, pairs=baseline)
    made = Reference(width_ms=60_000, created_ms=1, models={ModelKey("m", "1"): stream})
    read = Reference.from_bytes(made.to_bytes())
    assert read.id == made.id
    assert read.models[ModelKey("m", "1")].pairs == baseline
    assert tables_of(Config(), [read])[("m", "1")].id == tables[("m", "1")].id
    assert tables_of(Config(), [read])[("m", None)].id == tables[("m", "1")].id
    assert tables_of(Config(judge=JudgeOptions(pairs="off")), [read]) == {}
    wrong = msgspec.structs.replace(baseline, shares=[1.0])
    broken = msgspec.structs.replace(stream, pairs=wrong)
    made = Reference(width_ms=60_000, created_ms=1, models={ModelKey("m", "1"): broken})
    with pytest.raises(DecodeError, match="pairs of a reference"):
        Reference.from_bytes(made.to_bytes())


def test_a_spread_is_compared_given_its_value() -> None:
    """By hand: the correlation of what a regression on the value leaves of both."""
    baseline, tables = reference()
    (window,) = profiles_of(correlated(2000, 14), 2000, tables)
    sums, pairs = PairSums.from_bytes(window.pairs), baseline.pairs
    found, _ = correlations(sums, pairs)
    _, covariance = sums.moments()
    at = int(np.flatnonzero(pairs.given >= 0)[0])
    i, j, k = int(pairs.first[at]), int(pairs.second[at]), int(pairs.given[at])
    part = covariance[np.ix_([i, j], [i, j])]
    across = covariance[np.ix_([i, j], [k])]
    left = part - across @ across.T / covariance[k, k]
    assert found[at] == pytest.approx(left[0, 1] / np.sqrt(left[0, 0] * left[1, 1]), abs=1e-9)
    assert baseline.table.owners[j].column == baseline.table.owners[k].column


def test_a_broken_pair_pages_in_the_second_window_and_an_unchanged_stream_does_not() -> None:
    baseline, tables = reference()
    columns = correlated(20_000, 1)
    whole = united(profiles_of(columns, 10_000), STREAM)
    calibration, before = calibrated(whole, profiles_of(columns, 500)), Prepared(whole)

    def states(columns: Table, rows: int) -> list[str]:
        detector = ChangeDetector(calibration, 8640.0)
        found = []
        for number, window in enumerate(profiles_of(columns, rows, tables)):
            pairs = measure_pairs(baseline, window)
            assert pairs is not None
            step = detector.step(number, [*measure(before, window), pairs.value])
            found.append(str(step.state))
        return found

    assert states(correlated(3000, 17, strong=0.0), 1000)[1:] == ["firing", "firing"]
    assert states(correlated(30_000, 18, middling=0.4), 10_000)[1:] == ["firing", "firing"]
    assert not {"pending", "firing"} & set(states(correlated(40_000, 19), 1000))


def test_latency_and_free_text_are_not_scored() -> None:
    baseline, _ = reference()
    names = [column.column for column in baseline.table.columns]
    assert Column(feature("f0").role, "f0") in names
    assert all(name.role == "feature" for name in names)

"""What the benchmark of verdicts rests on: counted columns, drawn counts, limits, and a run that is broken off."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from agent.judge.cells import measure
from agent.judge.counted import Counted, merged
from agent.judge.detector import ChangeDetector
from agent.verdict import State
from benchmarks.verdicts.coded import coded_table
from benchmarks.verdicts.families import Cell
from benchmarks.verdicts.journal import Journal, judge_all
from benchmarks.verdicts.limits import budget_kept, lower_share, upper_rate
from benchmarks.verdicts.page import updated
from benchmarks.verdicts.quiet import BUDGETS, Parts, judge_quietly, of_blocks
from benchmarks.verdicts.scores import Columns, features
from benchmarks.verdicts.windows import counted_of


def test_coded_rows_are_counted_as_sketches_of_their_values() -> None:
    rng = np.random.default_rng(1)
    table = features(rng.standard_normal((4_000, 8)), rng)
    codings, codes = coded_table(table)
    found, wanted = codings.counted(codes), counted_of(table)
    assert found.columns.keys() == wanted.columns.keys()
    for name, column in wanted.columns.items():
        own = found.columns[name]
        assert (own.kind, own.missing, own.distinct) == (
            column.kind,
            column.missing,
            column.distinct,
        )
        if column.texts is not None:
            assert own.texts is not None
            assert own.texts.named == column.texts.named
            np.testing.assert_array_equal(own.texts.hashed, column.texts.hashed)
        else:
            assert own.numbers is not None and column.numbers is not None
            assert own.numbers.scale == column.numbers.scale
            np.testing.assert_array_equal(own.numbers.positive, column.numbers.positive)
            np.testing.assert_array_equal(own.numbers.negative, column.numbers.negative)
            assert own.numbers.zeros == column.numbers.zeros


def test_drawn_counts_have_the_distribution_of_counted_rows() -> None:
    """Same totals by code (chi-square), and as much variance between windows: that of a multinomial."""
    columns, rng = Columns(8), np.random.default_rng(2)
    n, rows = 120, 1_000

    def counts(windows: Sequence[Counted]) -> np.ndarray:
        return np.array([[_flat(c) for c in w.columns.values()] for w in windows], dtype=object)

    drawn = counts([columns.drawn(rows, rng) for _ in range(n)])
    by_row = counts([columns.counted(rng.standard_normal((rows, 8)), rng) for _ in range(n)])
    for j in range(8):
        both = [np.array(side[:, j].tolist()) for side in (drawn, by_row)]
        totals = np.array([side.sum(axis=0) for side in both])
        held = totals.sum(axis=0) >= 20
        table = np.column_stack((totals[:, held], totals[:, ~held].sum(axis=1)))
        table = table[:, table.sum(axis=0) > 0]
        assert stats.chi2_contingency(table).pvalue > 1e-4
        for side in both:
            mean = side.mean(axis=0)
            ratio = side.var(axis=0, ddof=1)[mean > 2] / (mean * (1 - mean / rows))[mean > 2]
            assert ratio.mean() == pytest.approx(1.0, abs=6 * np.sqrt(2 / n / len(ratio)) + 0.02)


def _flat(column) -> list[float]:
    if column.texts is not None:
        return [*column.texts.hashed, column.missing]
    numbers = column.numbers
    return [*numbers.negative, numbers.zeros, *numbers.positive, column.missing]


@pytest.mark.parametrize("count", [0, 1, 2, 7, 40])
def test_limits_of_rates_and_shares_are_exact(count: int) -> None:
    assert upper_rate(count) == pytest.approx(stats.chi2.ppf(0.95, 2 * count + 2) / 2, rel=1e-5)
    wanted = stats.beta.ppf(0.05, count, 40 - count + 1) if count else 0.0
    assert lower_share(count, 40) == pytest.approx(wanted, abs=1e-4)


def test_a_budget_is_surely_kept_from_three_times_as_many_quiet_windows_on() -> None:
    assert budget_kept(6_040, 0, 2_016) > 1.0 > budget_kept(6_030, 0, 2_016)


def test_a_budget_that_was_not_reached_pages_as_often_as_a_detector_of_its_own() -> None:
    """The shortcut of `judge_quietly`, on streams that have moved and page at one budget, at both or at none."""
    columns, rng = Columns(3), np.random.default_rng(3)

    def stream(shift: float) -> Iterator[Parts]:
        while True:
            yield [columns.counted(rng.standard_normal((500, 3)) + shift, rng)]

    blocks = stream(0.0)
    against = of_blocks([next(blocks) for _ in range(64)])
    reached = set()
    for shift in (0.0, 0.14, 0.15, 0.16, 0.17, 0.3):
        later = stream(shift)
        windows = [next(later) for _ in range(30)]
        found = judge_quietly(against, iter(windows), 30)
        cells = [measure(against.hours[0], reduce(merged, parts)) for parts in windows]
        for budget in BUDGETS:
            detector = ChangeDetector(against.calibration, budget)
            steps = [detector.step(i, one) for i, one in enumerate(cells)]
            began = [s for s in steps if s.state is State.FIRING is not s.previous]
            assert found.pages[f"{budget:g}"] == len(began), (shift, budget)
        reached.add(tuple(n > 0 for n in found.pages.values()))
    assert reached >= {(False, False), (True, True)}


def test_a_run_that_was_broken_off_goes_on_where_it_was(tmp_path: Path) -> None:
    def source():
        columns = Columns(2)

        def windows(rng, rows: int) -> Iterator[Parts]:
            while True:
                yield [columns.drawn(rows, rng)]

        return windows

    cells = [Cell("a", f"stream {i}", source, 100, 2_000, 3) for i in range(2)]
    whole, path = Journal(), tmp_path / "lines.jsonl"
    judge_all(cells, whole, 12, seed=5)
    judge_all(cells, Journal(path), 4, seed=5)
    judge_all(cells, Journal(path), 12, seed=5)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2]) + lines[2][:30])  # cut off while it was written
    assert [Journal(path).total(cell.name).references for cell in cells] == [4, 4]
    judge_all(cells, Journal(path), 12, seed=5)
    again = Journal(path)
    for cell in cells:
        total, wanted = again.total(cell.name), whole.total(cell.name)
        assert (total.references, total.windows, total.highest) == (12, 36, wanted.highest)


def test_a_page_keeps_what_a_document_has_not_measured() -> None:
    bar = {"value": 2.0, "bar": 1.0, "is": "at least", "unit": "", "met": True}
    machine = {"cpu": "c", "cores": 2, "commit": "abc"}
    table = {"title": "New", "columns": ["x"], "rows": [[1]], "note": ""}
    document = {
        "benchmark": "verdicts", "options": {"only": "quiet", "runs": 3}, "machine": machine, "figures": {},
        "at": "2026-01-02T03:04:05Z", "bars": {"b": bar}, "tables": [table],
    }  # fmt: skip
    head = "| bar | measured | wanted | | benchmark |\n|---|---|---|---|---|\n"
    text = (
        f"<!-- bars -->\n{head}| a | 1 | >= 1 | met | verdicts |\n| b | 1 | >= 1 | met | verdicts |\n<!-- end -->\n"
        "<!-- table: verdicts: Old -->\nkept\n<!-- end -->\n<!-- table: verdicts: New -->\n<!-- end -->\n"
        "<!-- runs -->\n| command | commit | machine | day |\n|---|---|---|---|\n<!-- end -->\n"
    )
    found = updated(text, [document])
    assert "| a | 1 | >= 1 | met | verdicts |\n| b | 2 | >= 1 | met | verdicts |\n" in found
    assert "-->\nkept\n<!-- end -->" in found
    assert "| x |\n|---:|\n| 1 |" in found or "| x |\n|---|\n| 1 |" in found
    assert (
        "| `python -m benchmarks.verdicts --only quiet --runs 3` | abc | c, 2 cores | 2026-01-02 |"
        in found
    )
    assert updated(found, [document]) == found

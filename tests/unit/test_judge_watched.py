"""What a model is judged against, and when: what stops learning, versions side by side, windows that are cut."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from agent.config import Baseline, Config, Monitor
from agent.config import Judge as JudgeOptions
from agent.config.contract import ColumnRule, ModelContract, RowRule
from agent.config.monitors import When
from agent.fold.profile import Profile
from agent.judge.contract_infer import infer
from agent.judge.engine import Judge
from agent.judge.reference import Reference
from agent.judge.reference_build import build
from agent.types import Kind
from agent.verdict import Judged, Severity, State, Verdict
from tests.support.profiles import (
    START_MS,
    WIDTH_MS,
    Row,
    by_window,
    normal_windows,
    profiles,
    write_events,
)


def fed(judge: Judge, windows: Sequence[Sequence[Profile]]) -> Judged:
    """Windows one after the other, as they seal."""
    judged = Judged()
    for sealed in windows:
        window = sealed[0].window
        judged.add(judge.sealed(sealed, window + 1, (window + 1) * WIDTH_MS * 1_000_000))
    return judged


def firing(judged: Judged, monitor: str | None = None) -> list[Verdict]:
    return [
        v
        for v in judged.verdicts
        if v.state is State.FIRING and (monitor is None or v.monitor == monitor)
    ]


def window_of(verdict: Verdict) -> int:
    return (verdict.window_start_ms - START_MS) // WIDTH_MS


def without_x(windows: Sequence[Sequence[Row]]) -> list[list[Row]]:
    return [[row | {"x": None} for row in rows] for rows in windows]


def test_a_ticket_about_something_else_does_not_stop_learning(tmp_path: Path) -> None:
    rows = normal_windows(1, 15, 200) + without_x(normal_windows(2, 3, 200))
    always = Monitor(name="busy", metric="volume", severity=Severity.TICKET, when=When(above=1.0))
    config = Config(judge=JudgeOptions(learn_windows=12), monitors=[always])
    judged = fed(Judge(config), by_window(profiles(tmp_path, rows)))
    assert len(firing(judged, "busy")) == 18
    broken = firing(judged, "quality")
    assert [window_of(v) for v in broken] == [15, 16, 17]
    assert {v.feature for v in broken} == {"x"}


def test_a_moving_baseline_goes_on_while_something_else_fires(tmp_path: Path) -> None:
    rows = normal_windows(3, 12, 300) + normal_windows(4, 3, 300, 1.5)
    config = Config(
        judge=JudgeOptions(defaults=False),
        baselines={"last": Baseline(type="past", windows=10)},
        monitors=[
            Monitor(name="moved", metric="drift", baseline="last"),
            Monitor(name="busy", metric="volume", when=When(above=1.0)),
            Monitor(name="busy-past", metric="volume", baseline="last", when=When(above=1.0)),
        ],
    )
    judged = fed(Judge(config), by_window(profiles(tmp_path, rows)))
    assert {v.feature for v in firing(judged, "moved")} == {"x"}


def given(tmp_path: Path, windows: Sequence[Sequence[Row]]) -> Reference:
    return build([write_events(tmp_path / "ref.jsonl", windows)], Config(), created_ms=1).reference


def versions(*found: tuple[str, Sequence[Sequence[Row]]]) -> list[list[Row]]:
    """Windows of several versions, side by side."""
    n = max(len(windows) for _, windows in found)
    return [
        [
            row | {"version": name}
            for name, windows in found
            if w < len(windows)
            for row in windows[w]
        ]
        for w in range(n)
    ]


def test_a_version_that_takes_over_pages_nobody_and_a_stall_of_all_does_once(
    tmp_path: Path,
) -> None:
    reference = given(tmp_path, normal_windows(5, 20, 300))
    one = [*normal_windows(6, 6, 300), normal_windows(7, 1, 150)[0]]
    two: list[list[Row]] = [[]] * 6 + [normal_windows(8, 1, 150)[0], *normal_windows(9, 12, 300)]
    judge = Judge(Config(), [reference])
    rolled = by_window(profiles(tmp_path, versions(("1", one), ("2", two)), first=20))
    judged = fed(judge, rolled)
    assert firing(judged) == []
    end_ms = rolled[-1][0].end_ms
    stalled = judge.tick((end_ms + 20 * WIDTH_MS) * 1_000_000)
    assert [v.monitor for v in firing(stalled)] == ["freshness"]


def test_a_canary_at_a_quarter_of_traffic_pages_nobody(tmp_path: Path) -> None:
    reference = given(tmp_path, normal_windows(10, 20, 400))
    stable, canary = normal_windows(11, 15, 300), normal_windows(12, 15, 100)
    rows = versions(("1", stable), ("2", canary))
    judged = fed(Judge(Config(), [reference]), by_window(profiles(tmp_path, rows, first=20)))
    assert firing(judged) == []
    # Learned beside another version, a canary's rows say nothing of what it has alone.
    rows += versions(("2", normal_windows(13, 10, 400)))
    config = Config(judge=JudgeOptions(learn_windows=12))
    judged = fed(Judge(config), by_window(profiles(tmp_path, rows)))
    assert [v for v in firing(judged) if v.stream.version == "2"] == []


def test_half_a_first_window_is_no_loss_of_rows_and_half_a_later_one_is(tmp_path: Path) -> None:
    reference = given(tmp_path, normal_windows(14, 40, 2000))
    few, many = normal_windows(15, 1, 100), normal_windows(16, 3, 2000)
    low = Monitor(name="low", metric="volume", when=When(below=1000.0))
    judge = Judge(Config(monitors=[low]), [reference])
    judged = fed(judge, by_window(profiles(tmp_path, few + many + few, first=40)))
    assert {window_of(v) for v in firing(judged)} == {44}
    assert {v.monitor for v in firing(judged)} == {"quality", "low"}


def test_a_twin_that_is_not_there_is_said(tmp_path: Path) -> None:
    config = Config(
        judge=JudgeOptions(defaults=False, learn_windows=12),
        baselines={"stable": Baseline(type="twin", version="9"), "last": Baseline(type="past")},
        monitors=[
            Monitor(name="canary", metric="drift", baseline="stable"),
            Monitor(name="canary-psi", metric="psi", baseline="stable", when=When(above=0.2)),
            Monitor(name="early", metric="psi", baseline="last", when=When(above=0.2)),
        ],
    )
    judged = fed(Judge(config), by_window(profiles(tmp_path, normal_windows(17, 4, 100))))
    for name, state, why in (
        ("canary", State.BLIND, "m 1: no row of version 9 in this window"),
        ("canary-psi", State.BLIND, "m 1: no row of version 9 in this window"),
        ("early", State.LEARNING, "m 1: learning a baseline"),
    ):
        own = [v for v in judged.verdicts if v.monitor == name]
        assert [(v.state, v.why) for v in own] == [(state, why)] * 4


def test_a_contract_that_was_given_is_judged_while_a_baseline_is_learned(tmp_path: Path) -> None:
    rows = RowRule(min=50, silence_s=120.0)
    contract = ModelContract(
        model="m",
        rows=rows,
        features={"x": ColumnRule(kind=Kind.NUMERIC, required=True)},
        new_features=True,
    )
    windows = normal_windows(18, 2, 100) + without_x(normal_windows(19, 2, 100))
    judge = Judge(Config(), [], [contract])
    sealed = by_window(profiles(tmp_path, windows))
    judged = fed(judge, sealed)
    assert [(window_of(v), v.feature) for v in firing(judged)] == [(2, "x"), (3, "x")]
    learning = [v for v in judged.verdicts if v.state is State.LEARNING]
    assert [window_of(v) for v in learning] == [0, 1]


def test_a_model_of_the_baseline_that_never_shows_up_is_a_ticket(tmp_path: Path) -> None:
    both = [
        [*rows, *({"model": "other", **row} for row in rows)]
        for rows in normal_windows(20, 12, 100)
    ]
    judge = Judge(Config(), [given(tmp_path, both)])
    judged = fed(judge, by_window(profiles(tmp_path, normal_windows(21, 8, 100), first=12)))
    silent = firing(judged, "inventory")
    assert [(v.stream.model, window_of(v)) for v in silent] == [("other", w) for w in range(16, 20)]
    assert {v.severity for v in silent} == {Severity.TICKET}
    assert firing(judged) == silent


def test_a_model_of_few_rows_is_silent_when_twenty_are_missing(tmp_path: Path) -> None:
    # Two rows a window: twenty are expected in ten windows.
    contract = infer(given(tmp_path, normal_windows(22, 200, 2))).contract[0]
    assert contract.rows.silence_s == pytest.approx(600.0, rel=0.01)


def far_away(windows: Sequence[Sequence[Row]]) -> list[list[Row]]:
    """One row in ten is far outside of any range seen: not enough for much of a distance."""
    return [
        [row | {"x": 1000.0} if i % 10 == 0 else row for i, row in enumerate(rows)]
        for rows in windows
    ]


def test_ranges_of_less_than_a_day_are_tickets_and_given_ones_page(tmp_path: Path) -> None:
    quiet = normal_windows(23, 16, 200)
    broken = far_away(normal_windows(24, 3, 200))
    only_quality = Monitor(name="rules", metric="quality")
    config = Config(judge=JudgeOptions(defaults=False, learn_windows=12), monitors=[only_quality])
    sealed = by_window(profiles(tmp_path, quiet + broken))
    learned = firing(fed(Judge(config), sealed), "rules")
    assert [window_of(v) for v in learned] == [16, 17, 18]
    assert {(v.severity, v.feature) for v in learned} == {(Severity.TICKET, "x")}
    of_file = firing(fed(Judge(config, [given(tmp_path, quiet)]), sealed), "rules")
    assert {(v.severity, v.feature) for v in of_file} == {(Severity.PAGE, "x")}
    # What no hour explains pages from the first.
    gone = by_window(profiles(tmp_path, quiet + without_x(normal_windows(25, 2, 200))))
    assert {v.severity for v in firing(fed(Judge(config), gone))} == {Severity.PAGE}


def test_a_ticket_that_becomes_a_page_says_which_alarm_tells_it_on(tmp_path: Path) -> None:
    """Far away for half of the rows: the range is a ticket at once, the change pages with the second window."""
    moved = [
        [row | {"x": 1000.0} if i % 2 else row for i, row in enumerate(rows)]
        for rows in normal_windows(32, 4, 200)
    ]
    rows = normal_windows(31, 30, 200) + moved + normal_windows(33, 4, 200)
    judged = fed(Judge(Config()), by_window(profiles(tmp_path, rows)))
    told = [v for v in judged.verdicts if v.alarm and v.severity is Severity.TICKET]
    pages = [v for v in judged.verdicts if v.alarm and v.severity is Severity.PAGE]
    assert [v.state for v in told] == [State.FIRING, State.RESOLVED]
    assert [window_of(v) for v in told] == [30, 31]
    fired = [v for v in pages if v.state is State.FIRING]
    assert window_of(fired[0]) == 31
    assert told[1].why == f"m 1: told by alarm {fired[0].alarm} from now on"
    assert {v.alarm for v in fired} == {fired[0].alarm}
    # Two windows as before, and the third ends it; what it was stays in every line.
    *_, one, two, end = [v for v in pages if v.alarm == fired[0].alarm]
    assert (window_of(one), window_of(two), window_of(end)) == (34, 35, 36)
    assert one.why == two.why == f"{fired[-3].why}; normal again in this window"
    assert (end.state, end.why) == (State.RESOLVED, f"back to normal: {fired[-3].why}")


@pytest.mark.parametrize("before", [{}, {"extra": None}])
def test_a_new_feature_is_a_ticket_without_a_baseline_file(tmp_path: Path, before: Row) -> None:
    rows = [[row | before for row in window] for window in normal_windows(26, 20, 100)]
    rows += [[row | {"extra": row["y"]} for row in w] for w in normal_windows(27, 20, 100)]
    judge = Judge(Config())
    judged = fed(judge, by_window(profiles(tmp_path, rows)))
    found = firing(judged)
    assert {(v.severity, v.feature, v.metric) for v in found} == {(Severity.TICKET, "extra", "new")}
    assert window_of(found[0]) == 20
    # A baseline that is learned goes on, and knows it by then.
    assert [v.state for v in judged.verdicts if v.alarm][-1] is State.RESOLVED


def test_what_was_new_is_missed_when_it_goes_again(tmp_path: Path) -> None:
    quiet = normal_windows(28, 20, 200)
    rows = [*quiet, *[[r | {"extra": r["y"]} for r in w] for w in normal_windows(29, 14, 200)]]
    half = normal_windows(30, 3, 200)
    rows += [[r | {"extra": r["y"] if r["x"] > 0 else None} for r in w] for w in half]
    pages = [
        v
        for v in firing(fed(Judge(Config()), by_window(profiles(tmp_path, rows))))
        if v.severity is Severity.PAGE
    ]
    assert (window_of(pages[0]), pages[0].feature) in [(34, "extra"), (35, "extra")]

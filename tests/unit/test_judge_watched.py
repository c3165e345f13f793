"""What a model is judged against, and when: what stops learning, versions side by side, windows that are cut."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from agent.config import Baseline, Config, Monitor
from agent.config import Judge as JudgeOptions
from agent.config.monitors import When
from agent.fold.profile import Profile
from agent.judge.engine import Judge
from agent.verdict import Judged, Severity, State, Verdict
from tests.support.profiles import START_MS, WIDTH_MS, Row, by_window, normal_windows, profiles


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

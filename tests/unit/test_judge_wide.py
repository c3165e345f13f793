"""Windows of few rows: joined until they show what is asked, alone and beside a twin."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from agent.config import Baseline, Config, Monitor
from agent.config import Judge as JudgeOptions
from agent.config.monitors import Select
from agent.fold.profile import Profile
from agent.judge.engine import Judge
from agent.judge.reference import Reference
from agent.judge.reference_build import build
from agent.verdict import Judged, State, Verdict
from tests.support.profiles import (
    START_MS,
    WIDTH_MS,
    Row,
    by_window,
    normal_windows,
    profiles,
    write_events,
)

FIRST = 20  # windows of the reference


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """20 windows of 1,000 rows of version 1."""
    path = tmp_path_factory.mktemp("wide") / "ref.jsonl"
    rows = normal_windows(1, FIRST, 1000)
    return build([write_events(path, rows)], Config(), created_ms=1).reference


def fed(judge: Judge, windows: Sequence[Sequence[Profile]]) -> Judged:
    judged = Judged()
    for sealed in windows:
        window = sealed[0].window
        judged.add(judge.sealed(sealed, window + 1, (window + 1) * WIDTH_MS * 1_000_000))
    return judged


def firing(judged: Judged, version: str = "2") -> list[Verdict]:
    return [v for v in judged.verdicts if v.state is State.FIRING and v.stream.version == version]


def window_of(verdict: Verdict) -> int:
    return (verdict.window_start_ms - START_MS) // WIDTH_MS - FIRST


TWIN = Config(
    judge=JudgeOptions(defaults=False, wanted_effect=0.15),
    baselines={"stable": Baseline(type="twin", version="1")},
    monitors=[
        Monitor(name="canary", metric="drift", baseline="stable", select=Select(version="2"))
    ],
)


def beside(canary: Sequence[Sequence[Row]]) -> list[list[Row]]:
    """A stable version of 400 rows a window, and a canary."""
    stable = normal_windows(2, len(canary), 400)
    return [
        [*one, *(row | {"version": "2"} for row in two)]
        for one, two in zip(stable, canary, strict=True)
    ]


@pytest.mark.parametrize(("shift", "fires"), [(0.0, False), (0.4, True)])
def test_a_canary_of_few_rows_is_judged_by_many_windows_together(
    tmp_path: Path, reference: Reference, shift: float, fires: bool
) -> None:
    canary = normal_windows(3, 56, 100, shift)
    windows = by_window(profiles(tmp_path, beside(canary), first=FIRST))
    judged = fed(Judge(TWIN, [reference]), windows)
    own = [v for v in judged.verdicts if v.monitor == "canary"]
    assert own[0].state is State.BLIND
    assert [v.feature for v in firing(judged)[:1]] == (["x"] if fires else [])
    if not fires:
        seeing = [v for v in own if v.state is State.OK]
        assert len(seeing) > 20
        assert all(v.minimum_effect is not None and v.minimum_effect <= 0.15 for v in seeing)


def test_what_is_gathered_goes_on_after_a_restart(tmp_path: Path, reference: Reference) -> None:
    rows = beside(normal_windows(3, 30, 100, 0.4))
    windows = by_window(profiles(tmp_path, rows, first=FIRST))
    whole = fed(Judge(TWIN, [reference]), windows)
    for cut in (1, 17):
        first, second = Judge(TWIN, [reference]), Judge(TWIN, [reference])
        before = fed(first, windows[:cut])
        data = first.dump()
        second.load(data)
        assert second.dump() == data
        assert before.verdicts + fed(second, windows[cut:]).verdicts == whole.verdicts


def test_a_feature_that_is_gone_from_windows_of_five_rows_pages(
    tmp_path: Path, reference: Reference
) -> None:
    quiet = normal_windows(5, 12, 5)
    gone = [[row | {"x": None} for row in rows] for rows in normal_windows(6, 9, 5)]
    rows = [[row | {"version": "2"} for row in window] for window in quiet + gone]
    windows = by_window(profiles(tmp_path, rows, first=FIRST))
    found = firing(fed(Judge(Config(), [reference]), windows))
    # Twenty rows are four windows; the first four in which it is gone are one block.
    assert 12 <= window_of(found[0]) <= 19
    assert found[0].feature == "x"


def test_a_stream_of_few_rows_shows_what_single_windows_cannot(
    tmp_path: Path, reference: Reference
) -> None:
    quiet, shifted = normal_windows(7, 40, 60), normal_windows(8, 80, 60, 0.4)
    rows = [[row | {"version": "2"} for row in window] for window in quiet + shifted]
    windows = by_window(profiles(tmp_path, rows, first=FIRST))
    found = firing(fed(Judge(Config(), [reference]), windows))
    assert window_of(found[0]) >= 40
    assert found[0].feature == "x"

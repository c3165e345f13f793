"""A day that swings, without a baseline: what is shown, what pages, and when it is known."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agent.config import Config, Windows
from agent.config import Judge as JudgeOptions
from agent.errors import DecodeError
from agent.fold.profile import Profile
from agent.judge import counted_bytes
from agent.judge.counted import Counted, CountedColumn, counted
from agent.judge.engine import Judge
from agent.judge.recent import Recent, Track
from agent.judge.sketch_counts import Texts
from agent.types import Column, Kind, Role
from agent.verdict import Judged, Severity, State
from tests.support.profiles import START_MS, Row, by_window, profiles

WIDTH_MS = 1_800_000
A_DAY = 48
CONFIG = Config(windows=Windows(width_s=1800), judge=JudgeOptions(learn_windows=24))
Break = Callable[[Row], Row]


def swinging(windows: int, swing: float, rows: int = 120, seed: int = 1) -> Iterator[list[Row]]:
    """Windows of half an hour; `swing`: standard deviations that x is up in the evening and down in the morning.
    Rows swing by a factor of 1 + swing."""
    rng = np.random.default_rng(seed)
    for window in range(windows):
        up = math.sin(2 * math.pi * window / A_DAY)
        n = int(rows * (1.0 + swing) ** (up / 2))
        xs, ys = rng.normal(swing * up, 1.0, n), rng.normal(0.0, 1.0, n)
        cs = rng.choice(3, n, p=[0.5, 0.3, 0.2])
        yield [
            {"x": float(x), "y": float(y), "c": "abc"[c]}
            for x, y, c in zip(xs, ys, cs, strict=True)
        ]


def sealed(path: Path, windows: list[list[Row]]) -> list[list[Profile]]:
    """As windows of half an hour."""
    path.mkdir()
    first = START_MS // WIDTH_MS
    return [
        [replace(p, window=first + at, width_ms=WIDTH_MS) for p in found]
        for at, found in enumerate(by_window(profiles(path, windows)))
    ]


def fed(judge: Judge, windows: list[list[Profile]]) -> Judged:
    judged = Judged()
    for found in windows:
        window = found[0].window
        judged.add(judge.sealed(found, window + 1, (window + 1) * WIDTH_MS * 1_000_000))
    return judged


def place(start_ms: int) -> int:
    return start_ms // WIDTH_MS - START_MS // WIDTH_MS


@pytest.fixture(scope="module")
def week(tmp_path_factory: pytest.TempPathFactory) -> list[list[Profile]]:
    """Eight days that swing by one standard deviation."""
    rows = list(swinging(8 * A_DAY, 1.0, rows=80))
    return sealed(tmp_path_factory.mktemp("swing") / "week", rows)


def test_a_day_that_swings_pages_nobody_and_is_shown(week: list[list[Profile]]) -> None:
    judge = Judge(CONFIG)
    judged = fed(judge, week)
    assert [v for v in judged.verdicts if v.state is State.FIRING] == []
    shown = [v for v in judged.verdicts if v.state is State.LEARNING and v.feature == "x"]
    assert len(shown) > A_DAY // 4  # of the first day, beyond what was learned in its first hours
    assert {v.severity for v in shown} == {Severity.INFO}
    assert "the hour of the day may explain it" in shown[0].why
    # A week on, hours are known: that they differ is nothing to show.
    last = [v for v in judged.verdicts if place(v.window_start_ms) >= 15 * A_DAY // 2]
    assert {v.state for v in last} <= {State.OK, State.BLIND}
    assert judge.state()["models"][0]["learning"] is None


@pytest.mark.parametrize(
    ("feature", "change"),
    [
        ("y", lambda row: row | {"y": row["y"] * 3.0}),
        ("x", lambda row: row | {"x": row["x"] + 2.0}),
        ("y", lambda row: row | {"y": None}),
        ("c", lambda row: row | {"c": "d" if row["y"] > 0.5 else row["c"]}),
    ],
)
@pytest.mark.parametrize("at", [20, 40])
def test_a_break_in_a_first_day_that_swings_pages_within_two_windows(
    tmp_path: Path, at: int, feature: str, change: Break
) -> None:
    rows = list(swinging(at + 3, 1.0, rows=400, seed=2))
    rows[at:] = [[change(row) for row in window] for window in rows[at:]]
    judged = fed(Judge(CONFIG), sealed(tmp_path / "p", rows))
    pages = [v for v in judged.verdicts if v.state is State.FIRING and v.severity is Severity.PAGE]
    assert place(pages[0].window_start_ms) in (at, at + 1)
    assert pages[0].feature == feature


def test_half_of_a_feed_that_is_lost_pages_while_rows_swing(tmp_path: Path) -> None:
    rows = list(swinging(43, 1.0, rows=1000, seed=3))
    rows[40:] = [window[: len(window) // 2] for window in rows[40:]]
    judged = fed(Judge(CONFIG), sealed(tmp_path / "p", rows))
    first = next(v for v in judged.verdicts if v.state is State.FIRING)
    assert place(first.window_start_ms) in (40, 41)
    assert first.attribution[0].statistic == "volume"


def test_a_day_that_does_not_swing_is_enough_to_page_for_what_comes_slowly(tmp_path: Path) -> None:
    rows = list(swinging(2 * A_DAY, 0.0, seed=4))
    for at in range(A_DAY + 8, 2 * A_DAY):
        slope = 0.02 * (at - A_DAY - 8)
        rows[at] = [row | {"x": row["x"] + slope} for row in rows[at]]
    judge = Judge(CONFIG)
    judged = fed(judge, sealed(tmp_path / "p", rows))
    first = next(v for v in judged.verdicts if v.state is State.FIRING)
    assert place(first.window_start_ms) > A_DAY + 8
    assert first.feature == "x"
    assert judge.state()["models"][0]["learning"] is None


@pytest.mark.parametrize("cut", [3, 22])
def test_what_the_last_windows_said_goes_on_after_a_restart(
    cut: int, week: list[list[Profile]]
) -> None:
    windows = week[:28]
    whole = fed(Judge(CONFIG), windows)
    first, second = Judge(CONFIG), Judge(CONFIG)
    before = fed(first, windows[:cut])
    second.load(first.dump())
    assert second.dump() == first.dump()
    assert before.verdicts + fed(second, windows[cut:]).verdicts == whole.verdicts


def test_counts_go_there_and_back_bit_by_bit(week: list[list[Profile]]) -> None:
    data = counted_bytes.to_bytes(counted(week[0][0]))
    assert counted_bytes.to_bytes(counted_bytes.from_bytes(data)) == data
    for wrong in (b"", b"\x00", data[:-3], b"nonsense"):
        with pytest.raises(DecodeError):
            counted_bytes.from_bytes(wrong)


def test_what_rises_evenly_is_expected_to_rise_on() -> None:
    rng = np.random.default_rng(5)
    track = Track()
    ahead = 6.0  # a steady rise runs ahead of the last windows by as much in each of them
    for z in ahead + rng.normal(size=40):
        track.see(float(z), 8)
    assert track.level == pytest.approx(ahead, abs=1.0)
    assert track.high == pytest.approx(1.0, abs=0.6)


def test_nothing_is_said_of_the_first_windows(week: list[list[Profile]]) -> None:
    recent = Recent(WIDTH_MS)
    for found in week[:11]:
        read = counted(found[0])
        cells = recent.measured(read, with_volume=True)
        values, calibration = recent.judged(cells)
        assert not values and calibration.is_learning
        recent.learn(read, cells, with_volume=True)


def test_texts_that_are_new_in_every_window_are_not_kept_for_ever() -> None:
    recent = Recent(WIDTH_MS)
    for at in range(40):
        names = {at * 100 + i: 3.0 for i in range(100)}
        texts = Texts(300.0, names, np.zeros(256), {key: str(key) for key in names})
        column = CountedColumn(Kind.CATEGORICAL, 0.0, texts=texts)
        recent.learn(Counted(300.0, {Column(Role.FEATURE, "c"): column}), [], with_volume=True)
    held = counted_bytes.from_bytes(recent.kept().base).columns[Column(Role.FEATURE, "c")].texts
    assert held is not None
    assert len(held.named) <= 512
    # What was dropped is bounded by what is said of its set.
    assert min(held.bounds) > 0.0
    assert max(held.named) == 3999

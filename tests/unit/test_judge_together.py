"""Rows of several versions: a deploy that shifts them pages nobody, a feed that halves does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from agent.config import Config
from agent.config import Judge as JudgeOptions
from agent.fold.profile import Profile
from agent.judge.reference import ModelKey
from agent.judge.together import Together
from agent.types import StreamKey
from agent.verdict import State, Verdict

NOISE = (3, -5, 8, -2, 6, -7, 1, 4, -6, 2, 5, -3)  # rows of a thousand more, or fewer


def rows_of(windows: Sequence[dict[str, int]]) -> list[dict[ModelKey, list[Profile]]]:
    """Windows of a model "m", by rows of each version."""
    found = []
    for window, versions in enumerate(windows, 1000):
        profiles = {}
        for version, rows in versions.items():
            rows += rows * NOISE[window % len(NOISE)] // 1000
            stream = StreamKey("m", version)
            profiles[ModelKey("m", version)] = [Profile(stream, window, 60_000, rows, 0, 1.0, {})]
        found.append(profiles)
    return found


def judged(together: Together, windows: list[dict[ModelKey, list[Profile]]]) -> list[Verdict]:
    verdicts = []
    for profiles in windows:
        window = next(iter(profiles.values()))[0].window
        verdicts += together.window(window, profiles)
    return verdicts


DEPLOY = [{"1": 8000}] * 20 + [{"1": 4000, "2": 4000}] * 20 + [{"2": 8000}] * 10


def test_rows_that_move_to_another_version_page_nobody() -> None:
    verdicts = judged(Together(Config(), by_rows=False), rows_of(DEPLOY))
    assert [v for v in verdicts if v.state is State.FIRING] == []


def test_a_feed_that_halves_while_two_versions_run_pages_within_two_windows() -> None:
    windows = rows_of(DEPLOY[:30] + [{"1": 2000, "2": 2000}] * 3 + [{"1": 4000, "2": 4000}] * 6)
    verdicts = judged(Together(Config(), by_rows=False), windows)
    firing = [v for v in verdicts if v.state is State.FIRING]
    assert firing[0].window_start_ms in (1030 * 60_000, 1031 * 60_000)
    assert firing[0].stream == StreamKey("m", "")
    assert firing[0].attribution[0].statistic == "volume"
    assert "of all versions (1: " in firing[0].why
    assert verdicts[-1].state is State.RESOLVED


def test_rows_of_the_only_version_are_its_own_affair() -> None:
    windows = rows_of([{"1": 8000}] * 30 + [{"1": 4000}] * 5)
    assert judged(Together(Config(), by_rows=False), windows) == []


def test_windows_whose_other_rows_are_elsewhere_say_nothing() -> None:
    windows = rows_of(DEPLOY[:30] + [{"1": 2000, "2": 2000}] * 3)
    cut = [
        {key: [replace(p, coverage=0.0) for p in held] for key, held in profiles.items()}
        for profiles in windows[30:]
    ]
    assert judged(Together(Config(), by_rows=False), windows[:30] + cut) == []


def test_a_model_that_is_gone_is_forgotten_and_its_alarm_closed() -> None:
    config = Config(judge=JudgeOptions(forget_after_s=7_200.0))
    together = Together(config, by_rows=False)
    judged(together, rows_of(DEPLOY[:30] + [{"1": 2000, "2": 2000}] * 3))
    assert [alarm.state for alarm in together.open_alarms()] == [State.FIRING]
    other = {ModelKey("o", "1"): [Profile(StreamKey("o", "1"), 1216, 60_000, 100, 0, 1.0, {})]}
    closed = together.window(1216, other)  # nineteen times 64, and three hours later
    assert [(v.stream.model, v.state) for v in closed] == [("m", State.RESOLVED)]
    assert together.open_alarms() == []


@pytest.mark.parametrize("at", [1, 15, 31])
def test_what_was_followed_goes_on_after_a_restart(at: int) -> None:
    windows = rows_of(DEPLOY[:30] + [{"1": 2000, "2": 2000}] * 3)
    whole = judged(Together(Config(), by_rows=False), windows)
    first, second = Together(Config(), by_rows=False), Together(Config(), by_rows=False)
    before = judged(first, windows[:at])
    second.restore(first.kept())
    assert before + judged(second, windows[at:]) == whole

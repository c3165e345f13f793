"""Sources: a feed that breaks is named by whatever watches its features, and rolls up under its name."""

from __future__ import annotations

from pathlib import Path

from agent.config import Config, Monitor, Source
from agent.config import Judge as JudgeOptions
from agent.config.monitors import Select, When
from agent.judge.bounds import BoundJudge
from agent.judge.engine import Judge
from agent.judge.sources import Sources
from agent.types import Column, Role, StreamKey
from agent.verdict import State, Verdict
from tests.support.profiles import WIDTH_MS, Row, by_window, normal_windows, profiles

FEED = [f"feed_{i}" for i in range(4)]
SOURCES = [Source(name="the-feed", features=["feed_*"]), Source(name="own", features=["?"])]
GAPS = Monitor(name="gaps", metric="missing_rate", when=When(above=0.2))


def windows_with_a_feed(n: int, broken_from: int, gone: list[str]) -> list[list[Row]]:
    windows = normal_windows(10, n, 60)
    for index, rows in enumerate(windows):
        for row in rows:
            for name in FEED:
                row[name] = None if index >= broken_from and name in gone else row["x"]
    return windows


def fired(tmp_path: Path, gone: list[str], monitors: list[Monitor]) -> tuple[Judge, list[Verdict]]:
    """The judge, and what fires in the last window of a stream whose features `gone` have no values."""
    config = Config(
        judge=JudgeOptions(learn_windows=12, defaults=True), sources=SOURCES, monitors=monitors
    )
    judge = Judge(config)
    last: list[Verdict] = []
    for sealed in by_window(profiles(tmp_path, windows_with_a_feed(16, 14, gone))):
        until = sealed[0].window + 1
        last = judge.sealed(sealed, until, until * WIDTH_MS * 1_000_000).verdicts
    return judge, [v for v in last if v.state is State.FIRING]


def test_a_broken_feed_is_one_alarm_of_the_defaults_and_one_of_a_monitor_both_naming_it(
    tmp_path: Path,
) -> None:
    judge, verdicts = fired(tmp_path, FEED, [GAPS])
    assert [(v.monitor, v.source) for v in verdicts] == [
        ("quality", "the-feed"),
        ("gaps", "the-feed"),
    ]
    # Whoever asked for a monitor, with a severity and actions of its own, is not answered by another's alarm.
    assert len({v.alarm for v in verdicts}) == 2
    by_source = {s["source"]: s for s in judge.state()["sources"]}
    assert by_source["the-feed"]["state"] == "firing"
    assert by_source["the-feed"]["alarms"] == sorted(v.alarm for v in verdicts)
    assert by_source["the-feed"]["features"] == FEED
    assert by_source["own"] == {"source": "own", "state": "ok", "features": [], "alarms": []}


def test_a_monitor_names_no_source_for_one_of_several_features_that_it_watches(
    tmp_path: Path,
) -> None:
    _, verdicts = fired(tmp_path, FEED[:1], [GAPS])
    (own,) = [v for v in verdicts if v.monitor == "gaps"]
    assert (own.feature, own.source) == ("feed_0", None)
    assert own.attribution[0].source == "the-feed"  # where it comes from is said all the same


def test_a_monitor_on_one_feature_names_the_source_that_it_comes_from(tmp_path: Path) -> None:
    only = Monitor(
        name="only", metric="missing_rate", select=Select(feature="feed_2"), when=When(above=0.2)
    )
    judge, verdicts = fired(tmp_path, ["feed_2"], [only])
    (own,) = [v for v in verdicts if v.monitor == "only"]
    assert (own.feature, own.source) == ("feed_2", "the-feed")
    state = next(s for s in judge.state()["sources"] if s["source"] == "the-feed")
    assert own.alarm in state["alarms"]


def test_a_bound_on_all_rows_comes_from_no_source(tmp_path: Path) -> None:
    busy = Monitor(name="busy", metric="volume", when=When(above=1.0))
    judge = BoundJudge(busy, StreamKey("m", "1"), Sources(SOURCES))
    ((profile,),) = by_window(profiles(tmp_path, windows_with_a_feed(1, 1, [])))
    (verdict,) = judge.window(profile, [], None, "", None)
    assert Column(Role.FEATURE, "feed_0") in profile.columns
    assert (verdict.state, verdict.source) == (State.FIRING, None)

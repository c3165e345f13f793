"""The engine: learning, alarms, silence, monitors, baselines that move; the same inputs give the same verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from agent.config import Baseline, Config, Model, Monitor, Source
from agent.config import Judge as JudgeOptions
from agent.config.monitors import Select, When
from agent.errors import DecodeError
from agent.fold.profile import Profile
from agent.judge.alarms import Alarms, Finding, Seen
from agent.judge.engine import Judge
from agent.judge.sources import Sources, matches
from agent.types import Column, Role, StreamKey
from agent.verdict import Cause, Judged, Severity, State, Verdict
from tests.support.profiles import START_MS, WIDTH_MS, Row, by_window, normal_windows, profiles

SHIFTED = 1.5  # standard deviations: nothing subtle


def fed(judge: Judge, windows: Sequence[Sequence[Profile]]) -> Judged:
    """Windows one after the other, as they seal."""
    judged = Judged()
    for sealed in windows:
        window = sealed[0].window
        judged.add(judge.sealed(sealed, window + 1, (window + 1) * WIDTH_MS * 1_000_000))
    return judged


def states(judged: Judged, monitor: str | None = None) -> list[str]:
    return [str(v.state) for v in judged.verdicts if monitor is None or v.monitor == monitor]


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> list[list[Profile]]:
    """20 windows of 500 rows, then 4 in which x has moved."""
    rows = normal_windows(1, 20, 500) + normal_windows(2, 4, 500, SHIFTED)
    return by_window(profiles(tmp_path_factory.mktemp("e"), rows))


LEARN_FAST = Config(judge=JudgeOptions(learn_windows=12))


def test_without_a_baseline_the_first_windows_are_learned_and_a_change_fires(
    stream: list[list[Profile]],
) -> None:
    judged = fed(Judge(LEARN_FAST), stream)
    firing = [v for v in judged.verdicts if v.state is State.FIRING]
    assert states(judged)[:12] == ["learning"] * 12
    assert all(v.state in (State.OK, State.BLIND) for v in judged.verdicts[12:20])
    assert firing and firing[0].window_start_ms <= START_MS + 21 * WIDTH_MS
    assert firing[0].feature == "x"
    assert len({v.alarm for v in firing}) == 1
    assert judged.n_windows == 24


def test_the_same_inputs_give_the_same_verdicts(stream: list[list[Profile]]) -> None:
    one, two = fed(Judge(LEARN_FAST), stream), fed(Judge(LEARN_FAST), stream)
    assert one.verdicts == two.verdicts
    assert one.drift == two.drift


CONFIG = Config(
    judge=JudgeOptions(learn_windows=12),
    models=[Model(name="other")],
    baselines={
        "last": Baseline(type="past", windows=10),
        "faded": Baseline(type="decayed", half_life_windows=5),
        "hourly": Baseline(type="hour", days=1),
    },
    monitors=[
        Monitor(name="against-last", metric="drift", baseline="last"),
        Monitor(name="against-faded", metric="drift", baseline="faded"),
        Monitor(name="against-hour", metric="state", baseline="hourly"),
        Monitor(name="psi", metric="psi", when=When(above=0.2), for_windows=2),
        Monitor(name="mean", metric="mean", select=Select(feature="x"), when=When(above=1.0)),
    ],
)


@pytest.mark.parametrize("cut", [1, 11, 13, 19, 21, 23])
def test_a_judge_goes_on_from_what_it_dumped(cut: int, stream: list[list[Profile]]) -> None:
    whole = fed(Judge(CONFIG), stream)
    first = Judge(CONFIG)
    before = fed(first, stream[:cut])
    data = first.dump()
    second = Judge(CONFIG)
    second.load(data)
    assert second.dump() == data
    after = fed(second, stream[cut:])
    assert before.verdicts + after.verdicts == whole.verdicts


def test_damaged_state_is_a_decode_error() -> None:
    for data in (b"", b"\x00", b"nonsense", msgspec.msgpack.encode([1, 2])):
        with pytest.raises(DecodeError):
            Judge(Config()).load(data)


def test_monitors_fire_by_their_own_rule(stream: list[list[Profile]]) -> None:
    judged = fed(Judge(CONFIG), stream)
    by_name: dict[str, list[Verdict]] = {}
    for verdict in judged.verdicts:
        if verdict.state is State.FIRING:
            by_name.setdefault(verdict.monitor, []).append(verdict)
    assert set(by_name) >= {"drift", "against-last", "against-faded", "psi", "mean", "inventory"}
    at = {
        name: (found[0].window_start_ms - START_MS) // WIDTH_MS for name, found in by_name.items()
    }
    assert at["mean"] == 20
    assert at["psi"] == 21  # for: 2
    assert at["against-last"] in (20, 21)
    assert at["against-faded"] in (20, 21)
    assert by_name["mean"][0].value == pytest.approx(SHIFTED, abs=0.2)
    assert by_name["mean"][0].threshold == 1.0
    assert {v.stream.model for v in by_name["inventory"]} == {"m", "other"}


def test_a_bound_that_is_kept_again_is_resolved_in_the_third_window(tmp_path: Path) -> None:
    rows = normal_windows(41, 3, 100) + normal_windows(42, 2, 100, SHIFTED)
    rows += normal_windows(43, 4, 100)
    high = Monitor(name="mean", metric="mean", select=Select(feature="x"), when=When(above=1.0))
    judge = Judge(Config(judge=JudgeOptions(defaults=False), monitors=[high]))
    told = [v for v in fed(judge, by_window(profiles(tmp_path, rows))).verdicts if v.alarm]
    firing, resolved = State.FIRING, State.RESOLVED
    assert [v.state for v in told] == [firing, firing, firing, firing, resolved]
    last = told[1].why
    assert "x: mean is 1.5" in last
    assert [v.why for v in told[2:4]] == [f"{last}; normal again in this window"] * 2
    assert told[4].why == f"back to normal: {last}"


def test_a_moving_baseline_stands_still_while_an_alarm_is_open(
    tmp_path: Path,
) -> None:
    rows = normal_windows(3, 20, 500) + normal_windows(4, 15, 500, SHIFTED)
    config = Config(
        judge=JudgeOptions(defaults=False),
        baselines={"last": Baseline(type="past", windows=8)},
        monitors=[Monitor(name="d", metric="drift", baseline="last")],
    )
    judged = fed(Judge(config), by_window(profiles(tmp_path, rows)))
    firing = [v for v in judged.verdicts if v.state is State.FIRING]
    assert len(firing) >= 14  # a baseline of 8 windows that moved on would have made it normal
    assert len({v.baseline for v in firing}) == 1


def test_a_canary_is_compared_with_its_twin_in_the_same_window(tmp_path: Path) -> None:
    windows: list[list[Row]] = []
    stable = normal_windows(5, 24, 600)
    worse = normal_windows(6, 16, 600) + normal_windows(7, 8, 600, SHIFTED)
    for a, b in zip(stable, worse, strict=True):
        windows.append(a + [row | {"version": "2"} for row in b])
    config = Config(
        judge=JudgeOptions(defaults=False, learn_windows=12),
        baselines={"stable": Baseline(type="twin", version="1")},
        monitors=[
            Monitor(name="canary", metric="drift", baseline="stable", select=Select(version="2")),
            Monitor(
                name="canary-ks",
                metric="ks",
                baseline="stable",
                select=Select(version="2", feature="x"),
                when=When(above=0.3),
            ),
        ],
    )
    judged = fed(Judge(config), by_window(profiles(tmp_path, windows)))
    firing = [v for v in judged.verdicts if v.state is State.FIRING]
    assert {v.monitor for v in firing} == {"canary", "canary-ks"}
    assert {v.stream.version for v in firing} == {"2"}
    assert {v.feature for v in firing} == {"x"}
    assert min(v.window_start_ms for v in firing) == START_MS + 16 * WIDTH_MS


def test_silence_fires_with_the_clock_when_no_window_seals(stream: list[list[Profile]]) -> None:
    judge = Judge(LEARN_FAST)
    fed(judge, stream[:15])
    end_ms = stream[14][0].end_ms
    assert judge.tick((end_ms + 1000) * 1_000_000).verdicts == []
    judged = judge.tick((end_ms + 10 * WIDTH_MS) * 1_000_000)
    (verdict,) = judged.verdicts
    assert (verdict.monitor, verdict.state) == ("freshness", State.FIRING)
    assert verdict.attribution[0].statistic == "stall"
    back = fed(judge, [stream[15]])
    assert states(back)[0] == "resolved"


def test_a_model_that_stops_while_it_is_learned_is_silent_after_three_windows(
    stream: list[list[Profile]],
) -> None:
    judge = Judge(Config())
    fed(judge, stream[:4])
    last_ms = stream[3][0].end_ms
    told = {}
    for late in (2, 3):  # windows that would have sealed
        options = Config().windows
        slack_ms = 1000 * (options.width_s + options.out_of_orderness_s + options.idle_timeout_s)
        now_ms = last_ms + late * WIDTH_MS + slack_ms
        told[late] = [v.state for v in judge.tick(int(now_ms) * 1_000_000).verdicts]
    assert told == {2: [], 3: [State.FIRING]}


def test_a_window_without_rows_of_a_model_is_seen_while_others_go_on(tmp_path: Path) -> None:
    both = [
        [*rows, *({"model": "other", **r} for r in others)] if w not in (16, 17) else others_only
        for w, (rows, others) in enumerate(
            zip(normal_windows(8, 20, 100), normal_windows(9, 20, 100), strict=True)
        )
        for others_only in ([{"model": "other", **r} for r in others],)
    ]
    judged = fed(Judge(LEARN_FAST), by_window(profiles(tmp_path, both)))
    stalls = [v for v in judged.verdicts if v.monitor == "freshness"]
    assert {v.stream.model for v in stalls} == {"m"}
    assert [
        (v.window_start_ms - START_MS) // WIDTH_MS for v in stalls if v.state is State.FIRING
    ] == [
        16,
        17,
    ]


def test_two_broken_sources_are_two_alarms_and_forty_features_are_not_forty(
    tmp_path: Path,
) -> None:
    names = [f"{feed}_{i}" for feed in ("a", "b") for i in range(20)]
    rng_rows = normal_windows(10, 18, 60)
    for w, rows in enumerate(rng_rows):
        for row in rows:
            for name in names:
                row[name] = None if w >= 15 else row["x"]
    sources = [Source(name="A", features=["a_*"]), Source(name="B", features=["b_*"])]
    config = Config(judge=JudgeOptions(learn_windows=12), sources=sources)
    judged = fed(Judge(config), by_window(profiles(tmp_path, rng_rows)))
    firing = [v for v in judged.verdicts if v.state is State.FIRING]
    assert {v.source for v in firing} == {"A", "B"}
    assert len({v.alarm for v in firing}) == 2
    assert firing[0].attribution[0].source == "A"


# ---------------------------------------------------------------- alarms by themselves

SEEN = Seen(stream=StreamKey("m", "1"), start_ms=0, end_ms=60, rows=100, severity=Severity.PAGE)


def finding(
    feature: str | None,
    source: str | None = None,
    state: State = State.FIRING,
    statistic: str = "loc",
) -> Finding:
    cause = Cause(statistic=statistic, score=9.0, feature=feature, source=source)
    return Finding(
        monitor="drift",
        metric="evidence",
        state=state,
        value=1.0,
        threshold=1.0,
        causes=(cause,),
        source=source,
        why="why",
    )


def at(window: int) -> Seen:
    return msgspec.structs.replace(SEEN, start_ms=window * 60, end_ms=window * 60 + 60)


def test_more_findings_join_the_open_alarm_and_only_another_source_opens_a_second() -> None:
    alarms = Alarms("")
    (first,) = alarms.step(at(0), [finding("x")])
    (joined,) = alarms.step(at(1), [finding("x"), finding("y", "S")])
    assert joined.alarm == first.alarm
    assert joined.source == "S"
    both = alarms.step(at(2), [finding("x"), finding("z", "T")])
    assert [v.source for v in both] == ["S", "T"]
    assert len({v.alarm for v in both}) == 2


def test_an_alarm_goes_from_pending_to_resolved_and_pending_may_pass() -> None:
    alarms = Alarms("")
    steps = [
        [finding("x", state=State.PENDING)],
        [finding("x")],
        [finding("x", state=State.PENDING)],
        [],
        [finding("x", state=State.PENDING)],
        [],
    ]
    seen = [(v.previous, v.state) for w, f in enumerate(steps) for v in alarms.step(at(w), f)]
    assert seen == [
        (State.OK, State.PENDING),
        (State.PENDING, State.FIRING),
        (State.FIRING, State.FIRING),
        (State.FIRING, State.RESOLVED),
        (State.OK, State.PENDING),
        (State.PENDING, State.OK),
    ]


def test_what_is_normal_again_leaves_the_word_to_what_lasts() -> None:
    alarms = Alarms("")
    back = msgspec.structs.replace(finding("gone", statistic="vanished"), is_back=True)
    lasts = msgspec.structs.replace(finding("moved"), why="moved still")
    alarms.step(at(0), [finding("gone", statistic="vanished"), lasts])
    (both,) = alarms.step(at(1), [back, lasts])
    (neither,) = alarms.step(at(2), [back, msgspec.structs.replace(lasts, is_back=True)])
    assert (both.feature, both.why) == ("moved", "moved still")
    assert neither.feature == "moved"
    assert neither.why == "moved still; normal again in this window"
    assert alarms.step(at(3), [])[0].why == "back to normal: moved still"


def test_what_is_gone_outranks_what_has_moved() -> None:
    alarms = Alarms("")
    (verdict,) = alarms.step(at(0), [finding("moved"), finding("gone", statistic="vanished")])
    assert verdict.feature == "gone"
    assert [c.feature for c in verdict.attribution] == ["gone", "moved"]


def test_a_source_is_named_for_most_of_its_features_and_not_for_one_of_several() -> None:
    sources = Sources([Source(name="S", features=["s?"]), Source(name="T", features=["*"])])
    columns = [Column(Role.FEATURE, name) for name in ("s1", "s2", "s3", "t1", "t2", "t3")]
    assert sources.of("m", columns[0]) == "S"
    assert sources.of("m", Column(Role.PREDICTION, "s1")) is None
    assert sources.named("m", columns[:1], columns) is None
    assert sources.named("m", columns[:2], columns) == ("S", pytest.approx(2 / 3))
    assert sources.named("m", columns[:3], columns) == ("S", 1.0)
    assert matches("a*c", "abc") and not matches("a*c", "ABC") and matches("?", "x")


def test_windows_of_two_rows_are_blind_and_never_fire(tmp_path: Path) -> None:
    windows = normal_windows(11, 14, 100) + [rows[:2] for rows in normal_windows(12, 3, 10, 9.0)]
    judged = fed(Judge(LEARN_FAST), by_window(profiles(tmp_path, windows)))
    quiet = [v.state for v in judged.verdicts if v.window_start_ms >= START_MS + 14 * WIDTH_MS]
    assert quiet == [State.BLIND] * 3

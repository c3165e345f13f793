"""Memory of judging: bounded, by estimates that hold; who is not judged is told; what is gone is forgotten."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterable, Sequence
from dataclasses import replace

import pytest

from agent.config import Config, Model, Monitor, Windows
from agent.config import Judge as JudgeOptions
from agent.config.monitors import Select
from agent.fold.profile import Profile, ProfileColumn
from agent.judge.engine import Judge
from agent.judge.presence import MONITOR
from agent.judge.reference import ModelKey
from agent.judge.room import Room
from agent.judge.sizes import learning_bytes
from agent.types import Json, StreamKey
from agent.verdict import UNJUDGED, Judged, Severity, State, Verdict
from tests.support.profiles import WIDTH_MS, normal_windows, profiles

#: Room for four models of three columns that learn.
LIMIT = 1 << 20


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> list[Profile]:
    """24 windows of one model."""
    return profiles(tmp_path_factory.mktemp("r"), normal_windows(1, 24, 300))


def named(profile: Profile, model: str, version: str = "1") -> Profile:
    return replace(profile, stream=StreamKey(model, version))


def at(profile: Profile, window: int) -> Profile:
    return replace(profile, window=window)


def sealed(judge: Judge, parts: Sequence[Profile]) -> Judged:
    window = parts[0].window
    return judge.sealed(parts, window + 1, (window + 1) * WIDTH_MS * 1_000_000)


def fed(judge: Judge, stream: Sequence[Profile], models: Sequence[str]) -> Judged:
    """Each window with rows of all these models."""
    judged = Judged()
    for profile in stream:
        judged.add(sealed(judge, [named(profile, model) for model in models]))
    return judged


def limited(**options: object) -> Config:
    judge = JudgeOptions(max_memory_bytes=LIMIT, **options)  # type: ignore[arg-type]
    return Config(windows=Windows(width_s=60.0), judge=judge)


def told(judged: Judged) -> list[Verdict]:
    return [v for v in judged.verdicts if v.metric == UNJUDGED]


def judged_models(judge: Judge) -> list[str]:
    return [model["stream"]["model"] for model in judge.state()["models"]]


def versions(judge: Judge, name: str) -> list[Json]:
    found = next(m for m in judge.inventory()["models"] if m["model"] == name)
    return found["versions"]  # type: ignore[no-any-return]


# ---------------------------------------------------------------- the limit


def test_past_the_limit_models_are_not_judged_and_each_is_told_once(stream: list[Profile]) -> None:
    judge = Judge(limited())
    judged = fed(judge, stream, "abcdef")
    assert learning_bytes(3, 0) * 4 < LIMIT < learning_bytes(3, 0) * 5
    assert judged_models(judge) == ["a", "b", "c", "d"]
    assert [(v.stream.model, v.state, v.severity) for v in told(judged)] == [
        ("e", State.BLIND, Severity.INFO),
        ("f", State.BLIND, Severity.INFO),
    ]
    assert told(judged)[0].why == (
        "e 1: not judged: the memory of judging is used up (judge.max_memory_bytes)"
    )
    assert judged.n_refused == 2 * len(stream)
    memory = judge.state()["memory"]
    assert memory["used_bytes"] <= memory["limit_bytes"] == LIMIT
    assert [m["model"] for m in memory["not_judged_models"]] == ["e", "f"]
    assert [versions(judge, name)[0]["judged"] for name in "adef"] == [True, True, False, False]


@pytest.mark.parametrize("how", ["models", "monitors"])
def test_declared_models_come_first_and_the_youngest_of_the_others_goes(
    stream: list[Profile], how: str
) -> None:
    config = limited()
    if how == "models":
        config = replace_config(config, models=[Model(name="z")])
    else:
        monitor = Monitor(name="z-moves", metric="drift", select=Select(model="z*"))
        config = replace_config(config, monitors=[monitor])
    judge = Judge(config)
    fed(judge, stream[:3], "abcd")
    judged = fed(judge, stream[3:8], "abcdz")
    assert judged_models(judge) == ["a", "b", "c", "z"]
    assert [(v.stream.model, v.state) for v in told(judged)] == [("d", State.BLIND)]


def test_declared_models_that_have_no_room_either_are_a_ticket(stream: list[Profile]) -> None:
    config = replace_config(limited(), models=[Model(name=name) for name in "abcde"])
    judged = fed(Judge(config), stream[:2], "abcde")
    assert [(v.stream.model, v.severity) for v in told(judged)] == [("e", Severity.TICKET)]


def over_days(stream: Sequence[Profile]) -> list[Profile]:
    """The same windows, twelve hours apart: learning takes a week at most."""
    return [at(profile, stream[0].window + 720 * n) for n, profile in enumerate(stream)]


def test_what_has_learned_makes_room_and_that_is_told(stream: list[Profile]) -> None:
    judge = Judge(limited(learn_windows=12))
    judged = fed(judge, over_days(stream), "abcde")
    assert judged_models(judge) == ["a", "b", "c", "d", "e"]
    assert [(v.stream.model, v.state) for v in told(judged)] == [
        ("e", State.BLIND),
        ("e", State.OK),
    ]
    first, again = told(judged)
    assert again.monitor == first.monitor == MONITOR
    assert (again.previous, again.is_transition) == (State.BLIND, True)
    waited_days = (again.window_start_ms - first.window_start_ms) / 86_400_000
    assert 1.0 <= waited_days <= 7.5


def test_alarms_of_a_model_that_is_let_go_are_closed(stream: list[Profile]) -> None:
    broken = [
        replace(p, columns={c: v for c, v in p.columns.items() if c.name != "x"}) for p in stream
    ]
    many = [f"declared-{n}" for n in range(4)]
    config = replace_config(limited(learn_windows=12), models=[Model(name=m) for m in many])
    judge = Judge(config)
    fed(judge, stream[:14], "y")
    fired = fed(judge, broken[14:16], "y")
    alarm = next(v.alarm for v in fired.verdicts if v.state is State.FIRING)
    judged = sealed(judge, [*(named(stream[16], m) for m in many), named(broken[16], "y")])
    closing = [v for v in judged.verdicts if v.alarm == alarm]
    assert [v.state for v in closing] == [State.RESOLVED]
    assert closing[0].why.startswith("y 1: judged no more: the memory of judging is used up")
    assert judge.state()["alarms"] == []


def test_a_dump_in_the_middle_changes_nothing(stream: list[Profile]) -> None:
    config = limited(learn_windows=12)
    whole, again = Judge(config), Judge(config)
    stream = over_days(stream)
    fed(whole, stream[:10], "abcde")
    again.load(whole.dump())
    assert again.state() == whole.state()
    one, two = fed(whole, stream[10:], "abcde"), fed(again, stream[10:], "abcde")
    assert one.verdicts == two.verdicts
    assert told(one)
    assert again.dump() == whole.dump()


def test_room_lets_the_youngest_go_and_declared_ones_last() -> None:
    room = Room(100, lambda key: key.model == "declared")
    a, b, own = (ModelKey(name, "1") for name in ("a", "b", "declared"))
    for key in (a, own, b):
        assert room.asks(key, 30) == []
        room.charge(key, 30)
    assert room.asks(ModelKey("c", "1"), 30) is None
    assert room.asks(ModelKey("declared", "2"), 30) == [b]
    assert room.asks(ModelKey("declared", "2"), 60) == [b, a]
    assert room.asks(ModelKey("declared", "2"), 90) is None
    room.charge(own, 110)
    assert room.beyond() == [b, a, own]
    room.charge(own, 50)
    assert room.beyond() == [b]


# ---------------------------------------------------------------- forgetting


def test_a_version_that_was_replaced_is_forgotten_and_the_inventory_still_knows_when(
    stream: list[Profile],
) -> None:
    judge = Judge(limited(forget_after_s=3600.0))
    first = stream[0].window
    sealed(judge, [named(stream[0], "m", "1"), named(stream[1], "m", "2")])
    for n in range(1, 62):
        sealed(judge, [at(named(stream[1], "m", "2"), first + n)])
        known = [key.version for key in judge._models]
        assert known == (["1", "2"] if n < 61 else ["2"])
    one, two = versions(judge, "m")
    assert (one["version"], one["judged"], one["features"]) == ("1", False, {})
    assert one["last_seen_ms"] == (first + 1) * WIDTH_MS
    assert two["judged"] and two["features"]


def test_a_silent_model_is_forgotten_after_its_silence_was_told_and_resolved(
    stream: list[Profile],
) -> None:
    config = replace_config(
        limited(forget_after_s=3600.0, silence_s=300.0), models=[Model(name="kept")]
    )
    judge = Judge(config)
    other = stream[2]
    start = stream[0].window
    judged = sealed(judge, [named(stream[0], "gone"), named(stream[1], "kept"), named(other, "on")])
    for n in range(1, 70):
        judged.add(sealed(judge, [at(named(other, "on"), start + n)]))
    silence = [v for v in judged.verdicts if v.stream.model == "gone" and v.monitor == "freshness"]
    assert silence[0].state is State.FIRING
    assert silence[-1].state is State.RESOLVED
    assert silence[-1].why == "gone 1: forgotten: no row for 0.0 days"
    assert judged_models(judge) == ["kept", "on"]
    kept = [v for v in judged.verdicts if v.stream.model == "kept" and v.monitor == "freshness"]
    assert kept[-1].state is State.FIRING  # somebody declared it: its silence goes on


def test_a_forgotten_model_that_comes_back_is_a_new_one(stream: list[Profile]) -> None:
    judge = Judge(limited(forget_after_s=3600.0, learn_windows=12))
    fed(judge, stream[:14], "m")
    for n in range(62):
        sealed(judge, [at(named(stream[0], "other"), stream[13].window + 1 + n)])
    assert judged_models(judge) == ["other"]
    back = sealed(judge, [at(named(stream[0], "m"), stream[13].window + 70)])
    assert [v.state for v in back.verdicts if v.stream.model == "m"] == [State.LEARNING]
    assert versions(judge, "m")[0]["first_seen_ms"] == stream[0].start_ms


def test_an_undeclared_model_that_is_gone_is_told_no_more(stream: list[Profile]) -> None:
    config = replace_config(limited(forget_after_s=3600.0), models=[Model(name="m")])
    judge = Judge(config)
    judged = sealed(judge, [named(stream[0], "m"), named(stream[1], "strange")])
    for n in range(1, 63):
        judged.add(sealed(judge, [at(named(stream[0], "m"), stream[0].window + n)]))
    states = [v.state for v in judged.verdicts if v.stream.model == "strange" and v.alarm]
    assert states[:60] == [State.FIRING] * 60
    assert states[-1] is State.RESOLVED


# ---------------------------------------------------------------- what it costs


def test_a_long_silence_of_many_models_is_a_bounded_number_of_steps(
    stream: list[Profile],
) -> None:
    config = Config(
        windows=Windows(width_s=60.0), judge=JudgeOptions(max_memory_bytes=1 << 30, silence_s=1e4)
    )
    judge = Judge(config)
    bare = replace(stream[0], columns={})
    models = [named(bare, f"m{n:04}") for n in range(1000)]
    sealed(judge, models)
    later = bare.window + 5000
    judged = judge.sealed([at(models[0], later)], later + 1, (later + 1) * WIDTH_MS * 1_000_000)
    # Twenty windows of silence, not 200, and the one with rows, of each.
    assert judged.n_windows == 20 * 1000 + 1000


@pytest.mark.parametrize(("n_columns", "n_windows"), [(3, 30), (12, 14)])
def test_estimates_are_within_two_fifths_of_what_is_allocated(
    stream: list[Profile], n_columns: int, n_windows: int
) -> None:
    def wide(window: int) -> Profile:
        part = stream[window % len(stream)]
        columns = {
            column._replace(name=f"{column.name}{n}"): ProfileColumn(
                held.kind, list(held.present), bytes(bytearray(held.sketch))
            )
            for n in range(n_columns // len(part.columns))
            for column, held in part.columns.items()
        }
        return replace(part, window=stream[0].window + window, columns=columns)

    def learned(judge: Judge, windows: Iterable[int]) -> int:
        for window in windows:
            sealed(judge, [wide(window)])
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    config = Config(windows=Windows(width_s=60.0))
    # What is imported and compiled is no model's.
    learned(Judge(config, with_drift=False), range(14))
    tracemalloc.start()
    try:
        empty = learned(Judge(config, with_drift=False), ())
        judge = Judge(config, with_drift=False)
        held = learned(judge, range(n_windows)) - empty
    finally:
        tracemalloc.stop()
    (model,) = judge._models.values()
    assert model.size_bytes == pytest.approx(held, rel=0.4)
    assert judge.memory_bytes[0] >= held


def replace_config(config: Config, **changes: object) -> Config:
    return Config(**{name: getattr(config, name) for name in config.__struct_fields__} | changes)

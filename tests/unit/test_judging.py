"""A fold that judges: what it tells follows its inputs, survives bytes, and never costs a count."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_parser,
)
from prometheus_client.parser import text_string_to_metric_families as prometheus_parser

from agent.config import Aggregate, Config, Delivery, Export, Model, Service, Windows
from agent.emit.prometheus import render_pieces
from agent.emit.registry import check
from agent.emit.resource import make_resource
from agent.errors import DecodeError
from agent.fold import persist
from agent.fold.base import Fold
from agent.fold.profile import Profile
from agent.judge.engine import Judge
from agent.judging import Folds, JudgingFold, judge_maker
from agent.respond.standing import MAX_UNTOLD, Standing
from agent.state.chunk import merge_digest, to_bytes
from agent.state.entries import Answered, ChunkWritten, Tick
from agent.state.recovery import Owner
from agent.state.volume import Volume
from agent.telemetry import Telemetry
from agent.types import Chunk, Column, Exemplar, Group, Json, Metric, NumberPoint, Role, StreamKey
from agent.verdict import Drift, Judged, Severity, State, Verdict, identity
from tests.support.fold_inputs import chunk
from tests.support.verdicts import HOUR_MS, START_MS, STREAM, verdict

CONFIG = Config(windows=Windows(width_s=1.0, out_of_orderness_s=0.0))


class ScriptedJudge:
    """Fires on every third window of a stream, resolves on the next, and counts what it was asked."""

    def __init__(self) -> None:
        self.windows: dict[str, int] = {}
        self.n_ticks = 0
        self.fails = False
        self.memory_bytes = (10, 100)
        self.n_refused = 0

    def linked(self, links: Sequence[Exemplar]) -> None:
        self.windows["links"] = self.windows.get("links", 0) + len(links)

    def sealed(self, profiles: Sequence[Profile], sealed_until: int, now_ns: int) -> Judged:
        if self.fails:
            raise ZeroDivisionError("a mistake")
        judged = Judged(n_refused=self.n_refused)
        for profile in profiles:
            n = self.windows[profile.stream.model] = self.windows.get(profile.stream.model, 0) + 1
            states = {0: State.FIRING, 1: State.RESOLVED, 2: State.OK}
            judged.verdicts.append(
                verdict(
                    states[n % 3],
                    previous=states[(n - 1) % 3],
                    stream=profile.stream,
                    window_start_ms=profile.start_ms,
                    window_end_ms=profile.end_ms,
                    alarm=f"a-{n // 3}" if n % 3 != 2 else "",
                    rows=profile.rows,
                )
            )
            judged.drift.append(
                drift(
                    stream=profile.stream,
                    window_start_ms=profile.start_ms,
                    window_end_ms=profile.end_ms,
                )
            )
        return judged

    def tick(self, now_ns: int) -> Judged:
        self.n_ticks += 1
        return Judged()

    def dump(self) -> bytes:
        return msgspec.msgpack.encode((self.windows, self.n_ticks))

    def load(self, data: bytes) -> None:
        try:
            self.windows, self.n_ticks = msgspec.msgpack.decode(
                data, type=tuple[dict[str, int], int]
            )
        except msgspec.DecodeError as error:
            raise DecodeError(str(error)) from None

    def state(self) -> Json:
        return {"windows": dict(self.windows)}


def drift(**changes: object) -> Drift:
    fields = {
        "stream": STREAM,
        "column": Column(Role.FEATURE, "distance"),
        "window_start_ms": START_MS,
        "window_end_ms": START_MS + HOUR_MS,
        "metric": "psi",
        "value": 0.3,
        "low": 0.25,
        "high": float("inf"),
    }
    return Drift(**{**fields, **changes})  # type: ignore[arg-type]


def folds(config: Config = CONFIG) -> Folds:
    return Folds(config, Telemetry(), ScriptedJudge)


def judging(made: Folds) -> JudgingFold:
    fold = made.make(1)
    assert isinstance(fold, JudgingFold)
    return fold


def chunk_of(model: str, second: int) -> Chunk:
    """One row, without features, in the window of its second."""
    made = chunk("00000000000000bb", second, second, second + 1)
    made.digest = merge_digest(CONFIG)
    made.ranges[0].max_event_time_ms = second * 1000
    key = StreamKey(model, "", ())
    made.groups = [Group(key, second, 1, 0, second * 1000, second * 1000, [])]
    return made


def feed(fold: Fold, first_s: int, last_s: int) -> None:
    """One row a second of one stream, a chunk each."""
    for second in range(first_s, last_s):
        fold.apply(chunk_of("m", second), second * 1_000_000_000)
        fold.tick(second * 1_000_000_000 + 1)


def values(metrics: list[Metric], name: str) -> dict[tuple[object, ...], float]:
    """Values of a metric's points by the values of their attributes."""
    return {
        tuple(value for _, value in point.attributes): point.value
        for metric in metrics
        if metric.name == name
        for point in metric.points
        if isinstance(point, NumberPoint) and not point.ended
    }


def test_sealed_windows_are_judged_in_their_order_and_told_once() -> None:
    fold = judging(folds())
    feed(fold, 10, 20)
    told = fold.standing.untold(0, 100)
    assert [untold.number for untold in told] == list(range(1, len(told) + 1)) and len(told) >= 8
    starts = [untold.verdict.window_start_ms for untold in told]
    assert starts == sorted(set(starts))
    fold.standing.settle(told[3].number)
    assert [u.number for u in fold.standing.untold(0, 100)] == [u.number for u in told[4:]]
    assert fold.standing.untold(told[-1].number, 100) == []


def test_the_same_inputs_make_the_same_bytes_with_or_without_a_stop_between() -> None:
    made = folds()
    whole = judging(made)
    feed(whole, 10, 40)
    halves = judging(made)
    feed(halves, 10, 23)
    again = made.load(made.dump(halves))
    assert isinstance(again, JudgingFold)
    feed(again, 23, 40)
    assert made.dump(again) == made.dump(whole)
    assert [identity(u.verdict) for u in again.standing.untold(0, 999)] == [
        identity(u.verdict) for u in whole.standing.untold(0, 999)
    ]
    shown = [fold.export(50_000_000_000).metrics for fold in (whole, again)]
    for name in (
        "inference.verdict.status",
        "inference.verdict.transitions",
        "inference.drift.psi",
    ):
        assert values(shown[0], name) == values(shown[1], name) != {}


def test_a_volume_from_before_judging_is_gone_on_with() -> None:
    plain = Fold(CONFIG, start_ns=1)
    feed(plain, 10, 20)
    fold = folds().load(persist.dump(plain))
    assert isinstance(fold, JudgingFold) and fold.tally.rows == 10
    assert fold.standing.subjects == {}
    back = Folds(CONFIG, Telemetry(), None).load(folds().dump(fold))
    assert type(back) is Fold and back.tally.rows == 10, "and the other way round"


def test_judging_of_another_version_begins_anew_and_says_so(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = folds()
    fold = judging(made)
    feed(fold, 10, 20)
    data = made.dump(fold)
    monkeypatch.setattr(
        ScriptedJudge, "load", lambda self, data: (_ for _ in ()).throw(DecodeError("too new"))
    )
    with caplog.at_level(logging.WARNING):
        again = made.load(data)
    assert isinstance(again, JudgingFold) and again.tally.rows == 10
    assert again.standing.subjects == {} and "too new" in caplog.text


def test_a_mistake_in_judging_costs_no_count(caplog: pytest.LogCaptureFixture) -> None:
    made = folds()
    fold = judging(made)
    assert isinstance(fold.judge, ScriptedJudge)
    fold.judge.fails = True
    with caplog.at_level(logging.WARNING):
        feed(fold, 10, 20)
    assert fold.tally.rows == 10 and "a mistake" in caplog.text
    assert made.telemetry.value("inferometer.judge.errors") >= 8
    fold.judge.fails = False
    feed(fold, 20, 30)
    assert fold.standing.untold(0, 99)


def test_what_judging_has_no_memory_for_is_counted_and_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    made = folds()
    fold = judging(made)
    assert isinstance(fold.judge, ScriptedJudge)
    fold.judge.n_refused = 2
    with caplog.at_level(logging.WARNING):
        feed(fold, 10, 12)
    sealings = made.telemetry.value("inferometer.judge.refused") / 2
    assert sealings >= 1
    assert made.telemetry.value("inferometer.budget.judge", state="used") == 10
    assert made.telemetry.value("inferometer.budget.judge", state="limit") == 100
    assert "2 windows are not judged: the memory of judging is used up" in caplog.text
    assert "raise judge.max_memory_bytes" in caplog.text


def test_the_state_page_shows_what_fires_first() -> None:
    fold = judging(folds())
    feed(fold, 10, 15)  # windows 10 to 13 are sealed: the third fired, the fourth resolved
    fold.standing.note(Judged([verdict(stream=StreamKey("z", "", ()))]))
    document = fold.state(1)
    assert document["verdicts"][0]["state"] == "firing"
    assert document["verdict_counts"]["firing"] == 1
    watched = document["judge"].pop("watching")
    assert document["judge"] == {"windows": {"m": 4}}
    assert list(watched["monitors"]) == ["defaults"]


# ---------------------------------------------------------------- metrics


def metrics_of(standing: Standing, **export: object) -> list[Metric]:
    fold = judging(folds(Config(export=Export(**export))))  # type: ignore[arg-type]
    fold.standing = standing
    found = [
        m for m in fold.export(50).metrics if m.name.startswith(("inference.", "inferometer.b"))
    ]
    for metric in found:
        check(metric)
    return found


def test_a_status_is_one_in_one_state_and_zero_where_it_was() -> None:
    standing = Standing(10)
    for state in (State.PENDING, State.FIRING):
        standing.note(Judged([verdict(state, previous=State.OK)]))
    found = metrics_of(standing)
    assert values(found, "inference.verdict.status") == {
        ("flight-delay", "7", "drift", "eu", "page", "pending"): 0,
        ("flight-delay", "7", "drift", "eu", "page", "firing"): 1,
    }
    assert values(found, "inference.verdict.transitions") == {
        ("flight-delay", "drift", "page", "pending"): 1,
        ("flight-delay", "drift", "page", "firing"): 1,
    }
    assert set(values(found, "inference.verdict.value").values()) == {2500.0}
    standing.note(Judged([verdict(State.RESOLVED, previous=State.FIRING)]))
    standing.note(Judged([verdict(State.OK, previous=State.OK, alarm="")]))
    status = values(metrics_of(standing), "inference.verdict.status")
    assert [state for state, value in status.items() if value] == [
        ("flight-delay", "7", "drift", "eu", "page", "ok")
    ]


@pytest.mark.parametrize("openmetrics", [False, True])
def test_a_scrape_shows_verdicts_and_drift_as_prometheus_reads_them(openmetrics: bool) -> None:
    fold = judging(folds())
    fold.standing.note(Judged([verdict()], [drift(), drift(metric="missing")]))
    pieces = render_pieces(
        fold.snapshot(10**18).metrics, make_resource(Service(), {}), openmetrics=openmetrics
    )
    parse = openmetrics_parser if openmetrics else prometheus_parser
    shown = {s.name: s for family in parse(b"".join(pieces).decode()) for s in family.samples}
    status = shown["inference_verdict_status"]
    assert status.value == 1 and status.labels["inference_verdict_state"] == "firing"
    assert shown["inference_verdict_transitions_total"].value == 1
    assert shown["inference_drift_psi"].value == 0.3
    assert shown["inference_drift_missing_ratio"].labels["inference_feature_name"] == "distance"


def test_an_open_alarm_outweighs_what_the_monitor_says_of_another_source() -> None:
    standing = Standing(10)
    standing.note(Judged([verdict(alarm="a-1"), verdict(State.PENDING, alarm="a-2", source="crm")]))
    status = values(metrics_of(standing), "inference.verdict.status")
    assert [key[-1] for key, value in status.items() if value] == ["firing"]


def test_an_alarm_that_is_told_under_another_monitor_is_open_there_alone() -> None:
    standing = Standing(10)
    standing.note(Judged([verdict(State.PENDING, previous=State.OK, monitor="drift")]))
    standing.note(Judged([verdict(monitor="quality")]))
    status = values(metrics_of(standing), "inference.verdict.status")
    assert {(key[2], key[-1]) for key, value in status.items() if value} == {
        ("drift", "ok"),
        ("quality", "firing"),
    }
    assert [v.monitor for v in standing.firing()] == ["quality"]
    again = Standing(10)
    again.load(standing.dump())
    again.note(Judged([verdict(State.RESOLVED, previous=State.FIRING, monitor="quality")]))
    assert again.firing() == []


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        ("none", {}),
        ("values", {"value": 0.3}),
        ("bounds", {"value": 0.3, "low": 0.25}),
    ],
)
def test_drift_is_shown_as_far_as_asked(shown: str, expected: dict[str, float]) -> None:
    standing = Standing(10)
    standing.note(Judged([], [drift()]))
    found = values(metrics_of(standing, drift=shown), "inference.drift.psi")
    assert {key[0]: value for key, value in found.items()} == expected


def test_each_distance_and_kind_of_column_is_in_the_registry() -> None:
    standing = Standing(100)
    names = ["psi", "js", "hellinger", "ks", "wasserstein", "auc", "chi2", "unseen", "missing"]
    for name in [*names, "true_rate", "violations", "a distance of a later version"]:
        for column in (
            Column(Role.FEATURE, "x"),
            Column(Role.PREDICTION, "score"),
            Column(Role.LATENCY, "latency"),
            Column(Role.USAGE, "ttft"),
        ):
            standing.note(Judged([], [drift(metric=name, column=column)]))
    found = metrics_of(standing)
    assert len([m for m in found if m.name.startswith("inference.drift.")]) == 11


def test_drift_keeps_to_its_budget_whole_streams_first() -> None:
    made = folds(Config(export=Export(max_drift_series=3)))
    standing = judging(made).standing
    whole = StreamKey("m", "1", ())
    parts = [StreamKey("m", "1", (("region", name),)) for name in "abcdef"]
    standing.note(Judged([], [drift(stream=stream) for stream in [*parts, whole]]))
    assert len(standing.drift) == 3 and any(key.stream == whole for key in standing.drift)
    standing.note(Judged([], [drift(stream=parts[5], value=0.9)]))
    assert len(standing.drift) == 3, "series that are there stay, others do not come and go"


def test_what_is_heard_of_no_more_is_ended() -> None:
    fold = judging(folds())
    fold.standing.note(Judged([verdict(State.OK, alarm="")], [drift()]))
    assert values(fold.export(10).metrics, "inference.drift.psi")
    day_ms = 86_400_000
    later = verdict(monitor="other", window_end_ms=START_MS + 8 * day_ms)
    fold.standing.note(Judged([later]))
    metrics = {m.name: m.points for m in fold.export(10_000_000).metrics}
    assert [p.ended for p in metrics["inference.drift.psi"]] == [True]
    ended = [p for p in metrics["inference.verdict.status"] if p.ended]
    assert [dict(p.attributes)["inference.monitor.name"] for p in ended] == ["drift"]
    metrics = {m.name: m.points for m in fold.export(200_000_000_000).metrics}
    assert "inference.drift.psi" not in metrics


def test_a_hundred_thousand_verdicts_at_once_are_bounded_and_counted() -> None:
    made = folds()
    fold = judging(made)
    crowd = [
        verdict(State.LEARNING, previous=State.OK, stream=StreamKey(f"m{i}", "", ()), alarm="")
        for i in range(100_000)
    ]
    fold._note(lambda: Judged([*crowd, verdict()]))
    told = fold.standing.untold(0, 10**6)
    assert len(told) <= MAX_UNTOLD and told[-1].verdict.state is State.FIRING
    dropped = made.telemetry.value("inferometer.verdicts.dropped")
    assert dropped == 100_001 - len(told)


def test_verdicts_that_fire_are_known_after_a_restart() -> None:
    made = folds()
    fold = judging(made)
    fold.standing.note(
        Judged([verdict(alarm="a-1"), verdict(alarm="a-2", severity=Severity.TICKET)])
    )
    fold.standing.note(Judged([verdict(State.RESOLVED, previous=State.FIRING, alarm="a-1")]))
    fold.standing.settle(99)
    again = made.load(made.dump(fold))
    assert isinstance(again, JudgingFold)
    firing: list[Verdict] = again.standing.firing()
    assert [v.alarm for v in firing] == ["a-2"] and again.standing.untold(0, 9) == []


# ---------------------------------------------------------------- on a volume


def volume_at(path: Path) -> Volume:
    made = Volume(path, Owner("g", ("t",)), folds().codec(), Telemetry(), clock=lambda: 1)
    made.open()
    return made


def live(volume: Volume, first_s: int, last_s: int) -> None:
    """Rows as volume mode takes them: written, answered, and time in between; all durable."""
    for second in range(first_s, last_s):
        one = chunk_of("m", second)
        one.number = second
        volume.take(ChunkWritten(to_bytes(one)), chunk=one, sync=True)
        volume.take(Answered(one.number, True, [], second * 1_000_000_000))
        volume.take(Tick(second * 1_000_000_000 + 1))
        volume.sync()


def untold_ids(volume: Volume) -> list[str]:
    fold = volume.fold
    assert isinstance(fold, JudgingFold)
    return [identity(untold.verdict) for untold in fold.standing.untold(0, 999)]


@pytest.mark.parametrize("snapshot_at", [None, 20])
def test_a_crash_tells_again_what_was_not_settled_and_nothing_else(
    tmp_path: Path, snapshot_at: int | None
) -> None:
    volume = volume_at(tmp_path)
    live(volume, 10, 20)
    fold = volume.fold
    assert isinstance(fold, JudgingFold)
    before = untold_ids(volume)
    if snapshot_at:
        fold.standing.settle(5)  # told and settled before the snapshot
        volume.snapshot()
    live(volume, 20, 30)
    whole = untold_ids(volume)
    judged = fold.judge.dump()
    volume.close()  # as a crash: nothing is written that was not
    again = volume_at(tmp_path)
    assert untold_ids(again) == whole
    assert whole[: len(before)] == before if snapshot_at is None else whole[0] == before[5]
    assert isinstance(again.fold, JudgingFold) and again.fold.judge.dump() == judged
    again.close()


def test_each_aggregator_of_a_fleet_judges_the_models_of_its_shard() -> None:
    names = [f"model-{i}" for i in range(20)]
    declared = [Model(name=name) for name in names]
    shards = []
    for shard in range(3):
        config = Config(
            models=declared,
            delivery=Delivery(mode="fleet", chunk_topic="chunks", shards=3),
            aggregate=Aggregate(shard=shard),
        )
        make = judge_maker(config)
        assert make is not None
        judge = make()
        assert isinstance(judge, Judge)
        shards.append([model["model"] for model in judge.inventory()["models"]])
    assert all(shards)
    assert sorted(name for shard in shards for name in shard) == sorted(names)

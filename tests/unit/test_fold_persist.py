"""The fold's bytes: what damages them, whose they are, options that changed since, and new start times."""

from __future__ import annotations

import hashlib
import json
import os
import random
import struct
import subprocess
import sys
import zlib
from typing import Any

import msgspec
import pytest

from agent.config import Budget, Config, Export, Feature, Kafka, Model, Windows
from agent.errors import ConfigError, DecodeError
from agent.fold.base import Fold
from agent.fold.persist import MAGIC, VERSION, ForeignStateError, dump, load
from agent.fold.profile import MAGIC as PROFILE_MAGIC
from agent.state.chunk import merge_digest
from agent.state.frame import seal_frame
from agent.types import (
    Column,
    Exemplar,
    HistogramPoint,
    Kind,
    Partition,
    Role,
    Snapshot,
    StreamKey,
)
from tests.support.blocks import LATENCY, Row, chunk_of, feature, prediction, range_of
from tests.support.built import REPOSITORY

S = 1_000_000_000
WIDTH_MS = 60_000
T0 = 1_700_000_000_000 // WIDTH_MS * WIDTH_MS
CONFIG = Config(
    budget=Budget(max_streams=6, max_features_per_stream=7),
    export=Export(top_categories=2),
    models=[Model(name="m0", features=3)],
)
X, C = feature("x"), feature("c")


class Driver:
    """A fold, and a clock that ticks a second with each input."""

    def __init__(self, config: Config = CONFIG) -> None:
        self.config = config
        self.fold = Fold(config, start_ns=1000 * S)
        self.now_s = 1000
        self.number = 0

    def read(
        self, *rows: Row, topic: str = "events", newest_ms: int | None = None, **more: Any
    ) -> Any:
        self.now_s += 1
        self.number += 1
        newest = newest_ms or max((row.time_ms for row in rows), default=-1)
        at = range_of(
            Partition(topic, 0), to_offset=10 * self.number, max_event_time_ms=newest, **more
        )
        made = chunk_of(
            [[list(rows)]],
            digest=merge_digest(self.config),
            ranges=[at],
            number=self.number,
            width_ms=int(self.config.windows.width_s * 1000),
        )
        return self.fold.apply(made, self.now_s * S)

    def export(self, *, accept: bool = True) -> Snapshot:
        self.now_s += 1
        snapshot = self.fold.export(self.now_s * S)
        if accept:
            self.fold.accepted(snapshot)
        return snapshot

    def reload(self, config: Config | None = None) -> None:
        self.config = config or self.config
        self.fold = load(self.config, dump(self.fold))


def key(i: int, **segment: str) -> StreamKey:
    return StreamKey(f"m{i}", "1", tuple(segment.items()))


def row(
    stream: StreamKey, value: Any = 1.0, *, column: Column = X, at_ms: int = 0, **more: Any
) -> Row:
    return Row(stream, T0 + at_ms, {column: value}, **more)


def points(snapshot: Snapshot, name: str) -> list[Any]:
    return [p for metric in snapshot.metrics if metric.name == name for p in metric.points]


def lived(seed: int = 7) -> Driver:
    """A fold in the middle of its life: every kind, overflow, labels, open and sealed windows, a histogram
    whose period is about to end, an export without an answer."""
    random_of = random.Random(seed)
    d = Driver()
    columns = [X, C, feature("b"), feature("v"), LATENCY, prediction("score")]
    columns += [Column(Role.USAGE, "input_tokens"), feature("z")]
    for step in range(12):
        rows = []
        for _ in range(40):
            values = {
                X: random_of.choice([1.5, 2.0, 1e300, 0.0, float("nan")]),
                C: random_of.choice(["red", "green", "blue", "ä" * 40]),
                feature("b"): random_of.random() < 0.5,
                feature("v"): [3.0, 4.0],
                LATENCY: random_of.expovariate(1.0),
                prediction("score"): random_of.random(),
                Column(Role.USAGE, "input_tokens"): float(random_of.randrange(1000)),
                feature("z"): None if step < 5 else "now a text",
            }
            if step == 11:
                values[X] = -1.0
            kept = {c: v for c, v in values.items() if random_of.random() < 0.8}
            stream = key(random_of.randrange(9), region=random_of.choice(["eu", "us", "asia"]))
            at_ms = random_of.randrange(-30_000, 30_000) + step * 20_000
            rows.append(Row(stream, T0 + at_ms, kept, random_of.random() < 0.1))
        d.read(*rows, caught_up=step % 2 == 0, last_row_ns=d.now_s * S)
        d.fold.tick((d.now_s + 1) * S)
        d.export(accept=step not in (4, 11))
    d.fold.apply(
        chunk_of(
            [[[row(key(1), 3.0)]]],
            digest=merge_digest(CONFIG),
            ranges=[range_of(1, to_offset=1)],
            labels_by_model={f"m{i}": i + 1 for i in range(9)} | {"": 1},
            exemplars=[Exemplar(key(1), X, 3.0, 5, bytes(16), bytes(8))],
        ),
        (d.now_s + 2) * S,
    )
    d.fold.forget([Partition("events", 1)])
    return d


@pytest.fixture(scope="module")
def whole() -> bytes:
    return dump(lived().fold)


@pytest.fixture(scope="module")
def small() -> bytes:
    """Short enough that a mutation often hits something."""
    d = Driver()
    d.read(row(key(0), 1.5), row(key(0), "red", column=C), row(key(1), True, at_ms=70_000))
    d.export()
    d.read(row(key(0), -2.0, at_ms=200_000), row(key(0), 0.25, column=LATENCY, at_ms=200_000))
    d.export(accept=False)
    return dump(d.fold)


# ---------------------------------------------------------------- a function of its inputs


def test_a_loaded_fold_writes_the_same_bytes_again(whole: bytes) -> None:
    again = load(CONFIG, whole)
    assert dump(again) == whole
    assert msgspec.json.encode(again.state(5)) == msgspec.json.encode(lived().fold.state(5))
    # The scenario has what it is meant to have.
    assert {k.model for k in again.streams} >= {"m0", "_overflow"}
    assert "_overflow" in again._labels and len(again._labels) > 3
    kinds = {t.kind for s in again.streams.values() for t in s.columns.values()}
    assert kinds >= {Kind.NUMERIC, Kind.CATEGORICAL, Kind.BOOLEAN, Kind.VECTOR}
    assert any(s.open for s in again.streams.values())
    assert any(s.sealed for s in again.streams.values())
    assert any(s.unsketched and s.unsketched_values for s in again.streams.values())
    histograms = [t.histogram for s in again.streams.values() for t in s.columns.values()]
    assert any(h is not None and h._closing is not None for h in histograms)
    assert any(t.exemplars for s in again.streams.values() for t in s.columns.values())


def outcome(seed: int) -> str:
    """Digest of a fold's bytes, and of all that it says."""
    d = lived(seed)
    digest = hashlib.sha256(dump(d.fold))
    snapshot = d.export()
    digest.update(repr((snapshot.time_ns, snapshot.covers)).encode())
    for metric in snapshot.metrics:
        for point in metric.points:
            if isinstance(point, HistogramPoint):
                digest.update(point.positive.tobytes() + point.negative.tobytes())
                point = msgspec.structs.replace(point, positive=None, negative=None)
            digest.update(f"{metric.name} {point!r}".encode())
    effects = d.fold.seal_all(d.now_s * S)
    digest.update(b"".join(profile.to_bytes() for profile in effects.sealed))
    digest.update(repr(list(effects.slow_above_s.items())).encode())
    digest.update(json.dumps([d.fold.state(0), d.fold.report()]).encode())
    return digest.hexdigest()


def test_two_processes_with_other_hash_seeds_say_the_same() -> None:
    code = "from tests.unit.test_fold_persist import outcome; print(outcome(7))"
    said = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=REPOSITORY, env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True, text=True, timeout=100, check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }  # fmt: skip
    assert said == {outcome(7)}
    assert said != {outcome(8)}


def test_scrapes_and_pages_leave_no_trace(whole: bytes) -> None:
    fold = load(CONFIG, whole)
    for now_s in (1, 5000, 2000):
        fold.snapshot(now_s * S)
        fold.state(now_s * S)
        fold.report()
    assert dump(fold) == whole


def test_times_of_scrapes_rise_and_hold_up_no_export() -> None:
    d = Driver()
    d.read(row(key(0)))
    times = [d.fold.snapshot(n * S).time_ns for n in (3000, 2000, 2000)]
    assert times == sorted(set(times))
    assert d.export().time_ns == d.now_s * S
    assert d.fold.snapshot(0).time_ns > times[-1]


def test_an_export_that_was_not_answered_before_the_crash_can_be_answered_after_it() -> None:
    d = Driver()
    d.read(row(key(0)))
    snapshot = d.export(accept=False)
    d.reload()
    d.fold.accepted(snapshot)
    assert not points(d.export(), "inference.rows")


# ---------------------------------------------------------------- bytes that are not what they claim


def with_checksum(data: bytes) -> bytes:
    return data[:-4] + struct.pack("<I", zlib.crc32(data[:-4]))


def refused(data: bytes, config: Config = CONFIG) -> str:
    with pytest.raises(DecodeError) as caught:
        load(config, data)
    return str(caught.value)


def test_every_damaged_byte_and_every_cut_is_noticed(small: bytes, whole: bytes) -> None:
    random_of = random.Random(1)
    for data, n in ((small, 8000), (whole, 1000)):
        for _ in range(n):
            damaged = bytearray(data)
            for _ in range(random_of.choice((1, 1, 1, 2, 10))):
                damaged[random_of.randrange(len(data))] ^= random_of.randrange(1, 256)
            if bytes(damaged) != data:
                assert refused(bytes(damaged)).startswith("state of the fold: ")
    for length in [*range(100), *(random_of.randrange(len(whole)) for _ in range(500))]:
        assert "bytes" in refused(whole[:length])
    for more in (b"\0", b"\0" * 4, small):
        assert "its lengths say" in refused(small + more)


def test_bytes_that_were_written_wrong_are_refused_or_read_and_nothing_else(small: bytes) -> None:
    """Mutations below a right checksum: not damage, but another program's mistake."""
    random_of = random.Random(2)
    read = 0
    for _ in range(1500):
        wrong = bytearray(small)
        for _ in range(random_of.choice((1, 1, 2, 5))):
            at = random_of.randrange(20, len(small) - 4)
            match random_of.randrange(3):
                case 0:
                    wrong[at] = random_of.randrange(256)
                case 1:
                    wrong[at] ^= 1 << random_of.randrange(8)
                case _:
                    wrong[at : at + 4] = random_of.randbytes(min(4, len(small) - 4 - at))
        try:
            load(CONFIG, with_checksum(bytes(wrong)))
            read += 1
        except (DecodeError, ForeignStateError):
            pass
    assert read < 1500


@pytest.mark.parametrize(
    ("version", "next_step"), [(VERSION + 1, "upgrade it"), (0, "an older one"), (999, "upgrade")]
)
def test_other_versions_are_refused_by_their_number(
    small: bytes, version: int, next_step: str
) -> None:
    other = bytearray(small)
    other[4:6] = struct.pack("<H", version)
    assert "checksum" in refused(bytes(other)), "damage is not taken for a version"
    message = refused(with_checksum(bytes(other)))
    assert f"version {version};" in message and next_step in message


def test_foreign_bytes_are_refused(small: bytes) -> None:
    assert "0 bytes" in refused(b"")
    assert "starts with b'IFPR'" in refused(PROFILE_MAGIC + small[4:])
    assert "header" in refused(seal_frame(MAGIC, VERSION, b"\x90", b""))
    assert "header" in refused(seal_frame(MAGIC, VERSION, b"\xdd\xff\xff\xff\xff", b""))
    assert "header" in refused(seal_frame(MAGIC, VERSION, b"\xff" * 50, bytes(100)))


# ---------------------------------------------------------------- options that changed since


def test_another_width_of_windows_is_refused_and_named(small: bytes) -> None:
    with pytest.raises(ForeignStateError, match=r"windows\.width_s is 30, .* windows of 60 s"):
        load(Config(windows=Windows(width_s=30)), small)
    assert issubclass(ForeignStateError, ConfigError)


def test_other_sketches_are_refused() -> None:
    d = Driver()
    d.fold._digest = "60000;hash9"
    with pytest.raises(ForeignStateError, match="60000;hash9"):
        d.reload()


def test_a_memory_limit_that_cannot_hold_the_state_is_refused_and_named() -> None:
    d = Driver(Config(budget=Budget(max_series=100_000)))
    wide = {feature(f"x{i}"): 1.0 for i in range(200)}
    d.read(*(Row(key(i), T0, wide) for i in range(3)))
    with pytest.raises(ForeignStateError, match=r"budget\.max_memory_bytes is 8388608"):
        d.reload(Config(budget=Budget(max_series=100_000, max_memory_bytes=8 << 20)))


def test_lower_limits_keep_what_was_admitted_and_admit_nothing_new() -> None:
    d = Driver(Config())
    d.read(*(row(key(i)) for i in range(5)), row(key(0), 1.0, column=feature("y")))
    d.reload(Config(budget=Budget(max_streams=2, max_features_per_stream=1, max_series=10)))
    d.read(*(row(key(i)) for i in range(7)), row(key(0), 1.0, column=feature("z")))
    assert {k: s.rows for k, s in d.fold.streams.items()} == {
        **{key(i): 2 + 2 * (i == 0) for i in range(5)},
        StreamKey("_overflow", "_overflow"): 2,
    }
    assert list(d.fold.streams[key(0)].columns) == [X, feature("y")]


def test_fewer_open_windows_seal_the_oldest_with_the_next_chunk() -> None:
    d = Driver(Config())
    for i in range(5):
        d.read(row(key(0), at_ms=-i * WIDTH_MS), newest_ms=1)
    assert len(d.fold.streams[key(0)].open) == 5
    d.reload(Config(windows=Windows(max_open=2, keep=1)))
    effects = d.read(row(key(0)), newest_ms=1)
    assert [p.start_ms - T0 for p in effects.sealed] == [
        -4 * WIDTH_MS,
        -3 * WIDTH_MS,
        -2 * WIDTH_MS,
    ]
    (stream,) = d.fold.streams.values()
    assert [p.start_ms - T0 for p in stream.sealed] == [-2 * WIDTH_MS]
    assert len(stream.open) == 2


def test_a_declared_kind_is_for_columns_of_which_no_kind_was_decided() -> None:
    d = Driver(Config())
    d.read(row(key(0), "red", column=C), row(key(0), None))
    d.reload(Config(features={"c": Feature(kind=Kind.TEXT), "x": Feature(kind=Kind.BOOLEAN)}))
    d.read(row(key(0), "red", column=C), row(key(1), "red", column=C), row(key(0), 1.0))
    kinds = {
        k.model: {c.name: t.kind for c, t in s.columns.items()} for k, s in d.fold.streams.items()
    }
    assert kinds == {"m0": {"c": "categorical", "x": "boolean"}, "m1": {"c": "text"}}


def test_a_model_declared_since_has_a_reservation_less_what_it_holds_already() -> None:
    declared = Config(budget=Budget(max_streams=4), models=[Model(name="m0", segments=3)])
    streams = [key(0, region="eu"), key(1)]
    d = Driver(Config(budget=Budget(max_streams=4)))
    d.read(*(row(k) for k in streams))
    d.reload(declared)
    d.read(*(row(key(i)) for i in (2, 3)), *(row(key(0, region=r)) for r in ("us", "asia")))
    assert set(d.fold.streams) == {
        *streams, key(0, region="us"), key(0, region="asia"), StreamKey("_overflow", "_overflow")
    }  # fmt: skip


def test_categories_that_are_no_more_exported_end() -> None:
    d = Driver(Config(export=Export(top_categories=2)))
    d.read(row(key(0), "red", column=C))
    d.fold.seal_all(d.now_s * S)
    (before,) = points(d.export(), "inference.feature.category")
    d.reload(Config(export=Export(top_categories=0)))
    for accept in (False, True):
        (after,) = points(d.export(accept=accept), "inference.feature.category")
        assert after.ended and after.attributes == before.attributes
    assert not points(d.export(), "inference.feature.category")


def test_a_topic_that_holds_labels_by_now_holds_no_window_open() -> None:
    d = Driver(Config(kafka=Kafka(topics=["events", "answers"])))
    d.read(row(key(0)), topic="answers")
    d.read(row(key(0)))
    d.reload(Config(kafka=Kafka(topics=["events"], label_topics=["answers"])))
    effects = d.read(row(key(0), at_ms=WIDTH_MS + 10_000))
    assert [(p.start_ms, p.coverage) for p in effects.sealed] == [(T0, 1.0)]


# ---------------------------------------------------------------- new start times


def test_after_a_renewal_every_value_is_sent_anew_from_a_later_start_without_a_zero() -> None:
    d = Driver()
    d.read(row(key(0), 1.0), row(key(0), "red", column=C), row(key(0), 0.5, column=LATENCY))
    d.read(row(key(1), -1.0))
    d.fold.seal_all(d.now_s * S)
    before = d.export()
    d.now_s += 1
    d.fold.renew(d.now_s * S)
    d.reload()
    after = d.export()
    said = [
        {
            (m.name, p.attributes): p
            for m in snapshot.metrics
            for p in m.points
            if not (p.start_ns and p.time_ns == p.start_ns + 1_000_000)  # explicit zeros
        }
        for snapshot in (before, after)
    ]
    assert said[0].keys() <= said[1].keys()
    n_points = sum(len(m.points) for m in after.metrics)
    assert n_points == len(said[1]), "no zeros"
    for name, old in said[0].items():
        new = said[1][name]
        assert (new.start_ns > old.time_ns) if old.start_ns else not new.start_ns, name
        assert new.time_ns > max(old.time_ns, new.start_ns)
        if not name[0].startswith("inferometer."):
            of = (lambda p: p.count) if isinstance(old, HistogramPoint) else (lambda p: p.value)
            assert of(new) == of(old), name


def test_a_renewal_is_not_undone_by_an_answer_to_an_export_before_it() -> None:
    d = Driver()
    d.read(row(key(0)))
    snapshot = d.export(accept=False)
    d.fold.renew(d.now_s * S)
    d.fold.accepted(snapshot)
    assert [p.value for p in points(d.export(), "inference.rows")] == [1]
    assert not points(d.export(), "inference.rows")


def test_series_that_begin_after_a_renewal_begin_with_a_zero() -> None:
    d = Driver()
    d.read(row(key(0)))
    d.export()
    d.fold.renew(d.now_s * S)
    d.read(row(key(1)))
    assert [p.value for p in points(d.export(), "inference.rows")] == [1, 0, 1]


def test_a_period_that_was_ending_ends_after_the_renewal() -> None:
    d = Driver()
    d.read(row(key(0), 1.0))
    d.export()
    d.read(row(key(0), -1.0))
    d.export(accept=False)
    d.fold.renew(d.now_s * S)
    snapshot = d.export()
    (closing,) = points(snapshot, "inference.feature.value")
    assert (closing.count, closing.sum) == (2, None)
    assert [p.value for p in points(snapshot, "inference.feature.sum")] == [0.0]
    d.read(row(key(0), -3.0))
    d.reload()
    snapshot = d.export()
    zero, after = points(snapshot, "inference.feature.value")
    assert (zero.count, after.count) == (0, 1)
    assert after.start_ns == closing.time_ns
    assert [p.value for p in points(snapshot, "inference.feature.sum")] == [-3.0]


def test_streams_that_nothing_exports_can_still_end_after_a_renewal() -> None:
    d = Driver(Config(budget=Budget(max_streams=1)))
    d.read(row(key(0)))
    d.fold.renew(d.now_s * S)
    d.read(row(key(1)))
    d.fold.seal_all(d.now_s * S)
    d.fold.tick((d.now_s + 48 * 3600) * S)
    assert key(0) not in d.fold.streams

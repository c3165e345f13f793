"""References: from files of every kind, as bytes, merged, shown; what is wrong with a file is said."""

from __future__ import annotations

import csv
import errno
import json
import os
import stat
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agent.cli import main
from agent.config import Config, Windows
from agent.errors import ConfigError, DecodeError, InferometerError
from agent.judge.calibration import Calibration
from agent.judge.cells import CellKey, Statistic
from agent.judge.counted import counted
from agent.judge.hour_share import explained
from agent.judge.panes import Panes
from agent.judge.reference import ModelKey, Reference, read_reference, write_reference
from agent.judge.reference_build import build
from agent.judge.union import united
from agent.state.files import Files
from agent.types import Column, Role, StreamKey
from tests.support.profiles import normal_windows, profiles, write_events

KEY = ModelKey("m", "1")
X = Column(Role.FEATURE, "x")


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    path = write_events(tmp_path_factory.mktemp("r") / "r.jsonl", normal_windows(1, 20, 500))
    return build([path], Config(), created_ms=7).reference


def test_a_reference_holds_all_rows_and_what_windows_showed(reference: Reference) -> None:
    whole = reference.models[KEY]
    assert whole.profile.rows == 10_000
    assert whole.windows == 20
    assert (whole.rows_low, whole.rows_median, whole.rows_high) == (500, 500.0, 500)
    assert whole.gap_s == 60.0
    assert whole.columns[X].missing_high == 0.0
    calibration = Calibration.from_bytes(whole.calibration)
    assert calibration.windows == 40  # blocks of 250 rows: 20 windows are too few
    assert calibration.rows == 10_000


def test_bytes_go_there_and_back(reference: Reference) -> None:
    data = reference.to_bytes()
    back = Reference.from_bytes(data)
    assert back.to_bytes() == data
    assert back.id == reference.id


def test_the_same_rows_have_the_same_id(tmp_path: Path, reference: Reference) -> None:
    path = write_events(tmp_path / "again.jsonl", normal_windows(1, 20, 500))
    assert build([path], Config(), created_ms=9).reference.id == reference.id
    other = write_events(tmp_path / "other.jsonl", normal_windows(2, 20, 500))
    assert build([other], Config(), created_ms=9).reference.id != reference.id


def test_a_profile_is_this_users_alone_whatever_was_there(
    tmp_path: Path, reference: Reference
) -> None:
    """It holds values of features by name."""
    path = tmp_path / "ref.profile"
    path.write_bytes(b"an older one")
    path.chmod(0o644)
    before = os.umask(0o000)
    try:
        size = write_reference(reference, path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.stat().st_size == size
    assert list(tmp_path.iterdir()) == [path]


def test_a_profile_that_cannot_be_written_leaves_the_one_before(
    tmp_path: Path, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "ref.profile"
    write_reference(reference, path)
    before = path.read_bytes()
    monkeypatch.setattr(Files, "sync", full)
    with pytest.raises(InferometerError, match=r"no space left on device.*give another -o FILE"):
        write_reference(reference, path)
    assert path.read_bytes() == before
    assert not list(tmp_path.glob("*.tmp"))


def test_damaged_bytes_are_an_error_and_nothing_else(reference: Reference) -> None:
    data = reference.to_bytes()
    rng = np.random.default_rng(0)
    for _ in range(300):
        at = int(rng.integers(0, len(data)))
        changed = data[:at] + bytes([data[at] ^ int(rng.integers(1, 256))]) + data[at + 1 :]
        with pytest.raises(DecodeError):
            Reference.from_bytes(changed)
    for length in (0, 3, 20, len(data) // 2, len(data) - 1):
        with pytest.raises(DecodeError):
            Reference.from_bytes(data[:length])


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is empty"),
        (b"hello, I am a text and no reference", "starts with"),
    ],
)
def test_a_file_that_is_no_reference_is_one_line_with_what_to_do(
    tmp_path: Path, data: bytes, says: str
) -> None:
    path = tmp_path / "x.profile"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=says) as error:
        read_reference(path)
    assert str(path) in str(error.value)
    assert "inferometer profile build DATA -o FILE" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_newer_version_asks_for_an_upgrade_or_for_another_file(
    tmp_path: Path, reference: Reference
) -> None:
    path = tmp_path / "new.profile"
    data = bytearray(reference.to_bytes())
    data[4] = 99
    path.write_bytes(data)
    with pytest.raises(ConfigError) as raised:
        read_reference(path)
    assert str(raised.value) == (
        f"{path}: reference: version 99; this program reads up to 1: upgrade the program to read this file, "
        "or make the file again with this program: inferometer profile build DATA -o FILE"
    )


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        read_reference(tmp_path / "none.profile")


def test_rows_without_time_are_read_in_their_order(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    path = tmp_path / "bare.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["x", "c"])
        writer.writerows(
            [f"{x:.5f}", "ab"[int(k)]]
            for x, k in zip(rng.normal(size=6000), rng.integers(0, 2, 6000), strict=True)
        )
    built = build([path], Config(), created_ms=0)
    whole = built.reference.models[ModelKey("bare", "")]
    assert whole.profile.rows == 6000
    assert whole.windows == 0
    assert Calibration.from_bytes(whole.calibration).windows == 24
    assert "carry no time" in built.notes[0]


def test_rows_out_of_order_lose_nothing(tmp_path: Path) -> None:
    later = write_events(tmp_path / "later.jsonl", normal_windows(4, 20, 100), first=20)
    earlier = write_events(tmp_path / "earlier.jsonl", normal_windows(5, 20, 100))
    built = build([later, earlier], Config(), created_ms=0)
    assert built.reference.models[KEY].profile.rows == 4000
    assert "not in the order of their time" in built.notes[0]
    in_order = build([earlier, later], Config(), created_ms=0)
    assert in_order.reference.models[KEY].profile.rows == 4000
    assert in_order.reference.models[KEY].windows == 40
    assert in_order.notes == []


def test_parquet_and_jsonl_of_one_table_are_the_same_distribution(tmp_path: Path) -> None:
    windows = normal_windows(5, 4, 500)
    path = write_events(tmp_path / "m.jsonl", windows)
    events = [json.loads(line) for line in path.read_text().splitlines()]
    table = pa.table(
        {
            "ts": [e["ts"] for e in events],
            "model": ["m"] * len(events),
            "version": ["1"] * len(events),
            **{k: [e["features"][k] for e in events] for k in ("x", "y", "c")},
        }
    )
    pq.write_table(table, tmp_path / "m.parquet")
    one, two = (
        build([tmp_path / name], Config(), created_ms=0).reference.models[KEY]
        for name in ("m.jsonl", "m.parquet")
    )
    for column in one.profile.columns:
        assert one.profile.columns[column].sketch == two.profile.columns[column].sketch


def test_segments_are_kept_beside_the_whole(tmp_path: Path) -> None:
    windows = normal_windows(6, 3, 400)
    for rows in windows:
        for i, row in enumerate(rows):
            row["segment"] = {"region": "eu" if i % 4 else "us"}
    path = write_events(tmp_path / "s.jsonl", windows)
    reference = build([path], Config(), created_ms=0).reference
    eu = StreamKey("m", "1", (("region", "eu"),))
    assert reference.models[KEY].profile.rows == 1200
    assert reference.segments[eu].profile.rows == 900
    found = reference.segment(StreamKey("m", "9", (("region", "eu"),)))
    assert found is reference.segments[eu]  # of the version that was seen last


def test_the_union_of_windows_is_the_window_of_all_rows(tmp_path: Path) -> None:
    windows = normal_windows(7, 5, 300)
    parts = profiles(tmp_path, windows)
    whole = united(parts, parts[0].stream)
    (once,) = profiles(tmp_path, [[row for rows in windows for row in rows]])
    assert whole.rows == once.rows
    for column, held in once.columns.items():
        assert whole.columns[column].present == held.present
        assert whole.columns[column].facts == held.facts
    a, b = counted(whole).columns[X].numbers, counted(once).columns[X].numbers
    assert a is not None and b is not None
    assert (a.scale, a.count, a.low, a.high) == (b.scale, b.count, b.low, b.high)
    assert a.positive.tolist() == b.positive.tolist()


def test_panes_stay_few_in_order_and_whole(tmp_path: Path) -> None:
    parts = profiles(tmp_path, normal_windows(8, 50, 30))
    panes = Panes(parts[0].stream, 60, 8)
    for part in parts:
        panes.add(part)
    found = panes.take()
    assert 4 <= len(found) <= 8
    assert sum(p.rows for p in found) == 1500
    assert [p.window for p in found] == sorted(p.window for p in found)


def by_hour(values: Sequence[float]) -> list[tuple[float, float, float]]:
    """Values of one hour of the day after the other, as `explained` is told of them."""
    groups = [np.array(values[hour::24]) for hour in range(min(24, len(values)))]
    return [(len(g), float(g.mean()), float(((g - g.mean()) ** 2).sum())) for g in groups]


def test_the_hour_explains_what_is_constant_within_it() -> None:
    rng = np.random.default_rng(9)
    values = [float(i % 24) + 0.1 * float(rng.normal()) for i in range(240)]
    assert explained(by_hour(values)) > 0.95
    assert abs(explained(by_hour([float(rng.normal()) for _ in range(240)]))) < 0.2
    assert explained(by_hour(values[:100])) == 0.0  # fewer than five values an hour


def test_what_the_hour_explains_is_no_noise(tmp_path: Path) -> None:
    rng = np.random.default_rng(12)
    windows = [
        [{"x": float(v)} for v in rng.normal(np.sin(2 * np.pi * (w % 96) / 96), 0.3, 40).round(3)]
        for w in range(4 * 96)  # quarters of an hour, four days
    ]
    path = write_events(tmp_path / "day.jsonl", windows)
    events = [json.loads(line) for line in path.read_text().splitlines()]
    with path.open("w") as file:
        for event in events:
            event["ts"] = 1_767_225_600_000 + (event["ts"] - 1_767_225_600_000) * 15
            file.write(json.dumps(event) + "\n")
    config = Config(windows=Windows(width_s=900))
    whole = build([path], config, created_ms=0).reference.models[KEY]
    assert sorted(whole.hours) == list(range(24))
    assert sum(p.rows for p in whole.hours.values()) == whole.profile.rows
    cells = {c.key: c for c in Calibration.from_bytes(whole.calibration).cells}
    # Around the whole day's baseline, windows of 40 rows would vary some 30 times as much as independent rows.
    assert cells[CellKey(X, Statistic.LOC)].phi_at(40) < 4.0


def test_the_commands_build_show_diff_merge(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, shift in (("a", 0.0), ("b", 0.5)):
        data = write_events(tmp_path / f"{name}.jsonl", normal_windows(10, 10, 400, shift))
        made = tmp_path / f"{name}.profile"
        assert main(["profile", "build", str(data), "-q", "-o", str(made)]) == 0
    a, b, both = (str(tmp_path / f"{name}.profile") for name in ("a", "b", "both"))
    capsys.readouterr()
    assert main(["profile", "show", a]) == 0
    text = capsys.readouterr().out
    assert "m version 1: 4,000 rows" in text
    assert "10 windows of 60 s" in text
    assert main(["profile", "show", a, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["streams"][0]["columns"]["x"]["count"] == 4000
    assert main(["profile", "diff", a, b, "--json"]) == 0
    found = {(d["feature"], d["metric"]): d for d in json.loads(capsys.readouterr().out)["drift"]}
    low, high = found["x", "auc"]["bound"]
    assert low <= found["x", "auc"]["value"] <= high
    assert found["x", "auc"]["value"] == pytest.approx(0.638, abs=0.02)  # Phi(.5 / sqrt 2)
    assert found["y", "auc"]["value"] == pytest.approx(0.5, abs=0.02)
    assert main(["profile", "diff", a, b]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[4].split()[0] == "x"  # what differs most comes first
    assert main(["profile", "merge", a, b, "-o", both]) == 0
    assert read_reference(Path(both)).models[KEY].profile.rows == 8000
    assert main(["profile", "merge", a, a, "-o", both]) == 2


def test_what_cannot_be_built_is_said_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_events(tmp_path / "a.jsonl", normal_windows(1, 1, 50))
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    no_model = tmp_path / "bare.jsonl"
    no_model.write_text('{"features":{"x":1}}\n')
    out = str(tmp_path / "o.profile")
    for arguments, says in (
        ([str(data), "-o", str(tmp_path / "no" / "o.profile")], "is not a directory"),
        ([str(empty), "-o", out], "no rows"),
        ([str(no_model), "-o", out], "name the model with --model"),
        ([str(data), "-o", out, "--window", "0.5"], "--window is 0.5"),
        (["-", "-o", out], "not from -"),
    ):
        assert main(["profile", "build", *arguments]) == 2
        error = capsys.readouterr().err
        assert says in error
        assert error.count("\n") == 1

"""Replay: files through the same road as live events, and the document it prints."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
from pathlib import Path
from typing import Any

import cramjam
import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agent import replay, replay_text
from agent.config import Budget, Config, Delivery, Windows
from agent.errors import ConfigError, SourceError
from agent.types import Column, JsonType, Role
from tests.support.events import FEATURES, Expected, ExpectedColumn, ExpectedStream, make_events

QUANTILES = ("0.01", "0.05", "0.25", "0.5", "0.75", "0.95", "0.99")
COLUMN_FIELDS = {
    *("kind", "count", "missing", "violations", "non_finite", "over_range"),
    *("min", "max", "mean", "stddev"),
    *("quantiles", "relative_error", "distinct", "top"),
}


@pytest.fixture(scope="module")
def made() -> tuple[bytes, Expected]:
    """Lines of a file. Tombstones and empty values have no line."""
    values, expected = make_events(3000, seed=11)
    for reason in ("tombstone", "empty"):
        expected.dropped[reason] = 0
    lines = []
    for value in values:
        if not value:
            continue
        if value == b"[]":
            expected.dropped["empty"] += 1
        # A record is a line here: indented JSON goes on one.
        lines.append(value.replace(b"\r", b" ").replace(b"\n", b" "))
    expected.dropped += {}  # drops zeros
    return b"\n".join(lines), expected


def report(*files: Path, config: Config | None = None) -> dict[str, Any]:
    found: dict[str, Any] = replay.sketch_files(files, config or Config()).report()
    return found


def key(stream: dict[str, Any]) -> tuple[str, str, tuple[tuple[str, str], ...]]:
    return stream["model"], stream["version"], tuple(sorted(stream["segment"].items()))


def check_numbers(found: dict[str, Any], numbers: list[float]) -> None:
    exact = sorted(numbers)
    # Norms of vectors are rounded once more here than there.
    assert found["min"] == pytest.approx(exact[0], rel=1e-15)
    assert found["max"] == pytest.approx(exact[-1], rel=1e-15)
    scale = math.fsum(map(abs, exact))
    assert found["mean"] * len(exact) == pytest.approx(math.fsum(exact), abs=1e-11 * scale)
    assert found["stddev"] == pytest.approx(np.std(exact, ddof=1), rel=1e-9)
    error = found["relative_error"]
    for q in QUANTILES:
        at = float(q) * (len(exact) - 1)
        low, high = exact[math.floor(at)], exact[math.ceil(at)]
        assert low - error * abs(low) - 1e-19 <= found["quantiles"][q]
        assert found["quantiles"][q] <= high + error * abs(high) + 1e-19


def check_column(found: dict[str, Any], wanted: ExpectedColumn, rows: int, kind: JsonType) -> None:
    assert found.keys() - {"length"} == COLUMN_FIELDS
    values = wanted.of(kind)
    assert found["count"] == len(values)
    assert found["missing"] == rows - wanted.present()
    assert found["violations"] == wanted.present() - len(values)
    if kind in (JsonType.NUMBER, JsonType.VECTOR):
        check_numbers(found, list(values))
    elif kind is JsonType.BOOLEAN:
        assert found["mean"] == pytest.approx(sum(values) / len(values))
    else:
        texts = wanted.texts()
        assert found["distinct"] == pytest.approx(len(texts), rel=0.15, abs=1)
        if len(texts) <= 8:
            assert {(value, count) for value, count in found["top"]} == set(texts.items())


def check_stream(found: dict[str, Any], wanted: ExpectedStream) -> None:
    assert found["rows"] == wanted.rows
    assert found["features"].keys() == FEATURES.keys()
    for name, kind in FEATURES.items():
        column = wanted.columns[Column(Role.FEATURE, name)]
        check_column(found["features"][name], column, wanted.rows, kind)
    for column, value in wanted.columns.items():
        if column.role is Role.PREDICTION:
            kind = JsonType.STRING if column.name == "label" else JsonType.NUMBER
            check_column(found["predictions"][column.name], value, wanted.rows, kind)
    latency = wanted.columns[Column(Role.LATENCY, "latency")]
    check_column(found["latency"], latency, wanted.rows, JsonType.NUMBER)


def test_the_document_holds_exactly_what_the_file_does(
    tmp_path: Path, made: tuple[bytes, Expected]
) -> None:
    raw, expected = made
    path = tmp_path / "events.jsonl"
    path.write_bytes(raw)
    found = report(path)
    assert list(found)[:3] == ["rows", "events", "dropped"]
    assert (found["rows"], found["events"]) == (expected.rows, expected.events)
    assert found["dropped"] == dict(expected.dropped)
    assert found["verdicts"] == []
    streams = {key(stream): stream for stream in found["streams"]}
    assert streams.keys() == set(expected.streams)
    for name, stream in streams.items():
        check_stream(stream, expected.streams[name])  # type: ignore[index]


def test_packing_changes_nothing(tmp_path: Path, made: tuple[bytes, Expected]) -> None:
    raw, _ = made
    plain, packed, zstd = (tmp_path / f"e.jsonl{suffix}" for suffix in ("", ".gz", ".zst"))
    plain.write_bytes(raw)
    packed.write_bytes(gzip.compress(raw))
    zstd.write_bytes(bytes(cramjam.zstd.compress(raw)))
    assert report(plain) == report(packed) == report(zstd)


def test_where_the_file_is_cut_and_split_changes_nothing_that_is_exact(
    tmp_path: Path, made: tuple[bytes, Expected], monkeypatch: pytest.MonkeyPatch
) -> None:
    raw, _ = made
    path = tmp_path / "e.jsonl"
    path.write_bytes(raw)
    whole = report(path)
    monkeypatch.setattr(replay, "CUT_ROWS", 100)
    often = report(path, config=Config(delivery=Delivery(cut_max_windows=2)))
    lines = raw.split(b"\n")
    halves = [tmp_path / "1.jsonl", tmp_path / "2.jsonl"]
    halves[0].write_bytes(b"\n".join(lines[:1234]))
    halves[1].write_bytes(b"\n".join(lines[1234:]))
    for other in (often, report(*halves)):
        assert (other["rows"], other["dropped"]) == (whole["rows"], whole["dropped"])
        for stream, same in zip(other["streams"], whole["streams"], strict=True):
            assert key(stream) == key(same)
            for name in ("amount", "delta", "balance"):
                a, b = stream["features"][name], same["features"][name]
                for exact in (
                    "count",
                    "missing",
                    "violations",
                    "min",
                    "max",
                    "quantiles",
                    "distinct",
                ):
                    assert a[exact] == b[exact]
                assert a["mean"] == pytest.approx(b["mean"], rel=1e-9, abs=1e-9)


def test_the_three_formats_of_one_table_are_one_document(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    n = 700
    rows = [
        {
            "model": "m",
            "version": "1",
            "ts": 1_767_225_600_000 + 50 * i,
            "features.x": float(rng.normal()),
            "features.n": int(rng.integers(0, 9)),
            "features.c": str(rng.choice(["a", "b", "c c"])),
            "features.flag": bool(rng.random() < 0.5),
            "prediction.score": float(rng.random()),
            "latency_ms": float(rng.exponential(20)),
            "segment.region": "eu",
        }
        for i in range(n)
    ]
    jsonl, table, parquet = tmp_path / "a.jsonl", tmp_path / "a.csv", tmp_path / "a.parquet"
    with jsonl.open("wb") as file:
        for row in rows:
            event: dict[str, Any] = {"features": {}, "prediction": {}, "segment": {}}
            for name, value in row.items():
                node, _, leaf = name.rpartition(".")
                (event[node] if node else event)[leaf] = value
            file.write(orjson.dumps(event) + b"\n")
    with table.open("w", newline="") as text:
        writer = csv.DictWriter(text, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    pq.write_table(pa.Table.from_pylist(rows), parquet)
    first = report(jsonl)
    assert first["rows"] == n
    assert report(table) == first
    assert report(parquet) == first


def test_rows_behind_the_watermark_are_late_but_in_the_totals(tmp_path: Path) -> None:
    start = 1_767_225_600_000
    times = [start + 1000 * s for s in (*range(0, 300, 5), 10, 290, 3600)]
    path = tmp_path / "e.jsonl"
    path.write_bytes(
        b"\n".join(orjson.dumps({"model": "m", "features": {"x": 1}, "ts": t}) for t in times)
    )
    config = Config(
        windows=Windows(width_s=60, out_of_orderness_s=10), delivery=Delivery(cut_max_windows=2)
    )
    fold = replay.sketch_files([path], config)
    assert fold.report()["streams"][0]["rows"] == len(times)
    state = fold.state(0)
    rows = sum(w["rows"] for w in state["streams"][0]["windows"])
    assert state["tally"]["irregular"].get("late", 0) <= 1
    assert len(state["streams"][0]["windows"]) == config.windows.keep
    assert rows <= len(times)
    assert state["windows"]["open"] == []


def test_a_file_without_any_times_is_one_window(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    path.write_bytes(b'{"model":"m","features":{"x":1}}\n' * 1000)
    state = replay.sketch_files([path], Config()).state(0)
    (window,) = state["streams"][0]["windows"]
    assert (window["rows"], window["start_ms"], window["partial"]) == (1000, 0, False)


def test_json_is_one_document_on_stdout_and_nothing_else(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes], made: tuple[bytes, Expected]
) -> None:
    path = tmp_path / "e.jsonl"
    path.write_bytes(made[0])
    assert replay.run([path], Config(), json=True, quiet=True) == 0
    out, err = capfdbinary.readouterr()
    assert json.loads(out) == json.loads(orjson.dumps(report(path)))
    assert out.count(b"\n") == 1
    assert err == b""


def test_the_same_file_gives_the_same_report_to_the_last_bit(
    tmp_path: Path, made: tuple[bytes, Expected]
) -> None:
    path = tmp_path / "e.jsonl"
    path.write_bytes(made[0])
    first = orjson.dumps(report(path))
    assert all(orjson.dumps(report(path)) == first for _ in range(4))


def test_without_json_a_table_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], made: tuple[bytes, Expected]
) -> None:
    path = tmp_path / "e.jsonl"
    path.write_bytes(made[0])
    assert replay.run([path], Config()) == 0
    out, err = capsys.readouterr()
    assert "rows/s" in err
    lines = out.splitlines()
    assert lines[0].startswith(f"{made[1].rows:,} rows of {made[1].events:,} events")
    assert any(line.startswith("dropped: ") and "bad_field" in line for line in lines)
    assert sum("churn version 1 region=eu tier=gold" in line for line in lines) == 1
    amount = next(line for line in lines if line.split()[:1] == ["amount"])
    assert amount.split()[1] == "numeric"
    assert set("▁▂▃▄▅▆▇█") & set(amount)
    carrier = next(line for line in lines if line.split()[:1] == ["carrier"])
    assert "UA " in carrier
    assert "%" in carrier


def test_a_model_on_the_command_line_takes_events_that_name_none(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    path.write_bytes(b'{"features":{"x":1}}\n')
    assert report(path)["dropped"] == {"no_model": 1}
    assert replay.run([path], Config(), json=True, quiet=True, model="given") == 0


def test_no_work_is_done_before_all_files_are_open(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    path.write_bytes(b'{"model":"m","features":{"x":1}}\n')
    with pytest.raises(ConfigError, match=r"gone\.csv: No such file"):
        replay.sketch_files([path, tmp_path / "gone.csv"], Config())
    with pytest.raises(ConfigError, match="given twice"):
        replay.sketch_files([path, path], Config())
    with pytest.raises(ConfigError, match="no file given"):
        replay.sketch_files([], Config())


def test_a_file_that_breaks_off_is_a_failure(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"model":"m","features":{"x":1}}\n' * 1000)[:-20])
    with pytest.raises(SourceError, match="cannot be read beyond"):
        replay.sketch_files([path], Config())


def test_progress_rises_to_the_size_of_each_file(tmp_path: Path) -> None:
    paths = [tmp_path / "1.jsonl", tmp_path / "2.jsonl"]
    for path in paths:
        path.write_bytes(b'{"model":"m","features":{"x":1}}\n' * 5000)
    seen: list[replay.Progress] = []
    replay.sketch_files(paths, Config(), on_progress=seen.append)
    for path in paths:
        positions = [p.position_bytes for p in seen if p.path == path]
        assert positions == sorted(positions)
        assert positions[-1] == path.stat().st_size
    assert seen[-1].rows == 10_000


def test_many_streams_stay_within_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "MAX_KNOWN_STREAMS", 50)
    path = tmp_path / "e.jsonl"
    lines = [orjson.dumps({"model": f"m{i}", "features": {"x": i}}) for i in range(2000)]
    path.write_bytes(b"\n".join(lines))
    found = report(path)
    assert sum(stream["rows"] for stream in found["streams"]) == found["rows"] == 2000


# ---------------------------------------------------------------- text


def histogram_of(values: np.ndarray[Any, Any], scale: int = 3) -> dict[str, Any]:
    """The exponential histogram by its definition: upper-inclusive, one value at a time."""

    def side(xs: Any) -> dict[str, Any]:
        keys = [math.ceil(math.log2(x) * 2**scale) - 1 for x in xs]
        if not keys:
            return {"offset": 0, "counts": []}
        counts = np.bincount(np.array(keys) - min(keys))
        return {"offset": min(keys), "counts": counts.tolist()}

    return {
        "scale": scale,
        "zero": int((values == 0).sum()),
        "positive": side(values[values > 0]),
        "negative": side(-values[values < 0]),
    }


@pytest.mark.parametrize("shape", ["normal", "uniform", "zeros", "negative", "integers"])
def test_linear_bins_hold_about_what_the_values_do(shape: str) -> None:
    rng = np.random.default_rng(5)
    values = {
        "normal": rng.normal(0, 3, 20_000),
        "uniform": rng.uniform(100, 110, 20_000),
        "zeros": np.where(rng.random(20_000) < 0.5, 0.0, rng.normal(0, 1, 20_000)),
        "negative": -rng.exponential(1, 20_000),
        "integers": rng.integers(0, 8, 20_000).astype(float),
    }[shape]
    low, high = float(values.min()), float(values.max())
    found = replay_text.bin_counts(histogram_of(values, 6), low, high, 8, low, high)
    assert found.sum() == pytest.approx(len(values), rel=1e-6)
    exact, _ = np.histogram(values, np.linspace(low, high, 9))
    if shape != "integers":  # a value on a bin's edge may fall on either side
        assert np.abs(found - exact).max() < 0.05 * len(values)


def test_bars_show_the_largest_full_and_nothing_above_zero_empty() -> None:
    assert replay_text.bars(np.array([0.0, 1e-9, 50.0, 100.0])) == " ▁▄█"
    assert replay_text.bars(np.zeros(3)) == "   "


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (0.0, "0"),
        (1.5, "1.5"),
        (-3e-9, "-3.00e-09"),
        (123456.7, "123,457"),
        (1e300, "1.00e+300"),
        (12.345678, "12.35"),
    ],
)
def test_numbers_are_short(value: float | None, text: str) -> None:
    assert replay_text.number(value) == text


def test_text_for_a_terminal_without_blocks_is_ascii(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    path.write_bytes(
        b"\n".join(
            orjson.dumps({"model": "modèle", "features": {"x": i, "é\u001b[31m": "naïve"}})
            for i in range(50)
        )
    )
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii")
    replay_text.show(replay.sketch_files([path], Config()).state(0), out)
    out.flush()
    assert b"mod?le" in raw.getvalue()
    assert b"\x1b" not in raw.getvalue()


def test_the_table_shows_non_finite_values_only_where_there_are_any(tmp_path: Path) -> None:
    shown = []
    for name, number in (("a", 1.5), ("b", 1.7e308)):  # whose norm is infinite
        event = {"model": "m", "features": {"x": [number, number], "y": 1.0}}
        path = tmp_path / f"{name}.jsonl"
        path.write_text(f"{json.dumps(event)}\n" * 3)
        state = replay.sketch_files([path], Config()).state(0)
        shown.append(list(replay_text.lines(state)))
    finite, bad = ("\n".join(lines) for lines in shown)
    assert "non-finite" not in finite
    assert "non-finite" in bad
    head, row = (next(line for line in shown[1] if key in line) for key in ("column", " x "))
    at = head.index("non-finite") + len("non-finite")
    assert row[at - 1] == "3"


def test_columns_past_the_limit_are_said_in_the_document_and_the_table(tmp_path: Path) -> None:
    event = {"model": "m", "features": {f"f{n}": 1.0 for n in range(7)}}
    path = tmp_path / "e.jsonl"
    path.write_text(f"{json.dumps(event)}\n" * 5)
    fold = replay.sketch_files([path], Config(budget=Budget(max_features_per_stream=3)))
    (stream,) = fold.report()["streams"]
    assert stream["unsketched"] == {"columns": 4, "values": 20}
    assert any("4 more columns with 20 values" in line for line in replay_text.lines(fold.state(0)))
    fold = replay.sketch_files([path], Config())
    assert not any("more columns" in line for line in replay_text.lines(fold.state(0)))

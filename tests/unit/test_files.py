"""Readers of files: what they hand to the decoder, what they refuse, and what it costs."""

from __future__ import annotations

import builtins
import gzip
import io
import shlex
import struct
import sys
import time
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import cramjam
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agent.config import Config, Decode, Fields
from agent.decode.events import JsonDecoder
from agent.decode.lanes import StreamTable
from agent.decode.tables import cell
from agent.errors import ConfigError, SourceError
from agent.ingest.files import BATCH_BYTES, open_file, stem
from agent.replay import sketch_files
from agent.types import (
    Column,
    Fetch,
    JsonType,
    NumberPoint,
    Partition,
    Role,
    StreamKey,
    TableFetch,
    Tally,
    Tier,
)
from tests.support.decoded import NULL, PARTITION, Result, read_rows

NUMBER, BOOLEAN, STRING, VECTOR = (
    JsonType.NUMBER,
    JsonType.BOOLEAN,
    JsonType.STRING,
    JsonType.VECTOR,
)


def batches(path: Path, config: Config | None = None) -> list[Any]:
    file = open_file(path, config or Config())
    try:
        return list(file.batches())
    finally:
        file.close()


def lines(path: Path, config: Config | None = None) -> list[bytes | None]:
    return [record.value for fetch in batches(path, config) for record in fetch.records]


def decode_file(path: Path, config: Config | None = None) -> Result:
    config = config or Config()
    table = StreamTable()
    decoder = JsonDecoder(config, table, None)
    result = Result([], Tally(), [], [])
    for batch in batches(path, config):
        if isinstance(batch, TableFetch):
            parts: Iterator[Any] = decoder.decode_table(batch, "l")
        else:
            parts = decoder.decode(batch, "l")
        for part in parts:
            result.rows += read_rows(table, part)
            result.tally.add(part.tally)
            result.dead += part.dead
            result.parts.append(part)
    return result


def feature(name: str, kind: JsonType = NUMBER) -> tuple[Column, JsonType]:
    return Column(Role.FEATURE, name), kind


# ---------------------------------------------------------------- lines


def test_lines_become_records_numbered_by_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a":1}\r\n\n   \n  {"b":2}  \nbroken')
    (fetch,) = batches(path)
    assert fetch.partition == Partition(str(path), 0)
    assert [(r.offset, r.value, r.timestamp_ms) for r in fetch.records] == [
        (0, b'{"a":1}', -1),
        (3, b'{"b":2}', -1),
        (4, b"broken", -1),
    ]
    assert (fetch.from_offset, fetch.to_offset) == (0, 5)


@pytest.mark.parametrize("content", [b"", b"\n", b"\n\n \n"])
def test_a_file_without_lines_gives_no_records(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    assert lines(path) == []


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.ndjson", "a.json", "a", "a.jsonl.zst"])
@pytest.mark.parametrize("packing", ["none", "gzip", "zstd"])
def test_packing_is_seen_in_the_bytes_whatever_the_name(
    tmp_path: Path, name: str, packing: str
) -> None:
    text = b"".join(b'{"a":%d}\n' % i for i in range(5000))
    pack = {"none": lambda t: t, "gzip": gzip.compress, "zstd": cramjam.zstd.compress}[packing]
    path = tmp_path / name
    path.write_bytes(bytes(pack(text)))
    assert lines(path) == text.splitlines()


def test_batches_are_bounded_and_abut(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"".join(b"x" * 10_000 + b"\n" for _ in range(500)))
    found = batches(path)
    assert len(found) > 3
    assert all(fetch.size_bytes <= BATCH_BYTES + 10_000 for fetch in found)
    assert [fetch.from_offset for fetch in found[1:]] == [fetch.to_offset for fetch in found[:-1]]
    assert sum(len(fetch.records) for fetch in found) == 500


def test_a_line_that_is_too_long_is_cut_and_counted_as_too_large(tmp_path: Path) -> None:
    event = b'{"model":"m","features":{"x":1}}'
    sizes = [1000, 1001, 1002, 1003, 5000, 3 << 20]
    path = tmp_path / "a.jsonl"
    padded = [event[:-1] + b',"tags":"' + b"y" * (size - len(event) - 10) + b'"}' for size in sizes]
    assert [len(line) for line in padded] == sizes
    path.write_bytes(b"\r\n".join([event, *padded, event]))
    config = Config(decode=Decode(max_record_bytes=1000))
    result = decode_file(path, config)
    assert result.tally.rows == 3
    assert result.tally.dropped == {"too_large": 5}
    assert all(len(record.value or b"") == 1001 for record, _ in result.dead)


def test_a_json_document_gives_its_elements(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b'[\n  {"a": 1},\n  {"b": [1, 2]}\n]\n')
    assert lines(path) == [b'{"a":1}', b'{"b":[1,2]}']
    path.write_bytes(b'{\n "a": 1\n}')
    assert lines(path) == [b'{\n "a": 1\n}']
    path.write_bytes(gzip.compress(b'[\n  {"a": 1}]'))
    assert lines(path) == [b'{"a":1}']
    path.write_bytes(b'broken\n{"a":1}\n')
    assert lines(path) == [b"broken", b'{"a":1}']


def test_standard_input_is_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    text = b'{"a":1}\n{"b":2}\n'
    for raw in (text, gzip.compress(text)):
        stdin = io.TextIOWrapper(io.BufferedReader(io.BytesIO(raw)))  # type: ignore[arg-type]
        monkeypatch.setattr(sys, "stdin", stdin)
        assert lines(Path("-")) == [b'{"a":1}', b'{"b":2}']


@pytest.mark.parametrize("cut", [30, 200, 2000])
@pytest.mark.parametrize("packing", ["gzip", "zstd"])
def test_a_packed_file_that_was_cut_short_is_an_error_that_says_where(
    tmp_path: Path, packing: str, cut: int
) -> None:
    text = b"".join(b'{"a":%d}\n' % (i * 7919 % 10007) for i in range(20_000))
    pack = {"gzip": gzip.compress, "zstd": cramjam.zstd.compress}[packing]
    path = tmp_path / "a.jsonl"
    path.write_bytes(bytes(pack(text))[:-cut])
    with pytest.raises(
        SourceError, match=r"a\.jsonl: .*(cannot be read beyond|cannot be unpacked)"
    ):
        lines(path)


@pytest.mark.parametrize(("name", "unit"), [("a.jsonl.gz", "lines"), ("a.csv.gz", "rows")])
def test_a_gzip_file_that_was_cut_short_says_how_much_of_it_is_whole(
    tmp_path: Path, name: str, unit: str
) -> None:
    text = b"x,y\n" if unit == "rows" else b""
    text += b"".join(b"%d,1\n" % (i * 7919 % 10007) for i in range(20_000))
    packed = gzip.compress(text)[:-5000]
    whole = zlib.decompressobj(wbits=31).decompress(packed).count(b"\n") - (unit == "rows")
    path = tmp_path / name
    path.write_bytes(packed)
    with pytest.raises(SourceError) as caught:
        batches(path)
    assert str(caught.value) == (
        f"{path}: cannot be read beyond {whole} {unit}: "
        "Compressed file ended before the end-of-stream marker was reached; "
        "it can be read with an intact copy, "
        f"and its intact part with: gzip -dc {shlex.quote(str(path))} | inferometer replay -"
    )


def test_position_rises_to_size(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(
        gzip.compress(b"".join(orjson.dumps({"a": i * i}) + b"\n" for i in range(50_000)))
    )
    file = open_file(path, Config())
    seen = [file.position_bytes for _ in file.batches()]
    assert file.size_bytes == path.stat().st_size
    assert seen == sorted(seen)
    assert seen[-1] == file.size_bytes
    file.close()


@pytest.mark.parametrize("name", ["gone.jsonl", "gone.csv", "gone.parquet"])
def test_a_file_that_is_not_there_is_a_usage_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}: No such file or directory"):
        open_file(tmp_path / name, Config())


def test_a_folder_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Is a directory"):
        open_file(tmp_path, Config())


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.csv", "a"), ("churn.v1.csv.gz", "churn.v1"), ("b.parquet", "b"), ("c", "c")],
)
def test_the_stem_is_the_name_without_its_format(name: str, expected: str) -> None:
    assert stem(Path("x.y") / name) == expected


# ---------------------------------------------------------------- csv


def test_a_csv_row_is_an_event(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(
        "model,version,ts,segment.region,features.amount,geo.zip,ok,note,prediction.score,latency_ms,status\n"
        'm,1.10,1767225600123,7,12.5,007,true,"a, ""b""\nc",0.5,20,200\n'
        "m,1.10,2026-01-01T00:00:00.123Z,7,,,,,,,500\n",
        newline="",
    )
    result = decode_file(path)
    assert {row.stream for row in result.rows} == {StreamKey("m", "1.10", (("region", "7"),))}
    assert [row.time_ms for row in result.rows] == [1_767_225_600_123] * 2
    assert [row.is_error for row in result.rows] == [False, True]
    assert result.rows[0].values == {
        feature("amount"): 12.5,
        feature("geo.zip", STRING): "007",
        feature("ok", BOOLEAN): 1.0,
        feature("note", STRING): 'a, "b"\nc',
        (Column(Role.PREDICTION, "score"), NUMBER): 0.5,
        (Column(Role.LATENCY, "latency"), NUMBER): 0.02,
    }
    assert set(result.rows[1].values.values()) == {NULL}
    assert {column.name for column, _ in result.rows[1].values} == {
        "amount",
        "geo.zip",
        "ok",
        "note",
    }
    assert result.tally.rows_by_tier == {Tier.TABLE: 2}


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("0", NUMBER, 0.0),
        ("-1.5e3", NUMBER, -1500.0),
        ("12345678901234567890123", NUMBER, 12345678901234567890123.0),
        ("1e999", NUMBER, float("inf")),
        ("+1", NUMBER, 1.0),
        ("01", STRING, "01"),
        ("007", STRING, "007"),
        ("+007.5", STRING, "+007.5"),
        (".5", NUMBER, 0.5),
        ("5.", NUMBER, 5.0),
        ("-.5e1", NUMBER, -5.0),
        (".", STRING, "."),
        ("1e", STRING, "1e"),
        (" 2", NUMBER, 2.0),
        ("2.5\t", NUMBER, 2.5),
        (" a", STRING, " a"),
        ("inf", NUMBER, float("inf")),
        ("+Infinity", NUMBER, float("inf")),
        (" -inf", NUMBER, float("-inf")),
        ("+-inf", STRING, "+-inf"),
        ("-", STRING, "-"),
        ("nano", STRING, "nano"),
        ("\u0665", STRING, "\u0665"),
        ("1_000", STRING, "1_000"),
        ("True", BOOLEAN, 1.0),
        ("FALSE", BOOLEAN, 0.0),
        ("yes", STRING, "yes"),
        ("null", STRING, "null"),
    ],
)
def test_a_csv_cell_is_a_number_a_boolean_or_text(
    tmp_path: Path, text: str, kind: JsonType, value: Any
) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"x,y\n{text},1\n")
    result = decode_file(path)
    assert result.rows[0].values[feature("x", kind)] == value
    assert result.rows[0].stream == StreamKey("a", "")


@pytest.mark.parametrize("text", ["nan", "NaN", "-nan", " NAN"])
def test_a_csv_cell_that_is_not_a_number_is_present_and_not_finite(
    tmp_path: Path, text: str
) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"x,y\n{text},1\n")
    fold = sketch_files([path], Config())
    found = {
        metric.name: [point.value for point in metric.points if isinstance(point, NumberPoint)]
        for metric in fold.snapshot(time.time_ns()).metrics
    }
    # One point a column, x before y.
    assert found["inference.feature.non_finite"] == [1, 0]
    assert found["inference.feature.missing"] == [0, 0]


def test_a_csv_cell_that_is_nan_keeps_no_payload(tmp_path: Path) -> None:
    value = cell("-NaN")
    assert struct.pack(">d", value) == bytes.fromhex("7ff8000000000000")


def test_the_model_of_a_table_is_its_column_the_configured_one_or_the_file_s_name(
    tmp_path: Path,
) -> None:
    path = tmp_path / "churn.csv"
    path.write_text("model,x\nm,1\n,2\n")
    models = [row.stream.model for row in decode_file(path).rows]
    assert models == ["m", "churn"]
    config = Config(decode=Decode(default_model="d"))
    assert [row.stream.model for row in decode_file(path, config).rows] == ["m", "d"]


def test_columns_follow_the_configured_paths(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("who,when,score,amount,kind\nfraud,1767225600,0.5,3,card\n")
    config = Config(decode=Decode(fields=Fields(model="who", ts="when", prediction="score")))
    (row,) = decode_file(path, config).rows
    assert (row.stream.model, row.time_ms) == ("fraud", 1_767_225_600_000)
    assert row.values == {
        feature("amount"): 3.0,
        feature("kind", STRING): "card",
        (Column(Role.PREDICTION, "value"), NUMBER): 0.5,
    }
    mapped = Fields(model="who", features={"size": "amount"}, prediction="score")
    (row,) = decode_file(path, Config(decode=Decode(fields=mapped))).rows
    assert row.values == {feature("size"): 3.0, (Column(Role.PREDICTION, "value"), NUMBER): 0.5}


def test_rows_that_do_not_fit_the_header(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("x,y\n1\n1,2,3\n\n4,5\n")
    result = decode_file(path)
    assert [row.values for row in result.rows] == [
        {feature("x"): 1.0},
        {feature("x"): 4.0, feature("y"): 5.0},
    ]
    assert result.tally.dropped == {"not_an_event": 1}
    assert result.dead[0][0].value == b'["1","2","3"]'
    assert result.tally.records == 3


def test_a_table_of_labels_is_labels(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("id,model,label,ts\nr1,m,1,1767225600\nr2,m,0,1767225601\n")
    result = decode_file(path)
    assert (result.tally.labels, result.tally.rows) == (2, 0)


def test_a_csv_may_be_packed_separated_by_tabs_or_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv.gz"
    path.write_bytes(gzip.compress(b"\xef\xbb\xbfx\ty\n1\t\xff\n"))
    assert decode_file(path).rows[0].values == {feature("x"): 1.0, feature("y", STRING): "�"}


def test_an_empty_csv_gives_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("")
    assert batches(path) == []


def test_a_csv_that_makes_no_sense_is_an_error_that_says_where(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("x,x\n1,2\n")
    with pytest.raises(SourceError, match="column 'x' stands twice; rename"):
        batches(path)
    path.write_text('x\n1\n"' + "y" * 3000 + "\n")
    with pytest.raises(SourceError, match="line 3: field larger than field limit"):
        batches(path, Config(decode=Decode(max_record_bytes=1000)))


def test_table_offsets_and_sizes_add_up(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("x,y\n" + "1,abc\n" * 10_000)
    found = batches(path)
    assert [fetch.from_offset for fetch in found] == [0, 4096, 8192]
    result = decode_file(path)
    assert result.tally.rows == result.tally.records == 10_000
    assert result.tally.size_bytes == sum(fetch.size_bytes for fetch in found)
    assert result.parts[-1].to_offset == 10_000


# ---------------------------------------------------------------- parquet


def test_parquet_values_keep_their_types(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    at = datetime(2026, 1, 1, 0, 0, 0, 123_456, tzinfo=UTC)
    table = pa.table(
        {
            "model": ["m", "m", "m"],
            "ts": pa.array([at] * 3, pa.timestamp("ns", "UTC")),
            "x": pa.array([1.5, float("nan"), None], pa.float64()),
            "f32": pa.array([0.5, float("inf"), -1.0], pa.float32()),
            "n": pa.array([2**63, None, 1], pa.uint64()),
            "flag": [True, False, None],
            "money": pa.array([Decimal("1.25"), None, Decimal(-3)], pa.decimal128(10, 2)),
            "day": pa.array([datetime(2026, 1, 2).date()] * 3),
            "text": pa.array(["a", "é", None]).dictionary_encode(),
            "vec": [[3.0, 4.0], [], None],
            "segment": [{"region": "eu"}] * 3,
            "nest": [{"a": 1, "b": {"c": "z"}}] * 3,
        }
    )
    pq.write_table(table, path)
    rows = decode_file(path).rows
    assert {row.stream for row in rows} == {StreamKey("m", "", (("region", "eu"),))}
    assert {row.time_ms for row in rows} == {1_767_225_600_123}
    first, second, third = (row.values for row in rows)
    assert first == {
        feature("x"): 1.5,
        feature("f32"): 0.5,
        feature("n"): 2.0**63,
        feature("flag", BOOLEAN): 1.0,
        feature("money"): 1.25,
        feature("day", STRING): "2026-01-02",
        feature("text", STRING): "a",
        feature("vec", VECTOR): 5.0,
        feature("nest.a"): 1.0,
        feature("nest.b.c", STRING): "z",
    }
    # NaN is a value, and not a finite one; null is none.
    assert str(second[feature("x")]) == "nan"
    assert second[feature("f32")] == float("inf")
    assert second[feature("n")] == NULL
    assert second[feature("vec", VECTOR)] == 0.0
    assert third[feature("x")] == third[feature("text", STRING)] == NULL


def test_a_nan_of_a_table_is_never_taken_for_a_marker(tmp_path: Path) -> None:
    import numpy as np

    from agent.sketch.cells import ABSENT_BITS, NULL_BITS

    odd = np.array([ABSENT_BITS, NULL_BITS, 0xFFF8_0000_0000_0001], np.uint64).view(np.float64)
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"x": pa.array(odd)}), path)
    assert [str(row.values[feature("x")]) for row in decode_file(path).rows] == ["nan"] * 3


def test_a_naive_time_of_a_table_is_utc(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"ts": [datetime(2026, 1, 1)], "x": [1]}), path)
    assert decode_file(path).rows[0].time_ms == 1_767_225_600_000


def test_parquet_position_and_offsets(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"x": list(range(10_000))}), path)
    file = open_file(path, Config())
    seen = [(batch.from_offset, file.position_bytes) for batch in file.batches()]  # type: ignore[union-attr]
    assert [offset for offset, _ in seen] == [0, 4096, 8192]
    assert seen[-1][1] == file.size_bytes == path.stat().st_size
    file.close()


def test_what_is_no_parquet_says_so(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(b"hello, world")
    with pytest.raises(ConfigError, match="not a Parquet file"):
        open_file(path, Config())


def test_without_pyarrow_the_error_names_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ConfigError, match=r"inferometer\[parquet\]"):
        open_file(tmp_path / "a.parquet", Config())


def test_readers_yield_what_the_decoder_takes(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"{}")
    (fetch,) = batches(path)
    assert isinstance(fetch, Fetch)
    assert fetch.partition != PARTITION

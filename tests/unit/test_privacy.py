"""Texts of events leave only where the configuration names them: every road out is searched for one."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import orjson
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from agent import replay, replay_text
from agent.config import Config, Export, Feature, Privacy, Service, Traces
from agent.decode.fast import FastDecoder
from agent.decode.lanes import StreamTable
from agent.decode.spans import SpanSampler
from agent.emit.console import Console
from agent.emit.delta import DeltaConverter
from agent.emit.otlp_metrics import MetricEncoder
from agent.emit.otlp_traces import encode_request_span
from agent.emit.prometheus import render
from agent.emit.resource import make_resource
from agent.errors import ConfigError
from agent.fold.base import Fold
from agent.fold.shown import MIN_KEY_BYTES
from agent.state.chunk import merge_digest
from agent.types import Exemplar, Fetch, HistogramPoint, Partition, Record, StreamKey
from tests.support.blocks import Row, chunk_of, feature, prediction, range_of

KEY = StreamKey("m", "1", ())
T0 = 1_700_000_000_000 // 60_000 * 60_000
PLANTED = "jane-planted"
ANSWER = "planted-answer"
RARE = "rare-planted"
RESOURCE = make_resource(Service(), {})


def folded(config: Config) -> Fold:
    """Four rows with the planted text, one with a rare one; each in a feature and in the prediction."""
    rows = [
        Row(KEY, T0, {feature("who"): text, feature("plan"): text, prediction("label"): answer})
        for text, answer in [(PLANTED, ANSWER)] * 4 + [(RARE, RARE)]
    ]
    fold = Fold(config, start_ns=1)
    ranges = [range_of(0, max_event_time_ms=T0)]
    fold.apply(chunk_of([[rows]], digest=merge_digest(config), ranges=ranges), 2)
    fold.seal_all(3)
    return fold


def everything_out(config: Config) -> dict[str, bytes]:
    """Each output of the process that is made of the fold, as the bytes that leave."""
    fold = folded(config)
    out: dict[str, bytes] = {}
    export = fold.export(10**9)
    encoder = MetricEncoder(RESOURCE.encoded, RESOURCE.scope, max_bytes=10**6)
    out["otlp"] = b"".join(body.data for body in encoder.encode(export.metrics).bodies)
    delta = DeltaConverter().convert(fold.export(2 * 10**9, zeros=False).metrics)
    out["otlp delta"] = b"".join(body.data for body in encoder.encode(delta).bodies)
    for openmetrics in (False, True):
        metrics = fold.snapshot(3 * 10**9).metrics
        out[f"prometheus {openmetrics}"] = render(metrics, RESOURCE, openmetrics=openmetrics)
    out["state"] = orjson.dumps(fold.state(4 * 10**9), option=orjson.OPT_NON_STR_KEYS)
    out["report"] = orjson.dumps(fold.report(), option=orjson.OPT_NON_STR_KEYS)
    text = io.StringIO()
    replay_text.show(fold.state(5 * 10**9), text)
    out["replay table"] = text.getvalue().encode()
    console: list[str] = []
    Console(console.append).show(export)
    out["console"] = "".join(console).encode()
    return out


def where(planted: str, outputs: dict[str, bytes]) -> set[str]:
    return {name for name, data in outputs.items() if planted.encode() in data}


def key_file(tmp_path: Path, text: str = "k" * 32) -> str:
    path = tmp_path / "key"
    path.write_text(text + "\n")
    return str(path)


METRICS = {"otlp", "otlp delta", "prometheus False", "prometheus True"}
DOCUMENTS = {"state", "report", "replay table"}


def test_by_default_no_text_of_an_event_leaves() -> None:
    outputs = everything_out(Config())
    assert where("inference", outputs) >= METRICS, "there is something in which to look"
    for planted in (PLANTED, ANSWER, RARE):
        assert where(planted, outputs) == set()


def test_names_leave_where_they_are_asked_for() -> None:
    outputs = everything_out(Config(privacy=Privacy(values="names")))
    assert where(PLANTED, outputs) == DOCUMENTS
    outputs = everything_out(Config(export=Export(top_categories=5)))
    assert where(PLANTED, outputs) == METRICS | DOCUMENTS
    assert where(ANSWER, outputs) >= METRICS


def test_off_wins_over_the_number_of_categories() -> None:
    outputs = everything_out(Config(export=Export(top_categories=5), privacy=Privacy(values="off")))
    for planted in (PLANTED, ANSWER, RARE):
        assert where(planted, outputs) == set()


@pytest.mark.parametrize("values", ["off", "hashed"])
def test_one_feature_is_kept_back_while_another_is_named(tmp_path: Path, values: Any) -> None:
    config = Config(
        export=Export(top_categories=5),
        privacy=Privacy(predictions="off", key_file=key_file(tmp_path)),
        features={"who": Feature(values=values)},
    )
    (stream,) = folded(config).report()["streams"]
    who, plan = (stream["features"][name]["top"] for name in ("who", "plan"))
    assert plan == [[PLANTED, 4], [RARE, 1]]
    assert PLANTED not in json.dumps(who)
    assert [count for _, count in who] == ([4, 1] if values == "hashed" else [])
    assert where(ANSWER, everything_out(config)) == set()


def test_a_hash_is_keyed_stable_and_joins_no_two_columns(tmp_path: Path) -> None:
    def tops(key: str) -> dict[str, list[Any]]:
        config = Config(privacy=Privacy(values="hashed", key_file=key_file(tmp_path, key)))
        (stream,) = folded(config).report()["streams"]
        return {name: c["top"] for name, c in stream["features"].items()}

    one, again, other = tops("a" * 16), tops("a" * 16), tops("b" * 16)
    assert one == again
    for name, top in one.items():
        assert [count for _, count in top] == [4, 1]
        assert all(len(text) == 17 and text[0] == "#" for text, _ in top)
        assert {text for text, _ in top}.isdisjoint(text for text, _ in other[name])
    assert {t for t, _ in one["who"]}.isdisjoint(t for t, _ in one["plan"])


def test_hashed_values_hide_the_text_everywhere(tmp_path: Path) -> None:
    config = Config(
        export=Export(top_categories=5),
        privacy=Privacy(values="hashed", key_file=key_file(tmp_path)),
    )
    outputs = everything_out(config)
    for planted in (PLANTED, ANSWER, RARE, "k" * 32):
        assert where(planted, outputs) == set()
    (stream,) = folded(config).report()["streams"]
    hashed = stream["features"]["who"]["top"][0][0]
    assert where(hashed[:12], outputs) == METRICS | DOCUMENTS


def test_texts_in_fewer_rows_than_k_are_left_out() -> None:
    config = Config(export=Export(top_categories=5), privacy=Privacy(k=4))
    outputs = everything_out(config)
    assert where(PLANTED, outputs) == METRICS | DOCUMENTS
    assert where(RARE, outputs) == set()
    config = Config(export=Export(top_categories=5), privacy=Privacy(k=5))
    assert where(PLANTED, everything_out(config)) == set()


def test_a_key_is_required_readable_and_long_enough(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"privacy\.key_file is not set; privacy\.values: hashed"):
        Config(privacy=Privacy(values="hashed"))
    with pytest.raises(ValueError, match=r"features\.who\.values: hashed needs a file"):
        Config(features={"who": Feature(values="hashed")})
    missing = str(tmp_path / "none")
    with pytest.raises(ConfigError, match=r"privacy\.key_file is .*none.* cannot be read"):
        Fold(Config(privacy=Privacy(values="hashed", key_file=missing)), start_ns=1)
    short = key_file(tmp_path, "s3cret")
    with pytest.raises(ConfigError, match=rf"holds 6 bytes, must hold {MIN_KEY_BYTES}") as caught:
        Fold(Config(privacy=Privacy(values="hashed", key_file=short)), start_ns=1)
    assert "s3cret" not in str(caught.value)


def test_replay_names_texts_unless_told_otherwise(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    events = tmp_path / "events.jsonl"
    event = {"model": "m", "ts": T0, "features": {"who": PLANTED}, "prediction": ANSWER}
    events.write_text("".join(json.dumps(event) + "\n" for _ in range(3)))
    assert replay.run([events], Config(), json=True) == 0
    assert PLANTED in capfd.readouterr().out
    for as_json in (True, False):
        config = Config(privacy=Privacy(values="off"))
        assert replay.run([events], config, json=as_json) == 0
        captured = capfd.readouterr()
        assert PLANTED not in captured.out + captured.err
        assert ANSWER not in captured.out + captured.err


# ---------------------------------------------------------------- beside a trace


@pytest.mark.parametrize(
    ("privacy", "own", "leaves"),
    [
        (Privacy(), None, True),  # its range is declared: the configuration names it
        (Privacy(), "off", False),
        (Privacy(values="off"), None, False),
        (Privacy(values="off"), "names", True),
    ],
)
def test_a_number_beside_a_trace_id_leaves_only_where_it_may(
    privacy: Privacy, own: Any, leaves: bool
) -> None:
    config = Config(privacy=privacy, features={"age": Feature(min=0, max=150, values=own)})
    rows = [Row(KEY, T0, {feature("age"): 7777.25})]
    chunk = chunk_of([[rows]], digest=merge_digest(config), ranges=[range_of(0)])
    chunk.exemplars.append(Exemplar(KEY, feature("age"), 7777.25, 5, b"t" * 16, b"s" * 8))
    fold = Fold(config, start_ns=1)
    fold.apply(chunk, 2)
    exemplars = [
        exemplar
        for metric in fold.export(10**9).metrics
        if metric.name == "inference.feature.value"
        for point in metric.points
        if isinstance(point, HistogramPoint)
        for exemplar in point.exemplars
    ]
    assert bool(exemplars) is leaves


def test_request_spans_carry_no_value_of_an_event() -> None:
    event = {
        "model": "m",
        "ts": T0 / 1000,
        "features": {"who": PLANTED, "age": 7777.25},
        "prediction": {"label": ANSWER, "score": 8888.25},
    }
    config = Config(traces=Traces(base_rate=1.0), features={"age": Feature(min=0, max=150)})
    sampler = SpanSampler(config.traces, config.features)
    decoder = FastDecoder(config, StreamTable(), sampler)
    at = Partition("t", 0)
    records = [Record(n, T0, None, json.dumps(event).encode(), ()) for n in range(50)]
    spans = [
        span
        for part in decoder.decode(Fetch(1, at, 0, 50, records, 50, 0), "lineage")
        for span in part.spans
    ]
    assert spans
    for span in spans:
        data = encode_request_span(span)
        sent = str(Span.FromString(data))
        assert "inference.model.name" in sent
        for planted in (PLANTED, ANSWER, "7777.25", "8888.25"):
            assert planted.encode() not in data and planted not in sent

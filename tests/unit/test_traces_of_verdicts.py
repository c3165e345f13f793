"""From events with a trace context to a verdict that names requests: in a backtest, a fold and a log event."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.cli import main
from agent.config import Config, Judge, Privacy, Traces, Windows
from agent.decode.fast import FastDecoder
from agent.decode.lanes import StreamTable
from agent.decode.spans import SpanSampler
from agent.emit.verdict_events import verdict_event
from agent.judge import engine
from agent.judging import JudgingFold
from agent.sketch.delta import Delta, concat
from agent.sketch.links import is_link
from agent.state.chunk import from_bytes, merge_digest, to_bytes
from agent.telemetry import Telemetry
from agent.types import Fetch, Partition, Record
from agent.verdict import State
from tests.support.blocks import PartOfChunk, range_of
from tests.support.profiles import START_MS, WIDTH_MS, event

ROWS = 150
LEARNED, MOVED = 12, 3
CONFIG = Config(
    windows=Windows(width_s=WIDTH_MS / 1000, out_of_orderness_s=0.0),
    judge=Judge(learn_windows=LEARNED),
    traces=Traces(base_rate=0.3, max_per_s=100_000),
)
Traced = dict[str, tuple[int, float]]  # trace id -> window and value of x


def recorded(is_batch: bool = False) -> tuple[list[dict[str, Any]], Traced]:
    """Windows of one model whose x is 2 higher in the last three; each event is in a trace of its own."""
    rng = np.random.default_rng(8)
    events, traced = [], {}
    for window in range(LEARNED + MOVED + 1):
        shift = 2.0 if window >= LEARNED + 1 else 0.0
        for place, x in enumerate(rng.normal(shift, 1.0, ROWS).round(4).tolist()):
            row = {"x": x, "y": float(rng.uniform()), "c": "abc"[place % 3]}
            trace = rng.bytes(16).hex()
            traced[trace] = (window, x)
            made = event(window, place, ROWS, row)
            if is_batch:
                made["features"] = [row, row]
            events.append(made | {"traceparent": f"00-{trace}-{'b7' * 8}-01"})
    return events, traced


def written(path: Path, events: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in events))
    return path


def backtested(path: Path, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    config = path.with_suffix(".yaml")
    config.write_text("judge: {learn_windows: 12}\ntraces: {base_rate: 0.3}\n")
    capsys.readouterr()
    assert main(["backtest", "-q", "-c", str(config), str(path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    return [v for v in document["verdicts"] if v["state"] == "firing" and v["feature"] == "x"]


@pytest.mark.parametrize("is_batch", [False, True], ids=["single", "batch"])
def test_a_backtest_names_traces_of_its_events_that_lie_where_x_went(
    is_batch: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events, traced = recorded(is_batch)
    path = written(tmp_path / "events.jsonl", events)
    firing = backtested(path, capsys)
    assert firing
    for verdict in firing:
        ids = verdict["attribution"][0]["trace_ids"]
        assert 0 < len(ids) <= 5
        for window, x in map(traced.get, ids):  # type: ignore[misc]
            assert window == (verdict["window_start"] - START_MS) // WIDTH_MS
            assert x > 1.0  # half way between where x was and where it is
    assert backtested(path, capsys) == firing


def test_events_without_a_trace_context_are_named_by_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events = [{k: v for k, v in e.items() if k != "traceparent"} for e in recorded()[0]]
    firing = backtested(written(tmp_path / "events.jsonl", events), capsys)
    assert firing and all(not c["trace_ids"] for v in firing for c in v["attribution"])


def folded(config: Config) -> tuple[JudgingFold, Traced]:
    """A judging fold that got all windows as chunks of an agent, over their bytes, and a dump on the way."""
    events, traced = recorded()
    table = StreamTable()
    sampler = SpanSampler(config.traces, config.features, clock=lambda: 0.0)
    decoder, delta = FastDecoder(config, table, sampler), Delta(table)
    partition = Partition("t", 0)
    fold = JudgingFold(config, start_ns=1, judge=engine.Judge(config), telemetry=Telemetry())
    for number, first in enumerate(range(0, len(events), ROWS)):
        sent = events[first : first + ROWS]
        records = [
            Record(first + i, e["ts"], None, json.dumps(e).encode(), ()) for i, e in enumerate(sent)
        ]
        fetch = Fetch(1, partition, first, first + ROWS, records, -1, 0)
        part = PartOfChunk([], None, None, [], None)  # type: ignore[arg-type]
        for decoded in decoder.decode(fetch, "lineage"):
            for block in decoded.blocks:
                delta.add(block)
            part.tally = decoded.tally
            part.exemplars += decoded.exemplars
        part.groups, part.numeric, part.strings = delta.freeze()
        decoder.on_cut()
        sampler.take_counts()
        newest = sent[-1]["ts"]
        part.ranges = [
            range_of(
                0, from_offset=first, to_offset=first + ROWS, max_event_time_ms=newest + WIDTH_MS
            )
        ]
        chunk = concat([part], run_id="ab" * 8, number=number, epoch=1, digest=merge_digest(config))
        if number == LEARNED:  # what is held of a window that has not sealed goes with the judge
            again = engine.Judge(config)
            again.load(fold.judge.dump())
            fold.judge = again
        fold.apply(from_bytes(to_bytes(chunk)), (newest + WIDTH_MS) * 1_000_000)
    return fold, traced


def test_a_fold_shows_and_tells_the_traces_and_no_export_holds_a_link() -> None:
    fold, traced = folded(CONFIG)
    shown = [v for v in fold.state(0)["verdicts"] if v["state"] == "firing"]
    assert [v["feature"] for v in shown] == ["x"]
    ids = shown[0]["attribution"][0]["trace_ids"]
    assert ids and all(traced[id][1] > 1.0 for id in ids)
    told = [u.verdict for u in fold.standing.untold(0, 100) if u.verdict.state is State.FIRING]
    attributes = verdict_event(told[0], 0).attributes
    assert attributes["inference.verdict.trace_ids"]
    assert set(attributes["inference.verdict.trace_ids"]) <= set(traced)  # type: ignore[arg-type]
    exported = [
        exemplar
        for metric in fold.export((START_MS + 10**7) * 1_000_000).metrics
        for point in metric.points
        for exemplar in getattr(point, "exemplars", ())
    ]
    assert not any(map(is_link, exported))


def test_a_column_that_may_not_be_shown_beside_a_trace_names_none() -> None:
    hidden = Config(
        windows=CONFIG.windows,
        judge=CONFIG.judge,
        traces=CONFIG.traces,
        privacy=Privacy(values="off"),
    )
    fold, _ = folded(hidden)
    shown = [v for v in fold.state(0)["verdicts"] if v["state"] == "firing"]
    assert [v["feature"] for v in shown] == ["x"]
    assert all(not cause["trace_ids"] for v in shown for cause in v["attribution"])

"""The eight breaks that must be caught, in real data, through the commands themselves.

Flights of New York 2013 in random order: 50,000 rows make the reference, the next ones go on undrifted, in windows
of 10,000, until something breaks at a window's start.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from agent.cli import main

flights = pytest.importorskip("agent.demo.flights")

REFERENCE_ROWS = 50_000
WINDOW_ROWS = 10_000
BEFORE, AFTER = 2, 3
START_MS = 1_767_225_600_000
WIDTH_MS = 60_000
Event = dict[str, Any]
#: Sources of the features, for the test that declares them.
FEEDS = flights.FEEDS


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    """Features of flights, in random order."""
    table = flights.load()
    n = REFERENCE_ROWS + (BEFORE + AFTER) * WINDOW_ROWS
    order = np.random.default_rng(5).permutation(len(table))[:n]
    columns: dict[str, list[Any]] = {}
    for name in flights.NUMERIC:
        values = table.numeric[name][order]
        columns[name] = [None if np.isnan(v) else float(v) for v in values]
    for name in flights.CATEGORICAL:
        names = table.categories[name]
        columns[name] = [names[code] for code in table.codes[name][order].tolist()]
    return [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]


def events(rows: list[dict[str, Any]], first_window: int) -> Iterator[Event]:
    for i, features in enumerate(rows):
        window, place = divmod(i, WINDOW_ROWS)
        yield {
            "ts": START_MS + (first_window + window) * WIDTH_MS + place * WIDTH_MS // WINDOW_ROWS,
            "model": "late",
            "version": "3",
            "features": features,
            "prediction": {"score": (features["hour"] + 1) / 25},
        }


def write(path: Path, found: Iterator[Event]) -> Path:
    path.write_bytes(b"".join(orjson.dumps(e, option=orjson.OPT_APPEND_NEWLINE) for e in found))
    return path


@pytest.fixture(scope="module")
def reference(rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reference")
    data = write(folder / "reference.jsonl", events(rows[:REFERENCE_ROWS], 0))
    made = folder / "ref.profile"
    assert main(["profile", "build", str(data), "-q", "-o", str(made)]) == 0
    return made


Change = Callable[[Event, int], Event | None]


def feature(name: str, change: Callable[[Any], Any]) -> Change:
    """An event with one feature changed, where it has a value."""

    def apply(event: Event, i: int) -> Event:
        value = event["features"][name]
        return with_features(event, {name: None if value is None else change(value)})

    return apply


def with_features(event: Event, changed: dict[str, Any]) -> Event:
    return event | {"features": event["features"] | changed}


def swapped(event: Event, i: int) -> Event:
    found = event["features"]
    return with_features(event, {"dewp": found["temp"], "temp": found["dewp"]})


def without_pressure(event: Event, i: int) -> Event:
    features = {k: v for k, v in event["features"].items() if k != "pressure"}
    return event | {"features": features}


def one_in_fifty_is_new(event: Event, i: int) -> Event:
    return with_features(event, {"carrier": "ZZ"}) if i % 50 == 0 else event


def backtest(
    rows: list[dict[str, Any]],
    reference: Path,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    change: Change,
    *options: str,
    status: int = 0,
) -> Any:
    """The document of a backtest of a stream that changes after BEFORE windows."""
    first = REFERENCE_ROWS // WINDOW_ROWS
    changed = (
        change(e, i) if i >= BEFORE * WINDOW_ROWS else e
        for i, e in enumerate(events(rows[REFERENCE_ROWS:], first))
    )
    data = write(folder / "stream.jsonl", (e for e in changed if e is not None))
    arguments = ["backtest", "--baseline", str(reference), str(data), "--json", "-q", *options]
    capsys.readouterr()
    assert main(arguments) == status
    return json.loads(capsys.readouterr().out)


def alarm_windows(document: Any) -> list[int]:
    """Windows after the break, counted from 0, in which something fires."""
    begin = START_MS + (REFERENCE_ROWS // WINDOW_ROWS + BEFORE) * WIDTH_MS
    return [
        (v["window_start"] - begin) // WIDTH_MS
        for v in document["verdicts"]
        if v["state"] == "firing"
    ]


def test_an_undrifted_stream_never_pages(
    rows: list[dict[str, Any]],
    reference: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    document = backtest(
        rows, reference, tmp_path, capsys, lambda e, i: e, "--fail-on", "firing", status=0
    )
    assert document["windows"] == BEFORE + AFTER
    assert document["pages"] == 0
    assert alarm_windows(document) == []
    assert {d["metric"] for d in document["drift"]} >= {"psi", "ks", "wasserstein", "auc"}
    assert {d["feature"] for d in document["drift"]} >= set(flights.FEATURES)


HUMID_SHIFT = 0.05 * 64.0  # of a mean of 59 %: .16 standard deviations
TEMP_MEAN = 57.0

BREAKS: dict[str, tuple[Change, set[str]]] = {
    "a feed that turns null": (feature("temp", lambda v: None), {"temp"}),
    "a unit change": (feature("distance", lambda v: v * 1.609344), {"distance"}),
    "a swapped pair of columns": (swapped, {"dewp", "temp"}),
    "a new category": (one_in_fifty_is_new, {"carrier"}),
    "a mean shift of 5 %": (feature("humid", lambda v: v + HUMID_SHIFT), {"humid"}),
    "a variance change": (
        feature("temp", lambda v: TEMP_MEAN + 1.2 * (v - TEMP_MEAN)),
        {"temp"},
    ),
    "a vanished feature": (without_pressure, {"pressure"}),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_break_fires_within_two_windows_as_one_alarm_with_the_right_feature_first(
    name: str,
    rows: list[dict[str, Any]],
    reference: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    change, features = BREAKS[name]
    document = backtest(rows, reference, tmp_path, capsys, change, "--fail-on", "firing", status=1)
    fired = alarm_windows(document)
    assert fired and 0 <= fired[0] <= 1
    verdicts = [v for v in document["verdicts"] if v["state"] == "firing"]
    assert len({v["alarm"] for v in verdicts}) == 1
    assert document["pages"] == 1
    first = verdicts[0]
    assert first["feature"] in features
    assert first["attribution"][0]["feature"] in features
    assert first["stream"] == {"model": "late", "version": "3", "segment": {}}


def test_a_stalled_topic_fires_and_is_over_when_rows_return(
    rows: list[dict[str, Any]],
    reference: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def silent(event: Event, i: int) -> Event | None:
        return None if BEFORE <= i // WINDOW_ROWS < BEFORE + AFTER - 1 else event

    document = backtest(rows, reference, tmp_path, capsys, silent, "--fail-on", "firing", status=1)
    assert alarm_windows(document)[:2] == [0, 1]
    (alarm,) = {v["alarm"] for v in document["verdicts"] if v["state"] == "firing"}
    states = [v["state"] for v in document["verdicts"] if v["alarm"] == alarm]
    assert states == ["firing", "firing", "resolved"]
    assert document["verdicts"][0]["attribution"][0]["statistic"] == "stall"


def test_a_broken_source_is_one_alarm_that_names_it(
    rows: list[dict[str, Any]],
    reference: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = tmp_path / "inferometer.yaml"
    config.write_text(
        "sources:\n"
        + "".join(
            f"  - name: {name}\n    features: [{', '.join(names)}]\n"
            for name, names in FEEDS.items()
        )
    )
    weather = dict.fromkeys(FEEDS["weather"])
    document = backtest(
        rows,
        reference,
        tmp_path,
        capsys,
        lambda e, i: with_features(e, weather),
        "-c",
        str(config),
        "--fail-on",
        "firing",
        status=1,
    )
    fired = [v for v in document["verdicts"] if v["state"] == "firing"]
    assert alarm_windows(document)[0] == 0
    assert len({v["alarm"] for v in fired}) == 1
    assert {v["source"] for v in fired} == {"weather"}
    assert fired[0]["attribution"][0]["source"] == "weather"
    assert fired[0]["attribution"][0]["feature"] is None
    listed = {c["feature"] for c in fired[0]["attribution"]}
    assert set(FEEDS["weather"]) <= listed

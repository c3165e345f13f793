"""Backtests through the command: the document, the report, the page, exit statuses, learned bounds."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import yaml

from agent.backtest.learn import lasting, passed_once_in
from agent.cli import main
from agent.docs import DOCS
from agent.judge.reference import read_reference
from tests.support.profiles import START_MS, WIDTH_MS, normal_windows, write_events

MONITORS = """\
monitors:
  - name: x-moved
    metric: mean
    select: {feature: x}
    when: {above: 1.0, below: -1.0}
    for: 2
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("b")
    write_events(folder / "ref.jsonl", normal_windows(1, 20, 500))
    write_events(folder / "calm.jsonl", normal_windows(2, 40, 500), first=20)
    moved = normal_windows(3, 3, 500) + normal_windows(4, 3, 500, 1.5)
    write_events(folder / "moved.jsonl", moved, first=20)
    (folder / "m.yaml").write_text(MONITORS)
    made = folder / "ref.profile"
    assert main(["profile", "build", str(folder / "ref.jsonl"), "-q", "-o", str(made)]) == 0
    return folder


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    status = main(["backtest", "-q", *(str(a) for a in arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_a_calm_stream_never_pages_and_a_moved_one_does(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ("--baseline", folder / "ref.profile", "--fail-on", "firing")
    status, out, _ = run(capsys, *base, folder / "calm.jsonl")
    assert status == 0
    assert out.startswith("would have paged never: 40 windows of 60 s, 20,000 rows")
    status, out, err = run(capsys, *base, folder / "moved.jsonl")
    assert status == 1
    assert out.startswith("would have paged once: 6 windows")
    assert "x has changed" in out
    assert err.count("\n") == 1 and "--fail-on firing" in err


def test_the_document_has_what_is_promised(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, _ = run(
        capsys, "--baseline", folder / "ref.profile", folder / "moved.jsonl", "--json"
    )
    document = json.loads(out)
    assert status == 0
    assert document["windows"] == 6
    firing = [v for v in document["verdicts"] if v["state"] == "firing"]
    for verdict in firing:
        assert set(verdict) >= {
            *("monitor", "stream", "feature", "source", "window_start", "window_end"),
            *("state", "value", "threshold", "attribution"),
        }
        assert verdict["stream"] == {"model": "m", "version": "1", "segment": {}}
        assert verdict["window_end"] - verdict["window_start"] == 60_000
        assert verdict["attribution"][0]["feature"] == verdict["feature"] == "x"
    drift = document["drift"]
    assert {d["window_start"] for d in drift} == {
        1_767_225_600_000 + w * 60_000 for w in range(20, 26)
    }
    for entry in drift:
        assert set(entry) >= {"stream", "feature", "window_start", "metric", "value", "bound"}
    # Normals 1.5 sd apart: AUC is Phi(1.5 / sqrt 2).
    auc = [d for d in drift if d["metric"] == "auc" and d["feature"] == "x"][-1]
    exact = 0.5 * math.erfc(-1.5 / 2.0)
    assert auc["value"] == pytest.approx(exact, abs=0.03)
    assert auc["low"] <= auc["value"] <= auc["high"]


def test_rows_without_time_are_judged_in_blocks(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (folder / "calm.jsonl").read_text().splitlines()
    bare = tmp_path / "bare.jsonl"
    with bare.open("w") as file:
        for line in lines:
            event = json.loads(line)
            del event["ts"]
            file.write(json.dumps(event) + "\n")
    status, out, err = run(
        capsys, "--baseline", folder / "ref.profile", bare, "--json", "--fail-on", "firing"
    )
    assert status == 0
    assert json.loads(out)["windows"] == 20
    assert "carry no time" in err


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.links += [v or "" for k, v in attrs if k in ("src", "href")]


def test_the_page_stands_by_itself(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "t.html"
    run(capsys, "--baseline", folder / "ref.profile", folder / "moved.jsonl", "--html", page)
    text = page.read_text()
    tags = Tags()
    tags.feed(text)
    assert "Would have paged once" in text
    assert "svg" in tags.names and "script" not in tags.names
    assert tags.links == []
    assert re.findall(r"url\(", text) == []


def test_the_picture_needs_matplotlib_and_says_so(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "t.png"
    status, _, err = run(
        capsys, "--baseline", folder / "ref.profile", folder / "moved.jsonl", "--png", picture
    )
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        assert status == 2
        assert "needs matplotlib" in err
    else:
        assert status == 0
        assert picture.read_bytes().startswith(b"\x89PNG")


def test_bounds_are_learned_at_a_budget(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(
        capsys, "-c", folder / "m.yaml", folder / "calm.jsonl", "--learn-budget", "30", "--json"
    )
    learned = {one["side"]: one for one in json.loads(out)["learned"]}
    assert status == 0
    # Means of 500 rows of a standard normal: sd .045, two in a row.
    assert 0.05 < learned["above"]["bound"] < 0.4
    assert -0.4 < learned["below"]["bound"] < -0.05
    assert learned["above"]["configured"] == 1.0


def test_a_learned_bound_is_passed_about_as_often_as_asked() -> None:
    rng = np.random.default_rng(5)
    passed, target = [], 2000.0
    for _ in range(40):
        history = rng.exponential(1.0, 400).tolist()
        level = passed_once_in(target, history)
        assert level is not None
        passed.append(math.exp(-level))  # exact tail of an exponential
    # At most once in 2,000 windows on average, and not a hundred times less.
    assert 1 / 200_000 < float(np.mean(passed)) < 1.5 / target
    assert passed_once_in(10.0, list(map(float, range(100)))) == 90.0
    assert passed_once_in(10.0, [1.0] * 5) is None
    assert lasting([5, 1, 4, 3, 9], 2) == [1, 1, 3, 3]


def broken_monitors() -> Iterator[Any]:
    for text, says in (
        ("{name: a, metric: psy, when: {above: 1}}", 'metric is "psy"; must be one of quality'),
        ("{name: a, metric: psi}", "when is missing"),
        ("{name: a, metric: drift, when: {above: 1}}", "has no bounds"),
        ("{name: a, metric: drift, for: 3}", "for is 3"),
        ("{name: a, metric: state, select: {segment: {c: d}}}", "select.segment is set"),
        ("{name: a, metric: psi, when: {above: 1, below: 2}}", "every value fires"),
        ("{name: a, metric: psi, when: {}}", "nothing is set"),
        ("{name: a, metric: psi, when: {above: 1}, budget: 3}", "budget is set"),
        ("{name: a, metric: volume, select: {feature: x}, when: {below: 1}}", "whole stream"),
        ("{name: a, metric: psi, baseline: b, when: {above: 1}}", "baseline is b; must be one of"),
        ("{name: a, metric: psi, actions: [z], when: {above: 1}}", "actions has z"),
        ("{name: a, metric: psi, when: {above: 1}, for: 0}", "for is 0"),
        ("{name: a, metric: psi, when: {over: 1}}", "over is not an option"),
        ("{name: a, metric: drift, budget: 0}", "budget is 0"),
        ("{name: a, metric: missing_rate, when: {above: 5}}", "5 % is 0.05"),
        ("{name: a, metric: volume, when: {below: 0}}", "it never fires"),
        (
            "{name: a, metric: p50, when: {above: 3}}\n"
            "  - {name: b, metric: p50, when: {below: 4}}",
            'monitors[1] ("b").when leaves no value of p50 with monitors[0] ("a")',
        ),
    ):
        yield pytest.param(text, says, id=says)


@pytest.mark.parametrize(("text", "says"), list(broken_monitors()))
def test_a_mistake_in_a_monitor_is_one_line_that_names_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, says: str
) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(f"kafka: {{topics: [p]}}\nmonitors:\n  - {text}\n")
    assert main(["check", "-c", str(path)]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert str(path) in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("monitor", "says"),
    [
        ("metric: psi, select: {feature: z}, when: {above: 1}", "select.feature is z; "),
        ("metric: drift, select: {feature: 'q*'}", "correct the pattern, or build"),
        ("metric: drift, select: {model: other}", "select.model is other; "),
        ("metric: ks, select: {feature: c}, when: {above: 0.1}", "of kind categorical in"),
    ],
)
def test_a_monitor_that_its_baseline_does_not_know_is_a_mistake(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monitor: str, says: str
) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(
        f"kafka: {{topics: [p]}}\njudge: {{baseline_file: {folder / 'ref.profile'}}}\n"
        f"monitors:\n  - {{name: a, {monitor}}}\n"
    )
    assert main(["check", "-c", str(path)]) == 2
    error = capsys.readouterr().err
    assert f'{path}: monitors[0] ("a").' in error
    assert says in error
    # What the stream may yet bring is worth a word only.
    text = path.read_text()
    path.write_text(
        text[: text.index("metric")] + "metric: mean, select: {feature: z}, when: {above: 1}}\n"
    )
    assert main(["check", "-c", str(path)]) == 0
    assert "select.feature is z" in capsys.readouterr().err


CONTRADICTION = """\
monitors:
  - {name: a, metric: missing_rate, select: {feature: x}, when: {above: 0.2}}
  - {name: b, metric: missing_rate, select: {feature: x}, when: {below: 0.3}}
"""


@pytest.mark.parametrize("command", ["backtest", "plan"])
def test_bounds_that_contradict_each_other_are_refused_wherever_they_are_read(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(CONTRADICTION)
    files = ["-q", str(folder / "calm.jsonl")] if command == "backtest" else []
    assert main([command, "-c", str(path), *files]) == 2
    captured = capsys.readouterr()
    assert f'{path}: monitors[1] ("b").when leaves no value of missing_rate' in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_a_backtest_refuses_what_check_refuses_of_the_baseline_that_it_is_given(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "m.yaml"
    monitor = "metric: ks, select: {{model: {}, feature: c}}, when: {{above: 0.1}}"
    path.write_text(f"monitors:\n  - {{name: a, {monitor.format('m')}}}\n")
    base = ("-c", path, "--baseline", folder / "ref.profile", folder / "calm.jsonl")
    status, _, err = run(capsys, *base)
    assert status == 2
    assert f'{path}: monitors[0] ("a").select.feature is c, of kind categorical in' in err
    # Files are often of one model of several: monitors of the others are no mistake.
    path.write_text(f"monitors:\n  - {{name: a, {monitor.format('other')}}}\n")
    status, _, err = run(capsys, *base)
    assert status == 0
    assert '"a" selects nothing' in err


def test_monitors_that_see_nothing_are_said(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(
        "kafka: {topics: [p]}\nmodels: [{name: m}]\nmonitors:\n"
        "  - {name: lost, metric: psi, select: {model: q*}, when: {above: 1}}\n"
    )
    assert main(["check", "-c", str(path)]) == 0
    assert '"lost"' in capsys.readouterr().err
    _, _, err = run(capsys, "-c", path, folder / "moved.jsonl")
    assert '"lost" selects nothing' in err
    assert main(["plan", "-c", str(path)]) == 0
    assert '"lost"' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("monitor", "says"),
    [
        ("metric: missing_rate, select: {feature: flga}, when: {above: 0.5}", "is it flag?"),
        ("metric: mean, select: {feature: score}, when: {above: 9}", "is it prediction.score?"),
        ("metric: mean, select: {feature: q*}, when: {above: 9}", "the events have "),
        ("metric: mean, select: {feature: c}, when: {above: 9}", "c is categorical; mean is of n"),
        ("metric: true_rate, select: {feature: x}, when: {above: 0.9}", "true_rate is of booleans"),
        ("metric: mean, select: {segment: {region: eu}}, when: {above: 9}", "is region=eu; "),
        ("metric: latency_p99, when: {above: 9}", "no event has a latency"),
        ("metric: drift, select: {feature: flga}", "is it flag?"),
    ],
)
def test_a_monitor_that_reads_no_value_is_said_and_blind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monitor: str, says: str
) -> None:
    windows = normal_windows(5, 3, 60)
    for row in (row for rows in windows for row in rows):
        row |= {"flag": row["x"] > 0, "prediction": {"score": row["y"]}}
    write_events(tmp_path / "e.jsonl", windows)
    path = tmp_path / "m.yaml"
    path.write_text(
        f"judge: {{defaults: false}}\nmonitors:\n  - {{name: dead, {monitor}}}\n"
        "  - {name: alive, metric: mean, select: {feature: x}, when: {above: 99}}\n"
    )
    status, out, err = run(capsys, "-c", path, tmp_path / "e.jsonl", "--json")
    assert status == 0
    assert 'monitor "dead" reads nothing: ' in err
    assert says in err
    assert '"alive"' not in err
    blind = json.loads(out)["verdicts"][-1]
    assert (blind["monitor"], blind["state"]) == ("dead", "blind")
    assert blind["stream"] == {"model": "m", "version": "1", "segment": {}}
    assert says in blind["why"]
    assert blind["window_end"] == 1_767_225_600_000 + 3 * 60_000


def test_a_monitor_of_a_model_that_is_not_there_hears_which_are(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(
        "monitors:\n  - {name: lost, metric: mean, select: {model: q}, when: {above: 1}}\n"
    )
    _, _, err = run(capsys, "-c", path, folder / "moved.jsonl")
    assert "no stream is model q, version *; the events have m 1" in err


def test_the_schema_for_editors_takes_what_check_takes() -> None:
    schema = json.loads((DOCS / "inferometer.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    assert list(validator.iter_errors(yaml.safe_load(MONITORS))) == []
    assert list(validator.iter_errors({"windows": {"width_s": "${env:WIDTH}"}})) == []
    assert list(validator.iter_errors({"monitors": [{"name": "a", "metric": "psi", "for": 0}]}))
    assert list(validator.iter_errors({"monitor": []}))


def test_the_inventory_of_files_names_every_model(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(["inventory", "-q", str(folder / "calm.jsonl"), "--json"]) == 0
    (model,) = json.loads(capsys.readouterr().out)["models"]
    (version,) = model["versions"]
    assert (model["model"], version["version"], version["rows"]) == ("m", "1", 20_000)
    assert version["features"] == {"c": "categorical", "x": "numeric", "y": "numeric"}
    assert version["rows_per_s"] == pytest.approx(500 / 60)
    assert main(["inventory"]) == 2


def test_where_files_end_is_no_loss_of_rows(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = normal_windows(7, 1, 30) + normal_windows(6, 4, 500) + normal_windows(7, 1, 30)
    path = write_events(tmp_path / "cut.jsonl", rows, first=20)
    status, out, err = run(
        capsys, "--baseline", folder / "ref.profile", path, "--fail-on", "firing"
    )
    assert (status, err) == (0, "")
    assert out.startswith("would have paged never: 6 windows")


def test_lines_that_cannot_be_read_are_said_and_counted(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "torn.jsonl"
    lines = (folder / "calm.jsonl").read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:5000], '{"model": "m", "fea\n', "7\n", *lines[5000:]]))
    said = "2 of 20,002 records could not be used (invalid_json 1, not_an_event 1)"
    counted = {"rows": 20_000, "dropped": {"invalid_json": 1, "not_an_event": 1}, "irregular": {}}
    for arguments in (
        ["backtest", "-q", str(path), "--json"],
        ["inventory", "-q", str(path), "--json"],
        ["profile", "build", "-q", str(path), "-o", str(tmp_path / "t.profile"), "--json"],
    ):
        capsys.readouterr()
        assert main(arguments) == 0
        out, err = capsys.readouterr()
        assert said in err
        assert json.loads(out).items() >= counted.items()


def test_blind_windows_say_what_they_would_have_shown(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_events(tmp_path / "few.jsonl", normal_windows(8, 4, 130), first=20)
    document = json.loads(run(capsys, "--baseline", folder / "ref.profile", path, "--json")[1])
    blind = [v["minimum_effect"] for v in document["verdicts"] if v["state"] == "blind"]
    middle = float(np.median(blind))
    _, out, _ = run(capsys, "--baseline", folder / "ref.profile", path)
    assert f"{len(blind)} verdict" in out
    assert f"they show a shift of {middle:.3f}" in out


def test_a_loss_of_rows_is_told_in_numbers(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_events(tmp_path / "less.jsonl", normal_windows(9, 8, 250), first=20)
    _, out, _ = run(capsys, "--baseline", folder / "ref.profile", path)
    assert "all traffic has changed (volume): 250 rows; 500 are usual" in out


def test_distances_without_an_upper_bound_have_none(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = run(capsys, "--baseline", folder / "ref.profile", folder / "moved.jsonl", "--json")
    bounds = {(d["metric"], d["bound"]) for d in json.loads(out)["drift"]}
    assert {b for m, b in bounds if m in ("psi", "js", "hellinger")} == {None}
    assert None not in {b for m, b in bounds if m in ("ks", "auc", "missing")}


def test_two_references_show_what_became_of_booleans(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, each in (("a", 2), ("b", 4)):
        rows = [[{"z": 1.0, "on": i % each == 0} for i in range(400)]] * 3
        write_events(tmp_path / f"{name}.jsonl", rows)
        made = str(tmp_path / f"{name}.profile")
        assert main(["profile", "build", "-q", str(tmp_path / f"{name}.jsonl"), "-o", made]) == 0
    capsys.readouterr()
    assert main(["profile", "diff", *(str(tmp_path / f"{n}.profile") for n in "ab")]) == 0
    table = capsys.readouterr().out
    head, first = [line for line in table.splitlines() if line.strip()][2:4]
    assert "true_rate" in head
    assert first.split()[0] == "on"
    assert "50.0% -> 25.0%" in first


def test_two_references_show_columns_that_are_new_gone_or_of_another_kind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def row(more: dict[str, Any]) -> dict[str, Any]:
        return {"x": 1.5, **more}

    for name, more in (("a", {"age": 7, "old": 1.0}), ("b", {"age": "seven", "fresh": True})):
        write_events(tmp_path / f"{name}.jsonl", [[row(more)] * 50 for _ in range(4)])
        made = str(tmp_path / f"{name}.profile")
        built = ["profile", "build", "-q", str(tmp_path / f"{name}.jsonl"), "-o", made]
        assert main(built) == 0
    files = [str(tmp_path / f"{name}.profile") for name in "ab"]
    capsys.readouterr()
    assert main(["profile", "diff", *files]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "  new: fresh (boolean)" in lines
    assert "  vanished: old (numeric)" in lines
    assert "  of another kind: age (numeric -> categorical)" in lines
    assert main(["profile", "diff", "--json", *files]) == 0
    stream = {"model": "m", "version": "1", "segment": {}}
    assert json.loads(capsys.readouterr().out)["columns"] == [
        {"stream": stream, "feature": f, "change": change, "before": before, "now": now}
        for f, change, before, now in (
            ("fresh", "new", None, "boolean"),
            ("old", "vanished", "numeric", None),
            ("age", "retyped", "numeric", "categorical"),
        )
    ]


def test_two_references_show_models_that_only_one_of_them_has(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, models in (("a", ("both", "old")), ("b", ("both", "fresh", "young"))):
        lines = [
            json.dumps({"model": m, "ts": START_MS + w * WIDTH_MS + i, "features": {"x": i}})
            for m in models
            for w in range(4)
            for i in range(30)
        ]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
        made = str(tmp_path / f"{name}.profile")
        built = ["profile", "build", "-q", str(tmp_path / f"{name}.jsonl"), "-o", made]
        assert main(built) == 0
    files = [str(tmp_path / f"{name}.profile") for name in "ab"]
    ids = [read_reference(Path(file)).id for file in files]
    capsys.readouterr()
    assert main(["profile", "diff", *files]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:3] == [f"only in {ids[0]}: old", f"only in {ids[1]}: fresh, young"]
    assert main(["profile", "diff", "--json", *files]) == 0
    assert json.loads(capsys.readouterr().out)["models"] == [
        {"model": "old", "change": "vanished"},
        {"model": "fresh", "change": "new"},
        {"model": "young", "change": "new"},
    ]


def test_a_baseline_of_other_features_is_asked_about_first(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    windows = [[{"foo": r["x"], "bar": r["c"]} for r in rows] for rows in normal_windows(6, 4, 60)]
    other = write_events(tmp_path / "other.jsonl", windows)
    _, _, err = run(capsys, "--baseline", folder / "ref.profile", other)
    assert err.splitlines()[0] == (
        "inferometer: note: m 1: the reference has c, x, y; the events have bar, foo, and share none: another file?"
    )
    some = [[{"foo": 1.0, **row} for row in rows] for rows in normal_windows(7, 4, 60)]
    for rows in some:
        for row in rows:
            del row["x"], row["y"]
    _, _, err = run(capsys, "--baseline", folder / "ref.profile", write_events(other, some))
    assert "the events have c, foo, and share 1 of 3: another file?" in err
    _, _, err = run(capsys, "--baseline", folder / "ref.profile", folder / "calm.jsonl")
    assert "another file" not in err


def test_windows_of_too_few_rows_are_said_with_what_would_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_events(tmp_path / "rare.jsonl", normal_windows(10, 100, 2))
    _, _, err = run(capsys, path)
    # Two rows a minute: twenty in ten minutes.
    assert "m 1 has 2 rows in a window" in err
    assert "use windows.width_s >= 600" in err
    made, config = tmp_path / "rare.profile", tmp_path / "rare.yaml"
    assert main(["profile", "build", "-q", str(path), "-o", str(made)]) == 0
    config.write_text(f"kafka: {{topics: [p]}}\njudge: {{baseline_file: {made}}}\n")
    capsys.readouterr()
    assert main(["check", "-c", str(config)]) == 0
    assert "use windows.width_s >= 600" in capsys.readouterr().err

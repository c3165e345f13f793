"""Benchmarks run, at their smallest, and give what the report needs. Their timings are never tested."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.page import bar_table, with_parts, write_page
from tests.support.built import REPOSITORY

#: Those that need nothing but this machine; the others need a real broker.
HERE = ("decode", "export", "footprint", "hotpath", "profile", "scale", "sketch", "state")

BAR = {"value": 3.2, "bar": 3.0, "is": "at least", "unit": "M rows/s", "met": True}


def benchmark(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", *arguments],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", HERE)
def test_a_benchmark_prints_one_json_document_that_ends_with_its_bars(name: str) -> None:
    done = benchmark(name, "--tiny", "--json")
    assert done.returncode == 0, done.stderr[-2000:]
    document = json.loads(done.stdout)
    assert done.stdout.count("\n") == 1
    assert document["benchmark"] == name
    assert document["question"].endswith("?")
    assert list(document)[-1] == "bars"
    assert {"cpu", "cores", "python", "packages", "commit"} <= document["machine"].keys()
    assert document["options"]["seed"]
    for bar in document["bars"].values():
        is_above = bar["value"] >= bar["bar"]
        assert bar["met"] == (is_above if bar["is"] == "at least" else bar["value"] <= bar["bar"])
    assert document["tables"]
    for table in document["tables"]:
        assert all(len(row) == len(table["columns"]) for row in table["rows"])


def test_without_json_there_are_tables_and_bars_for_people() -> None:
    done = benchmark("decode", "--tiny", "--only", "features_5")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "M rows/s" in done.stdout and "features_5" in done.stdout


# ---------------------------------------------------------------- the page


def document(name: str, **more: Any) -> dict[str, Any]:
    return {
        "benchmark": name,
        "question": "How fast?",
        "at": "2026-09-01T00:00:00Z",
        "seconds": 1.0,
        "machine": {
            "cpu": "a processor", "cores": 2, "system": "Linux", "python": "3.11",
            "packages": {"numpy": "2.4"}, "commit": "abc1234",
        },
        "tables": [{"title": "T", "columns": ["what", "n"], "rows": [["a|b", 1234]], "note": ""}],
        "curves": [
            {
                "title": "Cost by n", "x": "n", "y": "ns", "log_x": False, "fit": "",
                "lines": {"measured": [[1, 10.0], [2, 20.0]]},
            }
        ],
        "notes": ["one"],
        "bars": {"Speed": BAR},
        **more,
    }  # fmt: skip


def test_the_page_has_every_bar_the_machine_and_the_commit(tmp_path: Path) -> None:
    write_page({"decode": document("decode")}, ["decode", "peers"], tmp_path)
    text = (tmp_path / "benchmarks.md").read_text()
    assert "| Speed | 3.2 M rows/s | >= 3 M rows/s | met |" in text
    assert "a processor" in text and "abc1234" in text
    assert "| a\\|b | 1,234 |" in text
    assert "Not run: peers." in text


def test_what_cannot_run_here_says_why_on_the_page(tmp_path: Path) -> None:
    told = {"benchmark": "pipeline", "cannot_run": "no Java; install Java 17", "bars": {}}
    broke = {"benchmark": "peers", "failed": "status 1: boom", "bars": {}}
    write_page({"pipeline": told, "peers": broke}, ["pipeline", "peers"], tmp_path)
    text = (tmp_path / "benchmarks.md").read_text()
    assert "**Cannot run**: no Java; install Java 17" in text
    assert "`peers` failed: status 1: boom" in text


def test_the_tables_of_performance_md_are_those_that_were_measured(tmp_path: Path) -> None:
    made = document("decode", bars={"Speed": {**BAR, "met": False}})
    text = (
        "a\n<!-- bars -->\nold\n<!-- end -->\nb\n<!-- table: decode: T -->\nold\n<!-- end -->\n"
        "c\n<!-- table: sketch: U -->\nold\n<!-- end -->\nd\n"
    )
    (tmp_path / "performance.md").write_text(text)
    write_page({"decode": made}, ["decode"], tmp_path)
    written = (tmp_path / "performance.md").read_text()
    assert "old" not in written
    assert "| Speed | 3.2 M rows/s | >= 3 M rows/s | **missed** |" in written
    assert "| a\\|b | 1,234 |" in written
    assert "(`sketch` has not measured it)" in written
    assert with_parts(written, [made]) == written
    assert [line for line in written.splitlines() if len(line) == 1] == ["a", "b", "c", "d"]


def test_an_unknown_benchmark_is_refused_with_those_there_are() -> None:
    done = benchmark("report", "--only", "nonsense", "--page")
    assert done.returncode == 2
    assert "no benchmark nonsense; there are hotpath, profile, decode" in done.stderr


@pytest.mark.timeout(300)
def test_the_report_keeps_what_was_measured_before(tmp_path: Path) -> None:
    kept = {"export": document("export")}
    (tmp_path / "benchmarks.json").write_text(json.dumps(kept))
    done = benchmark("report", "--only", "sketch", "--tiny", "--docs", str(tmp_path))
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == ""
    documents = json.loads((tmp_path / "benchmarks.json").read_text())
    assert documents["export"] == kept["export"]
    assert documents["sketch"]["tables"]
    text = (tmp_path / "benchmarks.md").read_text()
    assert "## sketch" in text and "## export" in text


def test_the_committed_page_is_made_of_the_committed_documents(tmp_path: Path) -> None:
    """The text only: plots need the `bench` extra."""
    documents = REPOSITORY / "docs/benchmarks.json"
    known = json.loads(documents.read_text())
    assert all(bar["met"] in (True, False) for d in known.values() for bar in d["bars"].values())
    page = (REPOSITORY / "docs/benchmarks.md").read_text()
    for line in bar_table([known[name] for name in known]):
        assert line in page
    assert str(REPOSITORY) not in page

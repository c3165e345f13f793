"""Comparing detectors: thresholds that all pass as often, delays, what is named first, and that nothing phones home."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.page import with_parts
from benchmarks.verdicts.peers.given import Broken, Given, Run, write_run, write_table
from benchmarks.verdicts.peers.matched import (
    CERTAIN,
    Matched,
    Spread,
    Tried,
    by_default,
    highest_allowed,
)
from benchmarks.verdicts.peers.runner import BEFORE
from benchmarks.verdicts.peers.tools import MATCHED, TOOLS, Said, read
from tests.support.built import REPOSITORY


def line(scores: dict[str, float] | None = None, **more: Any) -> dict[str, Any]:
    told = {name: {"test": score} for name, score in (scores or {}).items()}
    return {
        "run": 0, "what": "quiet", "window": 0, "alarms": {}, "named": [], "firsts": {},
        "scores": told, "error": "", "row": None, "features": ["a", "b"], **more,
    }  # fmt: skip


# ---------------------------------------------------------------- the threshold


def test_a_threshold_is_passed_in_the_allowed_share_of_quiet_windows() -> None:
    scores = np.random.default_rng(1).permutation(1_000).astype(float).tolist()
    threshold = highest_allowed(scores, 200.0)
    assert threshold == 994.0
    assert sum(score > threshold for score in scores) == 5


def test_without_enough_quiet_windows_none_may_alarm() -> None:
    assert highest_allowed([3.0, 1.0, 2.0], 200.0) == 3.0


def test_windows_that_tie_at_the_threshold_all_stay_quiet() -> None:
    assert highest_allowed([1.0] * 390 + [4.0] * 10, 200.0) == 4.0


def test_a_column_stands_in_widths_above_its_median() -> None:
    scores = np.linspace(0.0, 1.0, 101)
    assert Spread.of(scores.tolist()).standing(1.4) == pytest.approx((1.4 - 0.5) / 0.45)


def test_what_quiet_windows_never_did_is_certain() -> None:
    spread = Spread.of([0.0] * 50)
    assert spread.standing(0.0) == 0.0
    assert spread.standing(0.01) == pytest.approx(0.01 * CERTAIN)


def test_what_is_seldom_seen_in_quiet_windows_does_not_set_the_threshold_of_all() -> None:
    spread = Spread.of([0.0] * 99 + [0.5])
    assert spread.standing(0.5) == 1.0
    assert spread.standing(2.0) == 4.0


def test_distances_are_made_comparable_between_columns() -> None:
    rng = np.random.default_rng(2)
    # Column b has a bias ten times the noise of a: one threshold for both would never see a.
    quiet = [line({"a": rng.normal(0.1, 0.01), "b": rng.normal(0.5, 0.01)}) for _ in range(400)]
    matched = Matched.of(quiet, 200.0, spread=True)
    assert sum(matched.judged(one)[0] for one in quiet) == 2
    assert matched.judged(line({"a": 0.2, "b": 0.5})) == (True, "a")
    same = Matched.of(quiet, 200.0, spread=False)
    assert not same.judged(line({"a": 0.2, "b": 0.5}))[0]


def test_the_highest_of_several_tests_stands_for_a_feature() -> None:
    matched = Matched(2.0)
    one = line()
    one["scores"] = {"a": {"drift": 1.0, "missing": 3.0}, "b": {"drift": 2.5}}
    assert matched.judged(one) == (True, "a")


def test_a_window_without_scores_is_quiet() -> None:
    assert Matched(0.0).judged(line()) == (False, "")


# ---------------------------------------------------------------- what a window says


def test_the_default_names_the_highest_score_of_what_it_marks() -> None:
    one = line({"a": 1.2, "b": 3.0}, alarms={"any": True, "half": False}, named=["a"])
    assert by_default(one, "any") == (True, "a")
    assert by_default(one, "half") == (False, "a")


def test_a_tool_that_ranks_itself_is_believed() -> None:
    one = line(alarms={"own": True}, firsts={"own": "b"})
    assert by_default(one, "own") == (True, "b")


def test_an_error_is_an_alarm_and_names_what_its_text_names() -> None:
    one = line(error="ValueError: An empty column 'b' was provided")
    assert by_default(one, "any") == (True, "b")
    assert Matched(1.0).judged(one) == (True, "b")
    assert by_default(line(error="ValueError: shapes differ"), "any") == (True, "")


# ---------------------------------------------------------------- over runs


def test_a_delay_counts_the_windows_of_the_break() -> None:
    tried = Tried()
    quiet, right, wrong = (False, ""), (True, "a"), (True, "b")
    for windows in ([right], [quiet, right], [quiet, quiet, wrong], [quiet, quiet, quiet]):
        tried.add(windows, ("a",), raised=False)
    assert tried.delays == [1, 2, 3, None]
    assert tried.within(2) == 0.5
    assert tried.delay == 2.5
    assert tried.right_share == pytest.approx(2 / 3)


def test_the_feature_counts_that_was_named_when_the_alarm_began() -> None:
    tried = Tried()
    tried.add([(False, ""), (True, "b"), (True, "a")], ("a",), raised=False)
    assert tried.right_share == 0.0


def test_rows_to_the_alarm_end_with_the_window_or_at_the_row_of_the_default() -> None:
    alarm = {"alarms": {"any": True}, "firsts": {"any": "a"}, "what": "x"}
    lines = [line(**{**alarm, "alarms": {"any": False}}), line(**alarm, window=1, row=29)]
    found = Said(TOOLS[3], quiet=[line({"a": 1.0})], broken={"x": [lines]})
    found.judges["any"] = lambda one: by_default(one, "any")
    found.judges[MATCHED] = found.judges["any"]
    assert found.tried("any", {"x": ("a",)}, 100)["x"].row_delay == 130.0
    assert found.tried(MATCHED, {"x": ("a",)}, 100)["x"].row_delay == 200.0


def test_quiet_windows_are_counted_in_alarm_and_where_one_begins() -> None:
    alarms = [[True, True, False, True], [True, False, False, False]]
    quiet = [
        line(alarms={"any": alarm}, run=run, window=window)
        for run, windows in enumerate(alarms)
        for window, alarm in enumerate(windows)
    ]
    found = Said(TOOLS[1], quiet=quiet)
    found.judges["any"] = lambda one: by_default(one, "any")
    assert found.false_alarms("any") == (50.0, 37.5)


def test_an_alarm_that_was_on_before_the_break_does_not_catch_it() -> None:
    def told(window: int, what: str, alarm: bool) -> dict[str, Any]:
        return line(
            window=window, what=what, alarms={"default budget": alarm, "matched budget": alarm}
        )

    found = Said(TOOLS[0], broken={"x": [[told(0, "x", True)]]})
    found.quiet = [told(BEFORE - 1, "quiet", False)]
    assert found.tried(MATCHED, {"x": ("a",)}, 100)["x"].delays == [1]
    found.quiet = [told(BEFORE - 1, "quiet", True)]
    assert found.tried(MATCHED, {"x": ("a",)}, 100)["x"].delays == [None]


def test_what_is_never_caught_has_no_delay_and_names_nothing() -> None:
    tried = Tried()
    tried.add([(False, "")] * 5, ("a",), raised=False)
    assert math.isinf(tried.delay)
    assert tried.right_share is None


def test_lines_of_a_process_are_put_in_order_by_break_and_run() -> None:
    told = [line(), line(what="null", window=0), line(what="null", window=1)]
    told.append(line(what="null", run=1))
    lines = [json.dumps(one) for one in (*told, {"fits": 2, "judge_s": 3.0, "windows": 4})]
    found = read(TOOLS[1], lines, ["a", "b"])
    assert [len(found.quiet), *map(len, found.broken["null"])] == [1, 2, 1]
    assert (found.runs, found.window_s) == (2, 0.75)


def test_a_page_of_several_runs_keeps_what_this_one_did_not_measure() -> None:
    page = "<!-- bars -->\nB\n<!-- end -->\n<!-- table: peers: T -->\nold\n<!-- end -->\n<!-- table: verdicts: T -->\nV\n<!-- end -->\n"
    table = {"title": "T", "columns": ["x"], "rows": [[1]], "note": ""}
    written = with_parts(page, [{"benchmark": "peers", "tables": [table]}], keeps=True)
    assert "old" not in written and "| 1 |" in written
    assert "B\n" in written and "V\n" in written


# ---------------------------------------------------------------- files, and being alone


def test_a_tool_reads_the_windows_that_were_written(tmp_path: Path) -> None:
    table = {"a": np.arange(10.0), "b": np.array([f"k{i}" for i in range(10)])}
    write_table(tmp_path, table)
    rows = np.array([[1, 2], [3, 4]], np.int32)
    changed = [{"a": np.array([math.nan, 7.0])}, {"a": np.array([8.0, 9.0])}]
    run = Run(np.array([5, 6], np.int32), rows, {"x": Broken(rows, changed, ()), "y": Broken(rows, [{}, {}], ("b",))})  # fmt: skip
    write_run(tmp_path, 0, run)
    given = Given(tmp_path)
    (found,) = given.runs()
    assert given.at(found.reference)["b"].tolist() == ["k5", "k6"]
    first, second = given.windows(found.broken["x"])
    assert np.array_equal(first["a"], changed[0]["a"], equal_nan=True)
    assert second["a"].tolist() == [8.0, 9.0] and second["b"].tolist() == ["k3", "k4"]
    assert [list(one) for one in given.windows(found.broken["y"])] == [["a"], ["a"]]


@pytest.mark.parametrize("how", ["socket.create_connection(('127.0.0.1', 9))", "socket.getaddrinfo('localhost', 80)"])  # fmt: skip
def test_a_process_that_stays_alone_refuses_connections_and_tells_of_them(how: str) -> None:
    code = f"""
import socket
from benchmarks.verdicts.peers.offline import Refused, refuse_connections, refused
refuse_connections()
try:
    {how}
except Refused:
    print(len(refused()), refused()[0].split()[0])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout.split()[0] == "1"
    assert done.stdout.split()[1].startswith("socket.")


FAKE = """
from benchmarks.verdicts.peers.runner import Found, judge_all

class Counter:
    def __init__(self, seen=0):
        self.seen = seen
    def copy(self):
        return Counter(self.seen)
    def judge(self, tables):
        found = []
        for table in tables:
            table["b"]
            self.seen += 1
            found.append(Found({"any": False}, scores={"a": {"seen": float(self.seen)}}))
        return found

judge_all(lambda reference, rows: Counter(), ("numpy",), ("any",))
"""


def test_a_break_follows_the_first_quiet_windows_and_what_is_raised_is_told(tmp_path: Path) -> None:
    write_table(tmp_path, {"a": np.arange(10.0), "b": np.arange(10.0)})
    rows = np.arange(16, dtype=np.int32).reshape(8, 2) % 10
    broken = {"x": Broken(rows[:2], [{}, {}], ()), "y": Broken(rows[:2], [{}, {}], ("b",))}
    write_run(tmp_path, 0, Run(rows[0], rows, broken))
    done = subprocess.run(
        [sys.executable, "-c", FAKE, tmp_path, "--runs", "1"],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    found = read(TOOLS[1], done.stdout.splitlines(), ["a", "b"])
    assert [one["scores"]["a"]["seen"] for one in found.quiet] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [one["scores"]["a"]["seen"] for one in found.broken["x"][0]] == [BEFORE + 1, BEFORE + 2]
    assert [one["error"] for one in found.broken["y"][0]] == ["KeyError: 'b'"] * 2
    assert found.broken["y"][0][0]["alarms"] == {"any": True}
    assert (found.runs, found.end["windows"], found.end["refused"]) == (1, 12, [])

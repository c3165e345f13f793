"""A reference whose windows have another width than those that are judged."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from agent.cli import main
from agent.config import Config, Windows
from agent.judge.calibration import Calibration
from agent.judge.cells import Statistic
from agent.judge.engine import Judge
from agent.judge.reference import ModelKey, Reference, write_reference
from agent.judge.reference_build import build
from agent.judge.standing import Known
from agent.judge.widths import widened
from tests.support.profiles import normal_windows, write_events

KEY = ModelKey("m", "1")


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """24 windows of a minute, of 95 to 105 rows in turn."""
    path = tmp_path_factory.mktemp("w") / "ref.jsonl"
    rows = [normal_windows(at, 1, 95 + 10 * (at % 2))[0] for at in range(24)]
    return build([write_events(path, rows)], Config(), created_ms=1).reference


def test_rows_of_windows_of_so_many_minutes_are_known(reference: Reference) -> None:
    wide = widened(reference.models[KEY], 60_000, 300_000)
    assert wide is not None
    assert (wide.rows_low, wide.rows_high) == (5 * 95, 5 * 105)
    assert wide.rows_median == pytest.approx(500, abs=25)
    assert wide.gap_s == 300.0
    before, after = (
        next(
            c
            for c in Calibration.from_bytes(s.calibration).cells
            if c.key.statistic is Statistic.VOLUME
        )
        for s in (reference.models[KEY], wide)
    )
    assert after.rate == pytest.approx(before.rate + math.log(5))


@pytest.mark.parametrize("width_ms", [30_000, 90_000])
def test_rows_of_narrower_or_uneven_windows_are_not(reference: Reference, width_ms: int) -> None:
    assert widened(reference.models[KEY], 60_000, width_ms) is None
    known = Known([reference], [], width_ms)
    standing = known.standing(KEY)
    assert standing is not None
    assert standing.whole.expected_rows(0) is None
    assert standing.contract.rows.silence_s is None
    assert "numbers of rows and silence are not judged" in known.notes[0]


def test_empty_windows_do_not_add_up(reference: Reference) -> None:
    stream = reference.models[KEY]
    stream.gap_s, before = 120.0, stream.gap_s
    wide = widened(stream, 60_000, 300_000)
    stream.gap_s = before
    assert wide is not None
    assert wide.rows_low == 95  # one of the five may be all there is
    cells = Calibration.from_bytes(wide.calibration).cells
    assert not any(c.key.statistic is Statistic.VOLUME for c in cells)


def test_another_width_is_said_by_the_page_and_by_check(
    reference: Reference, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judge = Judge(Config(windows=Windows(width_s=30)), [reference])
    assert [reference.id in note for note in judge.state()["notes"]] == [True]
    assert Judge(Config(), [reference]).state()["notes"] == []
    write_reference(reference, tmp_path / "ref.profile")
    path = tmp_path / "c.yaml"
    path.write_text(
        "kafka: {topics: [p]}\nwindows: {width_s: 45}\n"
        f"judge: {{baseline_file: {tmp_path / 'ref.profile'}}}\n"
    )
    assert main(["check", "-c", str(path)]) == 0
    assert "build it again with --window 45" in capsys.readouterr().err

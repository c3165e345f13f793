"""`make audit`: what it says and how it ends, with a stand-in for pip-audit's own words."""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.built import REPOSITORY

_SPEC = importlib.util.spec_from_file_location("audit", REPOSITORY / ".ci/audit.py")
assert _SPEC is not None and _SPEC.loader is not None
audit = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(audit)

CLEAN: dict[str, Any] = {"name": "one", "version": "1.0", "vulns": []}
BAD: dict[str, Any] = {
    "name": "two",
    "version": "2.0",
    "vulns": [{"id": "XYZ-2026-1", "fix_versions": ["2.1"], "description": "", "aliases": []}],
}
UNKNOWN: dict[str, Any] = {"name": "three", "skip_reason": "Dependency not found"}


def program(tmp_path: Path, text: str, status: int) -> list[str]:
    """Writes `text` and ends with `status`, whatever it is asked."""
    file = tmp_path / "stand_in.py"
    file.write_text(f"import sys\nprint({text!r})\nsys.exit({status})\n")
    return [sys.executable, str(file)]


@pytest.mark.parametrize(
    ("packages", "ci", "status", "said"),
    [
        ([CLEAN], "true", 0, "1 packages audited, 0 with known vulnerabilities"),
        ([CLEAN, BAD], "", 1, "two 2.0: XYZ-2026-1, fixed in 2.1"),
        ([CLEAN, UNKNOWN], "true", 1, "not in the advisory database: three"),
        ([CLEAN, UNKNOWN], "", 0, "not in the advisory database: three"),
        ([UNKNOWN], "true", 0, "NOT audited, the advisory database could not be reached"),
    ],
)
def test_the_end_follows_from_what_was_found(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    packages: list[dict[str, Any]],
    ci: str,
    status: int,
    said: str,
) -> None:
    monkeypatch.setenv("CI", ci)
    text = json.dumps({"dependencies": packages, "fixes": []})
    assert audit.main(["a.lock"], program(tmp_path, text, 1)) == status
    assert f"a.lock: {said}" in capsys.readouterr().out


def test_no_answer_is_said_and_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CI", "true")
    assert audit.main(["a.lock"], program(tmp_path, "connection refused", 1)) == 0
    assert "NOT audited" in capsys.readouterr().out

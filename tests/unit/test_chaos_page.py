"""docs/chaos.md says what docs/chaos.json holds, and counts what was judged alone."""

from __future__ import annotations

import copy
import json

from tests.chaos.page import DOCS, page

RUNS = json.loads((DOCS / "chaos.json").read_text())


def row_of(text: str, title: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {title} |")]
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_the_page_is_written_from_its_document() -> None:
    assert (DOCS / "chaos.md").read_text() == page(RUNS)


def test_a_round_that_was_not_judged_counts_for_no_fault() -> None:
    run = copy.deepcopy(RUNS[0])
    failed = {
        "mode": "memory",
        "fault": "SIGTERM",
        "number": 2,
        "detail": "",
        "lost": 0,
        "double": 0,
    }
    run |= {"brokers": 1, "rounds": 3, "modes": {"memory": 3}, "faults": {"memory: SIGTERM": 3}}
    run["failed"] = [failed | {"judged": False, "troubles": ["TimeoutError: "]}]
    assert row_of(page([run]), "SIGTERM") == ["", "2", ""]
    run["failed"][0]["judged"] = True
    assert row_of(page([run]), "SIGTERM") == ["", "3", ""]

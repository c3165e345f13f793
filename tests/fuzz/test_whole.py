"""The decoder with all its tiers makes of any records what the orjson decoder alone makes of them."""

from __future__ import annotations

import json
import random
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.configurations import ALL
from tests.fuzz.run import fuzz
from tests.fuzz.strategies import spelled_events
from tests.fuzz.whole import WholeSubject

CASES = 6000


@pytest.mark.parametrize("name", list(ALL))
@pytest.mark.parametrize("is_drawn", [False, True])
def test_mutated_records_mean_what_orjson_says(name: str, is_drawn: bool) -> None:
    seed = random.SystemRandom().randrange(10**9) if is_drawn else 1
    report = fuzz("all", CASES, seed, names=(name,))
    assert not report.mismatches, f"seed {seed}:\n" + "\n".join(report.shown)
    assert report.cases == CASES
    if (
        not is_drawn
    ):  # a drawn run may be of labels, or of one stream with too many columns, in whole
        assert report.passed_over == 0
        assert report.accepted["scan"] + report.accepted["template"] > CASES // 10


@given(
    st.lists(spelled_events(), min_size=1, max_size=8),
    st.lists(st.integers(0, 15), min_size=1, max_size=60),
    st.sampled_from(list(ALL)),
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_events_in_any_order_and_spelling_mean_what_orjson_says(
    events: list[tuple[bytes, bytes]], order: list[int], name: str
) -> None:
    """Drawn events come again and again, so that what was learned of one meets the other."""
    spellings = [spelling for event in events for spelling in event]
    records: list[bytes | None] = [spellings[i % len(spellings)] for i in order]
    assert WholeSubject(name).check(records, b"") == []


def test_the_command_prints_one_json_document() -> None:
    command = [sys.executable, "-m", "tests.fuzz", "--cases", "2000", "--seed", "5", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    found = json.loads(done.stdout)
    assert (found["cases"], found["seed"], found["mismatches"]) == (2000, 5, 0)
    assert sum(found["accepted"].values()) > 0

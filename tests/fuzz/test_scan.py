"""The scan tier agrees with orjson on whatever it accepts, reads nothing beyond its records, and takes all spellings."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.configurations import ALL
from tests.fuzz.run import fuzz, shapes_for
from tests.fuzz.scan_tier import ScanTier
from tests.fuzz.shapes import base_records
from tests.fuzz.strategies import spelled_events

CASES = 12_000


@pytest.mark.parametrize("name", list(ALL))
@pytest.mark.parametrize("seed", [1, None])
def test_mutated_records_mean_what_orjson_says(name: str, seed: int | None) -> None:
    seed = random.SystemRandom().randrange(10**9) if seed is None else seed
    report = fuzz("scan", CASES, seed, names=(name,))
    assert not report.mismatches, f"seed {seed}:\n" + "\n".join(report.shown)
    assert report.accepted["scan"] > (CASES // 8 if seed == 1 else 0)


@given(spelled_events(), st.sampled_from([b"", b"0", b'"', b"}", b" "]))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_spelling_of_any_event_means_what_orjson_says(
    spellings: tuple[bytes, bytes], gap: bytes
) -> None:
    tier = ScanTier(ALL["default"])
    tier.learn(spellings[0])
    assert tier.check(list(spellings), gap) == []


@pytest.mark.parametrize("name", list(ALL))
def test_cases_are_the_same_for_the_same_seed(name: str) -> None:
    made = [base_records(random.Random("7"), 50, shapes_for(name)) for _ in range(2)]
    assert made[0] == made[1]


@pytest.mark.parametrize("seed", [1, None])
def test_nothing_beyond_a_record_and_its_padding_is_read_at_any_truncation(
    seed: int | None,
) -> None:
    seed = random.SystemRandom().randrange(10**9) if seed is None else seed
    command = [sys.executable, "-m", "tests.fuzz.guarded_scan", "20000", str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, f"seed {seed}: {done.returncode} {done.stderr}"
    assert int(done.stdout) > (1000 if seed == 1 else 0)

"""Mutated bytes of every binary format are refused as such, or read; a slice of `python -m tests.fuzz.formats`."""

from __future__ import annotations

import random

import pytest

from tests.fuzz.formats import FORMATS, run

CASES = 1500


@pytest.mark.parametrize("name", list(FORMATS))
def test_mutated_bytes_are_refused_or_read_and_nothing_else(name: str) -> None:
    for seed in (1, random.SystemRandom().randrange(10**9)):
        report = run([name], CASES, seed)
        assert report.wrong == [], f"seed {seed}"
        assert report.cases == CASES
        assert report.refused[name] > 0


@pytest.mark.parametrize("name", list(FORMATS))
def test_what_is_mutated_can_be_read_as_it_is(name: str) -> None:
    of = FORMATS[name]
    for sample in of.samples():
        of.read(sample)
        signed = bytearray(sample)
        of.sign(signed)
        assert bytes(signed) == sample

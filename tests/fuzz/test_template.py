"""The template tier agrees with orjson on whatever it accepts, reads nothing beyond its records, and learns all spellings."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.configurations import ALL
from tests.fuzz.run import fuzz
from tests.fuzz.strategies import spelled_events
from tests.fuzz.template_tier import TemplateTier

CASES = 12_000
GAPS = st.sampled_from([b"", b"0", b'"', b"}", b" ", b","])
RELAXED = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize("name", list(ALL))
@pytest.mark.parametrize("seed", [1, None])
def test_mutated_records_mean_what_orjson_says(name: str, seed: int | None) -> None:
    seed = random.SystemRandom().randrange(10**9) if seed is None else seed
    report = fuzz("template", CASES, seed, names=(name,))
    assert not report.mismatches, f"seed {seed}:\n" + "\n".join(report.shown)
    assert report.accepted["template"] > (CASES // 50 if seed == 1 else 0)


@given(st.lists(spelled_events(), min_size=1, max_size=6), st.sampled_from(list(ALL)), GAPS)
@RELAXED
def test_any_spelling_of_any_event_means_what_orjson_says(
    events: list[tuple[bytes, bytes]], name: str, gap: bytes
) -> None:
    tier = TemplateTier(ALL[name])
    records = [spelling for event in events for spelling in event]
    for record in records:
        tier.learn(record)
    assert tier.check(list(records), gap) == []


FEATURES = st.fixed_dictionaries(
    {},
    optional={
        "a": st.floats(-1e6, 1e6, allow_subnormal=False),
        "b": st.none() | st.integers(-5, 5),
        "c": st.booleans() | st.none(),
        "d": st.sampled_from(["x", "größe", "", "y" * 40]),
        "e": st.fixed_dictionaries(
            {},
            optional={
                "f": st.floats(0, 1, allow_subnormal=False),
                "g": st.none() | st.text("ab", max_size=2),
            },
        ),
        "h": st.lists(st.floats(-1, 1, allow_subnormal=False), max_size=3),
    },
)
STYLES = st.sampled_from(
    [{"separators": (",", ":")}, {}, {"indent": 1}, {"separators": (" , ", " : ")}]
)


def written(features: dict[str, Any], style: dict[str, Any]) -> bytes:
    event = {"model": "m", "ts": 1_767_225_600_000, "features": features, "prediction": 0.5}
    return json.dumps(event, ensure_ascii=False, **style).encode()


@given(st.lists(FEATURES, min_size=1, max_size=10), STYLES, st.randoms(use_true_random=False), GAPS)
@RELAXED
def test_optional_and_null_fields_in_any_combination_mean_what_orjson_says(
    events: list[dict[str, Any]], style: dict[str, Any], rng: random.Random, gap: bytes
) -> None:
    """Combinations that no event showed are accepted by merged templates: they must mean what they say."""
    tier = TemplateTier(ALL["default"])
    for features in events:
        tier.learn(written(features, style))
    names = ["a", "b", "c", "d", "e", "h"]
    drawn = []
    for _ in range(20):
        mixed = {}
        for name in rng.sample(names, rng.randrange(len(names) + 1)):
            source = rng.choice(events)
            if name in source:
                mixed[name] = source[name]
        drawn.append(written(mixed, style))
        # The same with an object or a key once more: never for a template.
        drawn.append(drawn[-1].replace(b"}", b',"features":{"a":1}}', 1))
        drawn.append(drawn[-2].replace(b'"model"', b'"a":1,"model"', 1))
    assert tier.check([*drawn, *(written(features, style) for features in events)], gap) == []


@given(FEATURES, STYLES)
@settings(max_examples=60, deadline=None)
def test_a_record_cut_at_any_byte_is_no_row_whatever_comes_behind(
    features: dict[str, Any], style: dict[str, Any]
) -> None:
    tier = TemplateTier(ALL["default"])
    record = written(features, style)
    tier.learn(record)
    assert tier.check([record]) == []
    fits = bool(tier.n_accepted)
    for end in range(len(record)):
        raw = b"\0" * 64 + record + b"\0" * 64
        buffer = np.frombuffer(raw, np.uint8)
        position, length = np.array([64], np.int64), np.array([end], np.int64)
        assert tier.scan_at(buffer, position, length, 0, 0) == [0], end
    # The norm of a vector that is next to nothing is left to orjson.
    vector = features.get("h", ())
    is_tiny = any(vector) and sum(x * x for x in vector) <= 1e-280
    assert fits or not features or is_tiny


@pytest.mark.parametrize("seed", [1, None])
def test_nothing_beyond_a_record_and_its_padding_is_read_at_any_truncation(
    seed: int | None,
) -> None:
    seed = random.SystemRandom().randrange(10**9) if seed is None else seed
    command = [sys.executable, "-m", "tests.fuzz.guarded_templates", "20000", str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, f"seed {seed}: {done.returncode} {done.stderr}"
    assert int(done.stdout) > (1000 if seed == 1 else 0)

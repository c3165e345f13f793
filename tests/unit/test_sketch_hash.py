"""merge_hash: fixed for ever, equal to its plain version, independent of what lies around a text."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.sketch.hash import HASH_VERSION, hash_spans, merge_hash
from tests.reference import merge_hash as reference
from tests.reference.sketching import spans


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=100))
def test_equals_the_reference(data: bytes) -> None:
    assert merge_hash(data) == reference.merge_hash(data)


def test_every_length_equals_the_reference_in_one_call() -> None:
    texts = [bytes(range(1, n + 1)) for n in range(200)]
    text, start, length = spans(texts)
    out = np.empty(len(texts), np.uint64)
    hash_spans(text, start, length, out)
    assert out.tolist() == [reference.merge_hash(t) for t in texts]
    assert len(set(out.tolist())) == len(texts)


def test_trailing_zero_bytes_make_a_difference() -> None:
    assert len({merge_hash(b"a" + bytes(n)) for n in range(40)}) == 40


def test_absent_and_null_are_never_produced() -> None:
    # the remap itself: 0 and 1 cannot be provoked, so the rule is held on the plain version
    assert reference.fold(0, reference.H2) == 0
    assert HASH_VERSION == 1


def test_no_collisions_and_even_bits_over_many_texts() -> None:
    n = 200_000
    text, start, length = spans([b"user-%d" % i for i in range(n)])
    out = np.empty(n, np.uint64)
    hash_spans(text, start, length, out)
    assert len(np.unique(out)) == n
    for bit in range(64):
        ones = int(((out >> np.uint64(bit)) & np.uint64(1)).sum())
        assert abs(ones - n / 2) < 6 * (n / 4) ** 0.5


def test_a_span_too_near_the_end_is_refused() -> None:
    out = np.empty(1, np.uint64)
    with pytest.raises(ValueError, match="less than 64 bytes from its end"):
        hash_spans(np.zeros(70, np.uint8), np.array([5]), np.array([5], np.int32), out)
    with pytest.raises(ValueError, match="length is int32"):
        hash_spans(np.zeros(99, np.uint8), np.array([5]), np.array([5, 5], np.int32), out)

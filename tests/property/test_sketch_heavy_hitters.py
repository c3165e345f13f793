"""Heavy hitters against exact counts: bounds hold, the heavy are found, their text is right."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.sketch.kernels import layout
from agent.sketch.views import StringView, string_view
from tests.reference import space_saving
from tests.reference.merge_hash import merge_hash
from tests.reference.sketching import Record, merged, strings


def _words(kind: str, n: int) -> list[bytes]:
    rng = np.random.default_rng(n)
    if kind == "unique":
        keys = np.arange(n)
    elif kind == "zipf":
        keys = rng.zipf(1.3, n) % 1_000_000
    elif kind == "late arrival":
        keys = np.where(np.arange(n) < n // 2, np.arange(n) + 10, 7)
    else:
        keys = rng.integers(0, int(kind), n)
    return [b"key %d" % k for k in keys.tolist()]


def assert_bounds(view: StringView, words: list[bytes]) -> None:
    true = Counter(words)
    listed = {hitter.text.encode(): hitter for hitter in view.named}
    for text, hitter in listed.items():
        assert hitter.count - hitter.overestimate <= true[text] <= hitter.count
        assert hitter.length == len(text)
    for text, count in true.items():
        if count > view.unlisted_bound:
            assert text in listed or count < 2, (text, count)
    assert int(view.hashed_buckets.sum()) == len(words)


@pytest.mark.parametrize("kind", ["1", "5", "100", "1000", "unique", "zipf", "late arrival"])
@pytest.mark.parametrize("n", [0, 1, 100, 50_000])
def test_bounds_hold_and_every_heavy_key_is_listed(kind: str, n: int) -> None:
    words = _words(kind, n)
    assert_bounds(string_view(strings(words)), words)
    parts = [strings(words[i::5]) for i in range(5)]
    assert_bounds(string_view(merged(parts)), words)
    chunks = [strings(words[at : at + 7001]) for at in range(0, n, 7001)] or [strings([])]
    assert_bounds(string_view(merged(chunks)), words)


def test_the_twenty_heaviest_of_a_skewed_column_are_on_top() -> None:
    words = _words("zipf", 50_000)
    want = [text.decode() for text, _ in Counter(words).most_common(20)]
    got = [text for text, _, _ in string_view(strings(words)).top(20)]
    assert set(want[:15]) <= set(got)
    assert got[:5] == want[:5]


def test_few_categories_are_counted_exactly_and_all_named() -> None:
    words = _words("5", 10_000)
    view = string_view(strings(words))
    want = [(t.decode(), c, 0) for t, c in Counter(words).items()]
    assert sorted(view.top(10)) == sorted(want)


def test_a_key_that_one_side_has_forgotten_keeps_its_bound_in_a_merge() -> None:
    crowd = [b"id %d" % i for i in range(5000)]
    forgot = strings([b"x"] * 3 + crowd)
    assert "x" not in {text for text, _, _ in string_view(forgot).top(128)}
    knows = strings([b"x"] * 200)
    for order in ([forgot, knows], [knows, forgot]):
        found = {text: (count, over) for text, count, over in string_view(merged(order)).top(128)}
        count, over = found["x"]
        assert count - over <= 203 <= count


def test_a_rare_category_seen_once_in_each_chunk_is_still_named() -> None:
    parts = [strings([b"rare", *(b"c%d" % i for i in range(20))]) for _ in range(50)]
    assert ("rare", 50, 0) in string_view(merged(parts)).top(30)


def test_a_key_stays_listed_as_long_as_the_bound_says_on_unique_ids() -> None:
    view = string_view(strings(_words("unique", 50_000)))
    assert view.unlisted_bound <= 50_000 / 8  # each of 16 sets has 8 ways
    assert view.unlisted_bound <= 1.3 * 50_000 / 126


def table(record: Record) -> dict[int, tuple[int, int]]:
    """(count, overestimate) by key, named or not."""
    keys = record[layout.KEYS : layout.COUNTS].view(np.uint64).tolist()
    words = record[layout.COUNTS : layout.OVERS].view(np.uint64).tolist()
    overs = record[layout.OVERS : layout.HASHED].view(np.uint64).tolist()
    return {k: (word >> 1, o) for k, word, o in zip(keys, words, overs, strict=True) if word}


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from([5, 100, 200, 1000, 10_000]),
    st.tuples(st.integers(0, 3000), st.integers(0, 3000)),
    st.floats(0.5, 4.0),
    st.integers(0, 2**32),
)
def test_the_table_equals_the_reference_before_and_after_a_merge(
    n_words: int, sizes: tuple[int, int], skew: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    parts = [
        [b"key %d" % k for k in (n_words * rng.random(n) ** skew).astype(int).tolist()]
        for n in sizes
    ]
    wanted = [space_saving.table_of(merge_hash(word) for word in words) for words in parts]
    records = [strings(words, block=500) for words in parts]
    for record, want in zip(records, wanted, strict=True):
        assert table(record) == want.entries()
        bound = max(want.least(number) for number in range(space_saving.SETS))
        assert string_view(record).unlisted_bound == bound
    assert table(merged(records)) == space_saving.merged(*wanted)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.text(max_size=90), min_size=1, max_size=20))
def test_texts_are_cut_between_characters(texts: list[str]) -> None:
    raw = [t.encode("utf-8", "surrogatepass") for t in texts if t.isprintable()]
    raw = [t for t in raw if _valid(t)] or [b"x"]
    view = string_view(strings(raw))
    by_key = {h.text: h for h in view.named}
    for data in set(raw):
        cut = data[:56]
        while not _valid(cut):
            cut = cut[:-1]
        hitter = by_key[cut.decode()]
        assert len(hitter.text.encode()) <= 56
    assert {h.length for h in view.named} == {len(t) for t in set(raw)}


def _valid(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True

"""Pages in pieces are the same pages."""

import gzip
import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.web import pieces
from agent.web.pieces import fragment, gzipped, json_pieces, taken

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def finite(value):
    """As JSON has it: infinity is null."""
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return None
    if isinstance(value, list):
        return [finite(v) for v in value]
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    return value


@given(st.dictionaries(st.text(), VALUES, max_size=6))
def test_pieces_joined_are_the_document_and_one_line(document) -> None:
    text = b"".join(json_pieces(document))
    assert json.loads(text) == finite(document)
    assert text.endswith(b"}\n") and text.count(b"\n") == 1


def test_a_fragment_stands_for_its_document() -> None:
    stream = {"model": "m", "mean": float("nan"), "by": {1: 2}}
    (piece,) = json_pieces({"streams": [fragment(stream), fragment({})], "rows": 1})
    assert json.loads(piece) == {
        "streams": [{"model": "m", "mean": None, "by": {"1": 2}}, {}],
        "rows": 1,
    }


def test_no_piece_is_longer_than_the_limit_and_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE_BYTES", 1000)
    document = {"streams": [{"x": "y" * 90} for _ in range(100)]}
    found = json_pieces(document)
    assert len(found) == 10
    assert max(map(len, found)) < 1000 + 100
    assert json.loads(b"".join(found)) == document


def test_compressed_pieces_are_one_gzip_member_of_the_page_and_the_page_is_let_go() -> None:
    given_pieces = [bytes([i]) * 100_000 for i in range(5)]
    page = b"".join(given_pieces)
    packed = b"".join(gzipped(given_pieces))
    assert gzip.decompress(packed) == page
    reader = zlib.decompressobj(31)
    reader.decompress(packed)
    assert reader.eof and not reader.unused_data
    assert given_pieces == []


def test_taken_gives_pieces_in_order_and_lets_each_go() -> None:
    waiting = [b"a", b"b", b"c"]
    found = [(piece, len(waiting)) for piece in taken(waiting)]
    assert found == [(b"a", 2), (b"b", 1), (b"c", 0)]

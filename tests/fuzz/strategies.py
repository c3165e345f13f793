"""Hypothesis strategies: events as JSON trees, and all the ways to spell one tree as JSON text."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
NAMES = st.sampled_from(["a", "b", "a.b", "score", "label", "größe", "ttft_ms", ""]) | TEXTS
NUMBERS = (
    st.integers(-(2**66), 2**66)
    | st.integers(-5, 5)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([0.1, 1e308, 5e-324, -0.0, 1e22, 2**53 + 1, 123456789012345678])
)
SCALARS = st.none() | st.booleans() | NUMBERS | TEXTS
VALUES = st.recursive(
    SCALARS | st.lists(NUMBERS, max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)
EVENTS = st.fixed_dictionaries(
    {"model": st.sampled_from(["m", "n", 7, "größe"]), "features": st.dictionaries(NAMES, SCALARS)},
    optional={
        "version": st.sampled_from(["1", 1, 1.5, None, ""]),
        "prediction": SCALARS | st.dictionaries(NAMES, SCALARS, max_size=3) | VALUES,
        "usage": st.dictionaries(NAMES, SCALARS, max_size=3),
        "label": VALUES,
        "latency_ms": NUMBERS,
        "status": st.sampled_from(["ok", "SUCCESS", 200, 300, 0, "204", "fail", ""]) | SCALARS,
        "segment": st.dictionaries(NAMES, SCALARS, max_size=3),
        "ts": st.integers(-(10**18), 10**19) | st.floats(0, 1e18) | st.datetimes().map(str),
        "id": SCALARS,
        "tags": VALUES,
        "other": VALUES,
    },
)
SPACES = st.sampled_from(["", "", "", " ", "\n", "\t \r\n"])


@st.composite
def spelled(draw: st.DrawFn, tree: Any) -> bytes:
    """One of the JSON texts of this tree: order of keys, white space and escapes are drawn."""

    def space() -> str:
        return draw(SPACES)

    def string(text: str) -> str:
        written = json.dumps(text, ensure_ascii=draw(st.booleans()))
        if text and draw(st.integers(0, 5)) == 0:
            # Some character that needs no escape gets one, in hexadecimal of either case.
            at = draw(st.integers(0, len(text) - 1))
            units = text[at].encode("utf-16-be")
            escaped = "".join(
                f"\\u{units[i]:02x}{units[i + 1]:02X}" for i in range(0, len(units), 2)
            )
            written = json.dumps(text[:at])[:-1] + escaped + json.dumps(text[at + 1 :])[1:]
        return written

    def spell(value: Any) -> str:
        if isinstance(value, dict):
            items = draw(st.permutations(list(value.items())))
            inside = ",".join(
                f"{space()}{string(key)}{space()}:{space()}{spell(item)}{space()}"
                for key, item in items
            )
            return f"{{{inside or space()}}}"
        if isinstance(value, list):
            inside = ",".join(f"{space()}{spell(item)}{space()}" for item in value)
            return f"[{inside or space()}]"
        if isinstance(value, str):
            return string(value)
        return json.dumps(value)

    return f"{space()}{spell(tree)}{space()}".encode()


@st.composite
def spelled_events(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Two texts of one event."""
    tree = draw(EVENTS)
    return draw(spelled(tree)), draw(spelled(tree))

"""Records that are objects, laid out as an arena: what kernels read of them is what was sent."""

from __future__ import annotations

import pytest

from agent.decode.laid import lay_out
from agent.decode.scalars import header_text
from agent.types import Record

PARENT = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize("state", [b"a=b", b"\xff", b"ot=rv:0123456789abcd\x80", "ü".encode()])
@pytest.mark.parametrize("parent", [PARENT, PARENT[:-1] + b"\xe9"])
def test_trace_context_keeps_its_bytes_also_those_that_are_not_ascii(
    parent: bytes, state: bytes
) -> None:
    """Else a question mark would make sound what was not."""
    headers = (("traceparent", b"old"), ("TraceParent", parent), ("traceState", state))
    index = lay_out([Record(7, 0, None, b"{}", headers)], 8)
    start, length = int(index.tpos[0]), int(index.tlen[0])
    assert index.text[start : start + length].tobytes() == parent
    assert dict(index.headers(0))["tracestate"] == state
    # As the orjson tier reads it.
    assert header_text(index.headers(0), "tracestate") == header_text(headers, "tracestate")

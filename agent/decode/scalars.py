"""Small readings of one JSON value: names, status, trace context."""

from __future__ import annotations

import math
import re
from typing import Any

import orjson

_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
)
_SUCCESS = frozenset(("ok", "success", "0", ""))
#: Longest status text kept on a span.
_STATUS_CHARS = 64


def number_text(value: int | float | bool) -> str:
    """A number or boolean as JSON text: 7, 7.5, 1e+300, true. Non-finite: nan, inf, -inf.

    The shortest text that reads back as the same float64, so 7.50 and 7.5 are one name.
    """
    if value is True:
        return "true"
    if value is False:
        return "false"
    return repr(value)


def norm(vector: list[int | float]) -> float:
    """Euclidean norm: a plain sum of squares from the left, as the compiled tiers take it.

    Where that could overflow or lose small components, they leave it to this one, which then scales.
    """
    total = 0.0
    for component in vector:
        x = float(component)
        total += x * x
    return math.sqrt(total) if 1e-280 < total < 1e280 else math.hypot(*vector)


def cut_name(name: str, max_bytes: int) -> str:
    """`name`, or its longest prefix of whole characters that has at most `max_bytes` of UTF-8."""
    if len(name) * 4 <= max_bytes:
        return name
    raw = name.encode("utf-8", "replace")
    if len(raw) <= max_bytes:
        return name
    return raw[:max_bytes].decode("utf-8", "ignore")


def error_text(status: object) -> str:
    """ "" when `status` says success: absent, ok, success, true, 0, 2xx. Else its text, cut to 64 characters."""
    kind = type(status)
    if status is None or status is True:
        return ""
    if kind is str:
        text: str = status  # type: ignore[assignment]
        if text.lower() in _SUCCESS:
            return ""
        if len(text) == 3 and text[0] == "2" and text.isascii() and text.isdigit():
            return ""
        return text[:_STATUS_CHARS]
    if kind is int or kind is float:
        number: float = status  # type: ignore[assignment]
        return "" if number == 0 or 200 <= number < 300 else number_text(number)[:_STATUS_CHARS]
    if status is False:
        return "false"
    return json_bytes(status).decode("utf-8", "replace")[:_STATUS_CHARS]


def json_bytes(value: object) -> bytes:
    """`value` as JSON, or as Python text where JSON has no words for it (tables) or no room (depth)."""
    try:
        return orjson.dumps(value, default=str)
    except TypeError:
        return repr(value).encode("utf-8", "replace")


def valid_traceparent(text: str) -> bool:
    """Whether `text` is a W3C trace context: version 00 exactly, later versions with their known part."""
    if text[:2] == "00":
        return _TRACEPARENT.fullmatch(text) is not None
    return _TRACEPARENT.match(text) is not None and text[55:56] in ("", "-")


def header_text(headers: tuple[tuple[str, bytes | None], ...], name: str) -> str | None:
    """The last header of that name (any case) as text; None when absent or empty."""
    value = header_bytes(headers, name)
    return None if value is None else value.decode("ascii", "replace")


def header_bytes(headers: tuple[tuple[str, bytes | None], ...], name: str) -> bytes | None:
    """The last header of that name (any case); None when absent or empty."""
    for key, value in reversed(headers):
        if value and key.lower() == name:
            return value
    return None


def max_depth(tree: Any) -> int:
    """Depth of nested objects and arrays: 0 for a scalar, 1 for a flat object. Iterative; O(size)."""
    depth = 0
    level = [tree] if type(tree) is dict or type(tree) is list else []
    while level:
        depth += 1
        below: list[Any] = []
        for node in level:
            values = node.values() if type(node) is dict else node
            below += [value for value in values if type(value) is dict or type(value) is list]
        level = below
    return depth

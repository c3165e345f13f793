"""Rows of tables as events: which column is which part of an event, and what a CSV cell means.

A column whose dotted name is, or lies below, a path of `decode.fields` (`model`, `ts`, `segment.region`,
`prediction.score` ...) is that part of the event. Every other column is a feature of its own name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from agent.decode.fields import FieldMap, Parts

#: Groups: a point and digits behind others, a point and digits alone, an exponent.
_NUMBER = re.compile(
    r"[+-]?(?:(?:0|[1-9][0-9]*)(\.[0-9]*)?|(\.[0-9]+))([eE][+-]?[0-9]+)?", re.ASCII
)
#: As numpy, pandas, R, Java and SQL write them. Words of other case are text.
_NOT_FINITE = {
    "nan": math.nan,
    "NaN": math.nan,
    "NAN": math.nan,
    "inf": math.inf,
    "Inf": math.inf,
    "INF": math.inf,
    "infinity": math.inf,
    "Infinity": math.inf,
}
_BOOLEANS = {
    "true": True,
    "false": False,
    "True": True,
    "False": False,
    "TRUE": True,
    "FALSE": False,
}
#: Parts of an event that are names: "1.10" is not the number 1.1 there.
_NAMES = frozenset(("id", "model", "version", "segment", "ts", "status", "label", "traceparent"))
#: Digits that always fit 64 bits.
_SAFE_DIGITS = 18


def cell(text: str) -> Any:
    """The value of a CSV cell: a number, a boolean, None when empty, else the text as it is.

    Numbers are JSON's, also with white space around, a plus sign, or no digit on one side of the
    point; `nan`, `inf` and the like are numbers that are not finite. `007` is text: a code.
    """
    if not text:
        return None
    found = _NUMBER.fullmatch(text)
    if found is None:
        bare = text.strip()
        number = _NOT_FINITE.get(bare.lstrip("+-")) if len(bare) < 10 else None
        if number is not None and bare[1:2] not in ("+", "-"):
            return -number if number == math.inf and bare[0] == "-" else number
        if bare is not text and (found := _NUMBER.fullmatch(bare)) is not None:
            text = bare
        else:
            return _BOOLEANS.get(text, text)
    if found[1] or found[2] or found[3] or len(text) > _SAFE_DIGITS:
        return float(text)
    return int(text)


def plain(value: Any) -> Any:
    """A typed value of a table in the terms of JSON; NaN and infinity stay what they are."""
    kind = type(value)
    if value is None or kind is float or kind is str or kind is int or kind is bool:
        return value
    if kind is list or kind is tuple:
        return [plain(item) for item in value]
    if kind is dict:
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


class TableShape:
    """How rows with these columns become events."""

    def __init__(self, columns: tuple[str, ...], fields: FieldMap) -> None:
        self.columns = columns
        self._features: list[tuple[int, str]] = []
        self._parts: list[tuple[int, Parts, bool]] = []  # column, path, whether it is a name
        self._features_path = fields.features_path
        roots = fields.roots()
        for idx, column in enumerate(columns):
            parts = tuple(column.split("."))
            root = next((name for name, path in roots if _related(path, parts)), None)
            if root is None:
                if self._features_path is not None:
                    self._features.append((idx, column))
            elif (
                root == "features" and self._features_path and len(parts) > len(self._features_path)
            ):
                # `features.x`: below the object of features, so a feature x
                self._features.append((idx, ".".join(parts[len(self._features_path) :])))
            else:
                self._parts.append((idx, parts, root in _NAMES))

    def event(self, row: Sequence[Any], is_text: bool) -> Any:
        """One row as an event; a row with more cells than columns comes back as it is, a list."""
        n = len(row)
        if n > len(self.columns):
            return list(row)
        event: dict[str, Any] = {}
        for idx, parts, is_name in self._parts:
            if idx < n:
                value = row[idx]
                if is_text:
                    value = (value or None) if is_name else cell(value)
                elif not isinstance(value, datetime):  # `ts` keeps its type
                    value = plain(value)
                _put(event, parts, value)
        if self._features:
            features = {}
            for idx, name in self._features:
                if idx < n:
                    features[name] = cell(row[idx]) if is_text else plain(row[idx])
            assert self._features_path is not None
            _merge(event, self._features_path, features)
        return event


def _related(path: Parts, column: Parts) -> bool:
    """Whether the column is the path, below it, or above it."""
    n = min(len(path), len(column))
    return path[:n] == column[:n]


def _put(event: dict[str, Any], parts: Parts, value: Any) -> None:
    """Set a value at a path, making objects on the way; a scalar in the way is replaced."""
    if value is None:
        return
    node = event
    for part in parts[:-1]:
        below = node.get(part)
        if type(below) is not dict:
            below = node[part] = {}
        node = below
    node[parts[-1]] = value


def _merge(event: dict[str, Any], parts: Parts, features: dict[str, Any]) -> None:
    node: Any = event
    for part in parts:
        node = node.get(part) if type(node) is dict else None
    if type(node) is dict:
        features = {**node, **features}
    _put(event, parts, features)

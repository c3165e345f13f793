"""Field mapping: JSON that is not ours is rewritten into the native event model, then decoded as such.

Paths are dotted; `\\.` is a dot inside a key; a number selects an element of an array. Paths are
compiled once. With the default paths nothing is rewritten.
"""

from __future__ import annotations

from typing import Any

from agent.config import Fields
from agent.config.syntax import parse_path

Parts = tuple[str, ...]
ABSENT: Any = object()

#: Native name of each mapped field; the rest of the decoder knows only these.
_SINGLE = (
    "id",
    "ts",
    "model",
    "version",
    "prediction",
    "label",
    "status",
    "tags",
    "usage",
    "traceparent",
)


def dig(tree: Any, parts: Parts) -> Any:
    """The value at `parts`, or ABSENT."""
    for part in parts:
        if type(tree) is dict:
            tree = tree.get(part, ABSENT)
        elif type(tree) is list and part.isascii() and part.isdigit() and len(part) < 10:
            idx = int(part)
            tree = tree[idx] if idx < len(tree) else ABSENT
        else:
            return ABSENT
    return tree


class FieldMap:
    """Compiled `decode.fields`, whose paths are well formed. `is_native`: events need no rewriting."""

    def __init__(self, fields: Fields) -> None:
        self.is_native = fields == Fields()
        self._single = [(name, parse_path(getattr(fields, name))) for name in _SINGLE]
        self._single.append(("latency_ms", parse_path(fields.latency)))
        self._objects: list[tuple[str, Parts]] = []
        self._maps: list[tuple[str, list[tuple[str, Parts]]]] = []
        for name in ("features", "segment"):
            where = getattr(fields, name)
            if isinstance(where, str):
                self._objects.append((name, parse_path(where)))
            else:
                self._maps.append((name, [(key, parse_path(path)) for key, path in where.items()]))

    def native(self, event: dict[str, Any]) -> dict[str, Any]:
        """A new event in the native model; values are shared with `event`."""
        if self.is_native:
            return event
        made: dict[str, Any] = {}
        for name, parts in self._single:
            value = dig(event, parts)
            if value is not ABSENT:
                made[name] = value
        for name, parts in self._objects:
            value = dig(event, parts)
            if value is not ABSENT:
                made[name] = value
        for name, paths in self._maps:
            found = {}
            for key, parts in paths:
                value = dig(event, parts)
                if value is not ABSENT:
                    found[key] = value
            if found:
                made[name] = found
        tracestate = event.get("tracestate")
        if tracestate is not None:
            made["tracestate"] = tracestate
        return made

    @property
    def features_path(self) -> Parts | None:
        """Where the object of features lies; None when features are a map of paths."""
        return dict(self._objects).get("features")

    def roots(self) -> list[tuple[str, Parts]]:
        """Native name and path of all fields: which columns of a table are not features."""
        found = [*self._single, *self._objects, ("tracestate", ("tracestate",))]
        for name, paths in self._maps:
            found.extend((name, parts) for _, parts in paths)
        return found

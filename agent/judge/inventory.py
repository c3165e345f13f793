"""Inventory: every model seen on the stream, declared or not: versions, rates, features, first and last seen."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Final

import msgspec

from agent.config import Config
from agent.fold.profile import Profile
from agent.judge.reference import ModelKey
from agent.types import OVERFLOW, Json, Role
from agent.verdict import shown_name

#: Further models and features are counted, not listed: 600 bytes a model and 150 a feature, 13 MB at most.
MOST_MODELS: Final = 10_000
MOST_FEATURES: Final = 1000  # of one
MOST_NAMES: Final = 50_000  # features of all


class Item(msgspec.Struct, kw_only=True):
    """One model and version."""

    first_ms: int
    last_ms: int
    windows: int = 0
    rows: int = 0
    errors: int = 0
    last_rows: int = 0
    segments: int = 0
    features: dict[str, str | None] = {}
    outputs: dict[str, str | None] = {}


class InventoryKept(msgspec.Struct, array_like=True):
    now_ms: int
    unlisted: int
    items: list[tuple[ModelKey, Item]]
    gone: list[ModelKey] = []


class Inventory:
    """See the module."""

    def __init__(self, config: Config) -> None:
        self._declared = [model.name for model in config.models]
        self._width_s = config.windows.width_s
        self._items: dict[ModelKey, Item] = {}
        self._unlisted = 0
        self._now_ms = 0
        self._n_names = 0
        self._gone: dict[ModelKey, None] = {}  # forgotten by judging, in that order

    def sealed(self, profiles: Sequence[Profile], now_ns: int) -> None:
        """Add the windows of all models."""
        self._now_ms = max(self._now_ms, now_ns // 1_000_000)
        windows: dict[tuple[ModelKey, int], list[Profile]] = {}
        for profile in profiles:
            key = ModelKey(profile.stream.model, profile.stream.version)
            if OVERFLOW not in key:
                windows.setdefault((key, profile.window), []).append(profile)
        for (key, _), parts in windows.items():
            item = self._items.get(key)
            if item is None:
                self._make_room()
                if len(self._items) >= MOST_MODELS:
                    self._unlisted += 1
                    continue
                item = self._items[key] = Item(first_ms=parts[0].start_ms, last_ms=parts[0].end_ms)
            self._gone.pop(key, None)
            self._add(item, parts)

    def _make_room(self) -> None:
        """The model that was forgotten first makes room for one that has rows."""
        if len(self._items) >= MOST_MODELS and self._gone:
            first = next(iter(self._gone))
            del self._gone[first], self._items[first]

    def forget(self, key: ModelKey) -> None:
        """A model is gone for good: when it was seen stays, its features go."""
        item = self._items.get(key)
        if item is not None:
            self._n_names -= len(item.features) + len(item.outputs)
            item.features, item.outputs = {}, {}
            self._gone[key] = None

    def _add(self, item: Item, parts: Sequence[Profile]) -> None:
        item.windows += 1
        item.last_rows = sum(p.rows for p in parts)
        item.rows += item.last_rows
        item.errors += sum(p.errors for p in parts)
        item.segments = max(item.segments, sum(bool(p.stream.segment) for p in parts))
        item.first_ms = min(item.first_ms, parts[0].start_ms)
        item.last_ms = max(item.last_ms, parts[0].end_ms)
        for profile in parts:
            for column, held in profile.columns.items():
                into = item.features if column.role is Role.FEATURE else item.outputs
                name = shown_name(column)
                if name not in into:
                    if len(into) >= MOST_FEATURES or self._n_names >= MOST_NAMES:
                        continue
                    self._n_names += 1
                into[name] = str(held.kind) if held.kind is not None else into.get(name)

    def kept(self) -> InventoryKept:
        """All there is, to go on from."""
        items = list(self._items.items())
        return InventoryKept(self._now_ms, self._unlisted, items, list(self._gone))

    def restore(self, kept: InventoryKept) -> None:
        """Go on from `kept`, in place."""
        self._now_ms, self._unlisted, self._items = kept.now_ms, kept.unlisted, dict(kept.items)
        self._gone = dict.fromkeys(kept.gone)
        self._n_names = sum(len(i.features) + len(i.outputs) for i in self._items.values())

    def document(self, judged: Container[ModelKey] | None = None) -> Json:
        """Models by name, each with its versions; declared ones that were never seen with none.

        rows_per_s  in windows that had rows, on average
        judged      of each version whether it is among these; not said where they are not given
        """
        versions: dict[str, list[Json]] = {}
        for key in sorted(self._items):
            found = self._version(key, self._items[key])
            if judged is not None:
                found["judged"] = key in judged
            versions.setdefault(key.model, []).append(found)
        names = sorted(versions.keys() | set(self._declared))
        return {
            "window_s": self._width_s,
            "unlisted": self._unlisted,
            "models": [
                {
                    "model": name,
                    "declared": name in self._declared,
                    "seen": name in versions,
                    "versions": versions.get(name, []),
                }
                for name in names
            ],
        }

    def _version(self, key: ModelKey, item: Item) -> Json:
        return {
            "version": key.version,
            "first_seen_ms": item.first_ms,
            "last_seen_ms": item.last_ms,
            "windows": item.windows,
            "rows": item.rows,
            "errors": item.errors,
            "rows_per_s": item.rows / (item.windows * self._width_s),
            "last_window_rows": item.last_rows,
            "segments": item.segments,
            "features": dict(sorted(item.features.items())),
            "outputs": dict(sorted(item.outputs.items())),
        }

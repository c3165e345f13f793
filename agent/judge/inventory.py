"""Inventory: every model seen on the stream, declared or not: versions, rates, features, first and last seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from agent.config import Config
from agent.fold.profile import Profile
from agent.judge.reference import ModelKey
from agent.types import OVERFLOW, Json, Role
from agent.verdict import shown_name

#: Further models and features are counted, not listed.
MOST_MODELS: Final = 10_000
MOST_FEATURES: Final = 1000


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


class Inventory:
    """See the module."""

    def __init__(self, config: Config) -> None:
        self._declared = [model.name for model in config.models]
        self._width_s = config.windows.width_s
        self._items: dict[ModelKey, Item] = {}
        self._unlisted = 0
        self._now_ms = 0

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
                if len(self._items) >= MOST_MODELS:
                    self._unlisted += 1
                    continue
                item = self._items[key] = Item(first_ms=parts[0].start_ms, last_ms=parts[0].end_ms)
            self._add(item, parts)

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
                if name in into or len(into) < MOST_FEATURES:
                    into[name] = str(held.kind) if held.kind is not None else into.get(name)

    def kept(self) -> InventoryKept:
        """All there is, to go on from."""
        return InventoryKept(self._now_ms, self._unlisted, list(self._items.items()))

    def restore(self, kept: InventoryKept) -> None:
        """Go on from `kept`, in place."""
        self._now_ms, self._unlisted, self._items = kept.now_ms, kept.unlisted, dict(kept.items)

    def document(self) -> Json:
        """Models by name, each with its versions; declared ones that were never seen with none.

        rows_per_s  in windows that had rows, on average
        """
        names = sorted({key.model for key in self._items} | set(self._declared))
        return {
            "window_s": self._width_s,
            "unlisted": self._unlisted,
            "models": [
                {
                    "model": name,
                    "declared": name in self._declared,
                    "seen": any(key.model == name for key in self._items),
                    "versions": [
                        self._version(key, self._items[key])
                        for key in sorted(self._items)
                        if key.model == name
                    ],
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

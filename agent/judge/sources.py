"""Sources: which upstream feed a feature comes from, and whether a feed explains what moved.

A source is named when it holds half of the features that moved, or 60 % of its own features are among them;
two or more, where it has several. So one broken feed is one alarm that names it, not one for each feature.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fnmatch import translate
from functools import lru_cache

from agent.config.sources import Source
from agent.types import Column, Role


@lru_cache(maxsize=1024)
def _pattern(glob: str) -> re.Pattern[str]:
    return re.compile(translate(glob))


def matches(glob: str, text: str) -> bool:
    """Whether the text is what the pattern says; `*` and `?` stand for any text and any letter."""
    return _pattern(glob).match(text) is not None


class Sources:
    """The declared sources, asked by model and column. The first that claims a feature has it."""

    def __init__(self, declared: Sequence[Source]) -> None:
        self._declared = declared
        self._known: dict[tuple[str, str], str | None] = {}
        self._shares = {source.name: source.share for source in declared}

    def __bool__(self) -> bool:
        return bool(self._declared)

    def of(self, model: str, column: Column | None) -> str | None:
        """The source of a feature; None for what is none, or comes from none."""
        if column is None or column.role is not Role.FEATURE or not self._declared:
            return None
        key = (model, column.name)
        if key not in self._known:
            if len(self._known) > 100_000:  # names come from outside
                self._known.clear()
            self._known[key] = self._find(model, column.name)
        return self._known[key]

    def _find(self, model: str, name: str) -> str | None:
        for source in self._declared:
            if any(matches(g, model) for g in source.models) and any(
                matches(g, name) for g in source.features
            ):
                return source.name
        return None

    def by_column(self, model: str, columns: Iterable[Column]) -> dict[Column, str]:
        """The source of every column that has one."""
        found = {column: self.of(model, column) for column in columns}
        return {column: source for column, source in found.items() if source is not None}

    def named(
        self, model: str, moved: Iterable[Column], columns: Iterable[Column]
    ) -> tuple[str, float] | None:
        """The source that explains `moved`, and the share of its features (of `columns`) that moved."""
        features = {column for column in moved if column.role is Role.FEATURE}
        total: dict[str, int] = {}
        hit: dict[str, int] = {}
        for column in columns:
            source = self.of(model, column)
            if source is not None:
                total[source] = total.get(source, 0) + 1
                hit[source] = hit.get(source, 0) + (column in features)
        best: tuple[float, float, str] | None = None
        for source in sorted(total):
            share = hit[source] / total[source]
            of_all = hit[source] / len(features) if features else 0.0
            if hit[source] < min(2, total[source]):
                continue  # one feature of several is that feature
            is_named = of_all >= 0.5 or share >= self._shares[source]
            if is_named and (best is None or (of_all, share) > best[:2]):
                best = (of_all, share, source)
        return None if best is None else (best[2], best[1])

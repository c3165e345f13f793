"""When models were last heard of, which version speaks for a model's silence, and who is gone for good."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from agent.judge.reference import ModelKey


class Last(NamedTuple):
    """Of one model and version: end of its last window with rows, and whether it knows how long it may be silent."""

    end_ms: int
    knows: bool


class Heard(NamedTuple):
    """Of a model, all versions together: end of the last window with rows, and the version that speaks of silence
    (`rank`: why that one)."""

    end_ms: int
    version: str
    rank: tuple[bool, int]


def heard(models: Iterable[tuple[ModelKey, Last]]) -> dict[str, Heard]:
    """By model, of its versions in order. A version that is replaced is not missed; if all fall silent, one speaks for
    them: the last that knows how long a silence may last."""
    found: dict[str, Heard] = {}
    for key, last in models:
        rank = last.knows, last.end_ms
        known = found.get(key.model)
        if known is None:
            found[key.model] = Heard(last.end_ms, key.version, rank)
            continue
        version, best = (key.version, rank) if rank > known.rank else (known.version, known.rank)
        found[key.model] = Heard(max(known.end_ms, last.end_ms), version, best)
    return found


def gone(
    models: Mapping[ModelKey, Last],
    known: Mapping[str, Heard],
    before_ms: int,
    is_declared: Callable[[ModelKey], bool],
) -> list[ModelKey]:
    """Models without a row since, in order. Of a declared model one version stays: the one that speaks."""
    return [
        key
        for key, last in models.items()
        if last.end_ms < before_ms
        and not (is_declared(key) and known[key.model].version == key.version)
    ]

"""Sealed profiles from rows, through the real sketches, without decoding: for tests of judging."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agent.config import Config, Windows
from agent.fold.profile import Profile
from agent.replay import sketch_files

START_MS = 1_767_225_600_000
WIDTH_MS = 60_000
Row = dict[str, Any]


def event(window: int, place: int, rows: int, row: Row) -> Row:
    """One row as an event: place `place` of `rows` in a window; `model`, `version` ... may be in the row."""
    at = START_MS + window * WIDTH_MS + place * WIDTH_MS // rows
    known = {"ts": at, "model": "m", "version": "1"}
    own = {k: row[k] for k in ("model", "version", "segment", "status", "prediction") if k in row}
    features = {k: v for k, v in row.items() if k not in own}
    return known | own | {"features": features}


def write_events(path: Path, windows: Sequence[Sequence[Row]], first: int = 0) -> Path:
    """A JSONL file of windows of rows."""
    with path.open("w") as file:
        for window, rows in enumerate(windows, first):
            for place, row in enumerate(rows):
                file.write(json.dumps(event(window, place, len(rows), row)) + "\n")
    return path


def profiles(
    path: Path, windows: Sequence[Sequence[Row]], config: Config | None = None, first: int = 0
) -> list[Profile]:
    """Every sealed profile, oldest window first; `path` is a folder for the file."""
    sealed: list[Profile] = []
    sketch_files(
        [write_events(path / "events.jsonl", windows, first)],
        config or Config(windows=Windows(width_s=WIDTH_MS / 1000)),
        on_effects=lambda effects: sealed.extend(effects.sealed),
    )
    return sealed


def normal_rows(rng: np.random.Generator, n: int, shift: float = 0.0) -> list[Row]:
    """Rows of two numbers and a category."""
    xs, ys = rng.normal(shift, 1.0, n).round(4), rng.uniform(0.0, 1.0, n).round(4)
    return [
        {"x": float(x), "y": float(y), "c": "abc"[k]}
        for x, y, k in zip(xs, ys, rng.integers(0, 3, n), strict=True)
    ]


def normal_windows(seed: int, windows: int, rows: int, shift: float = 0.0) -> list[list[Row]]:
    rng = np.random.default_rng(seed)
    return [normal_rows(rng, rows, shift) for _ in range(windows)]


def by_window(sealed: Iterable[Profile]) -> list[list[Profile]]:
    """Profiles of one window together."""
    found: dict[int, list[Profile]] = {}
    for profile in sealed:
        found.setdefault(profile.window, []).append(profile)
    return [found[window] for window in sorted(found)]

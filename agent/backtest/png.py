"""The timeline of a backtest as a picture."""

from __future__ import annotations

from pathlib import Path

from agent.backtest.run import Timeline


def require() -> None:
    return None


def write(timeline: Timeline, path: Path) -> None:
    del timeline, path

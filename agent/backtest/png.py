"""The timeline of a backtest as a picture; needs matplotlib, which is imported here only."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from agent.backtest.html import psi_map, strips
from agent.backtest.run import Timeline
from agent.errors import ConfigError
from agent.judge.profile_text import name_of
from agent.verdict import State, shown_name

_COLORS: Final = {
    State.OK: "#d9ead3",
    State.LEARNING: "#dfe3ea",
    State.BLIND: "#c6c6c6",
    State.PENDING: "#f6c344",
    State.FIRING: "#c0392b",
    State.RESOLVED: "#7fb3d5",
}
_MOST_LINES: Final = 40


def require() -> None:
    """Raises ConfigError when matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ConfigError(
            "--png needs matplotlib; install `inferometer[bench]`, or take --html, which needs nothing"
        ) from None


def write(timeline: Timeline, path: Path) -> None:
    """States above, PSI of the stream that moved most below."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = dict(list(strips(timeline).items())[:_MOST_LINES])
    maps = psi_map(timeline)
    stream = max(
        sorted(maps), key=lambda s: max(max(v.values()) for v in maps[s].values()), default=None
    )
    features: list[Any] = []
    if stream is not None:
        columns = maps[stream]
        features = sorted(columns, key=lambda c: -max(columns[c].values()))[:_MOST_LINES]
    heights = [max(1, len(rows)), max(1, len(features))]
    figure = Figure(figsize=(11, 1.6 + 0.26 * sum(heights)), layout="constrained")
    FigureCanvasAgg(figure)
    top, low = figure.subplots(2, 1, height_ratios=heights)
    first = min(timeline.windows, default=0)
    width = timeline.width_ms
    for line, (_, states) in enumerate(rows.items()):
        for state in State:
            spans = [((s - first) / width, 1.0) for s, seen in states.items() if seen is state]
            top.broken_barh(spans, (line + 0.1, 0.8), facecolors=_COLORS[state])
    top.set_yticks([i + 0.5 for i in range(len(rows))], list(rows))
    top.invert_yaxis()
    n = len(timeline.pages)
    top.set_title(f"would have paged {n:,} times in {len(timeline.windows):,} windows")
    if stream is not None and features:
        last = max(max(maps[stream][c]) for c in features)
        n_windows = (last - first) // width + 1
        grid = [[0.0] * n_windows for _ in features]
        for line, column in enumerate(features):
            for start, value in maps[stream][column].items():
                grid[line][(start - first) // width] = value
        image = low.imshow(
            grid,
            aspect="auto",
            cmap="Reds",
            vmin=0.0,
            vmax=0.25,
            interpolation="nearest",
            extent=(0, n_windows, len(features), 0),
        )
        low.set_yticks([i + 0.5 for i in range(len(features))], [shown_name(c) for c in features])
        figure.colorbar(image, ax=low, label=f"PSI, {name_of(stream)}")
    low.set_xlabel(f"windows of {width / 1000:g} s")
    figure.savefig(path, dpi=120)

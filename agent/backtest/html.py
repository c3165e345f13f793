"""The timeline of a backtest as one page: inline SVG, nothing from elsewhere, readable without scripts.

Three parts: the alarms; a strip of states for each stream; a map of PSI, a row a feature and a column a window.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape
from typing import Final

from agent.backtest.run import Timeline
from agent.backtest.text import cause_text, when, worst
from agent.judge.profile_text import name_of
from agent.types import Column, StreamKey
from agent.verdict import State, Verdict, shown_name

_COLORS: Final = {
    State.OK: "#d9ead3",
    State.LEARNING: "#dfe3ea",
    State.BLIND: "#c6c6c6",
    State.PENDING: "#f6c344",
    State.FIRING: "#c0392b",
    State.RESOLVED: "#7fb3d5",
}
_WIDTH: Final = 960
_LEFT: Final = 220
_ROW: Final = 18
_MOST_STREAMS: Final = 50
_MOST_FEATURES: Final = 60
_MOST_CAUSES: Final = 8
_STYLE: Final = """\
body{font:14px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:1000px;color:#222;padding:0 1rem}
h1{font-size:1.4rem;margin:0 0 .2rem}h2{font-size:1.05rem;margin:1.8rem 0 .4rem}
table{border-collapse:collapse;width:100%}td,th{text-align:left;vertical-align:top;padding:.3rem .5rem;
border-bottom:1px solid #ddd}ul{margin:.2rem 0;padding-left:1.1rem;color:#555}
svg{width:100%;height:auto;display:block}svg text{font:11px system-ui,sans-serif;fill:#444}
.key span{display:inline-block;width:.8rem;height:.8rem;margin:0 .3rem 0 .9rem;vertical-align:-1px}
.page{color:#c0392b;font-weight:600}
"""


def page(timeline: Timeline) -> str:
    """The whole page."""
    n = len(timeline.pages)
    times = "once" if n == 1 else f"{n:,} times" if n else "never"
    title = f"Would have paged {times}"
    body = [
        f"<h1>{title}</h1>",
        f"<p>{_span(timeline)}</p>",
        *(f"<p>{escape(note)}</p>" for note in timeline.notes),
        *_alarms(timeline),
        "<h2>Verdicts</h2>",
        _key(),
        *_strips(timeline),
        *_maps(timeline),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _span(timeline: Timeline) -> str:
    n = len(timeline.windows)
    if timeline.by_rows is not None:
        return f"{n:,} windows of {timeline.by_rows:,} rows, {timeline.rows:,} rows in all"
    ends = ""
    if timeline.windows:
        ends = (
            f", {when(timeline.windows[0])} to {when(timeline.windows[-1] + timeline.width_ms)} UTC"
        )
    return f"{n:,} windows of {timeline.width_ms / 1000:g} s, {timeline.rows:,} rows{ends}"


def at(timeline: Timeline, start_ms: int) -> str:
    """A window in words: its time, or its number where rows make windows."""
    if timeline.by_rows is not None:
        return f"window {start_ms // timeline.width_ms:,}"
    return when(start_ms)


def _alarms(timeline: Timeline) -> Iterator[str]:
    yield "<h2>Alarms</h2>"
    if not timeline.alarms:
        yield "<p>None.</p>"
        return
    yield "<table><tr><th>when</th><th>windows</th><th>severity</th><th>monitor</th><th>why</th></tr>"
    for alarm in timeline.alarms:
        first = worst(alarm)
        kind = str(first.severity) if first.state is State.FIRING else "pending only"
        causes = "".join(
            f"<li>{escape(cause_text(cause))}</li>" for cause in first.attribution[:_MOST_CAUSES]
        )
        style = ' class="page"' if kind == "page" else ""
        yield (
            f"<tr><td>{at(timeline, first.window_start_ms)}</td><td>{len(alarm)}</td>"
            f"<td{style}>{kind}</td><td>{escape(first.monitor)}</td>"
            f"<td>{escape(first.why)}<ul>{causes}</ul></td></tr>"
        )
    yield "</table>"


def _key() -> str:
    spans = "".join(
        f'<span style="background:{color}"></span>{state}' for state, color in _COLORS.items()
    )
    return f'<p class="key">{spans}</p>'


# ---------------------------------------------------------------- pictures


def strips(timeline: Timeline) -> dict[str, dict[int, State]]:
    """For each stream, and each monitor of its own where several speak: the worst state by window."""
    order = list(State)
    rows: dict[str, dict[int, State]] = {}
    names: dict[tuple[StreamKey, str], str] = {}
    monitors: dict[StreamKey, set[str]] = {}
    for v in timeline.verdicts:
        monitors.setdefault(v.stream, set()).add(_shown_monitor(v))
    for v in timeline.verdicts:
        key = (v.stream, _shown_monitor(v))
        if key not in names:
            several = len(monitors[v.stream]) > 1
            names[key] = name_of(v.stream) + (f" · {key[1]}" if several else "")
        states = rows.setdefault(names[key], {})
        before = states.get(v.window_start_ms, State.OK)
        states[v.window_start_ms] = max(before, v.state, key=order.index)
    return dict(sorted(rows.items())[:_MOST_STREAMS])


def _shown_monitor(verdict: Verdict) -> str:
    """The defaults are one."""
    is_default = verdict.monitor in ("quality", "drift", "state", "freshness")
    return "defaults" if is_default else verdict.monitor


def _x(timeline: Timeline, starts: Sequence[int]) -> tuple[int, float]:
    """Start of the axis, and pixels for each window."""
    first = min([*timeline.windows, *starts])
    last = max([*timeline.windows, *starts])
    n = (last - first) // timeline.width_ms + 1
    return first, (_WIDTH - _LEFT) / n


def _strips(timeline: Timeline) -> Iterator[str]:
    rows = strips(timeline)
    if not rows:
        return
    first, step = _x(timeline, [s for states in rows.values() for s in states])
    height = _ROW * len(rows) + 24
    yield f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="states by window">'
    for line, (name, states) in enumerate(rows.items()):
        y = line * _ROW
        yield f'<text x="0" y="{y + 13}">{escape(name[:36])}</text>'
        for start, state in sorted(states.items()):
            x = _LEFT + (start - first) // timeline.width_ms * step
            yield (
                f'<rect x="{x:.2f}" y="{y + 2}" width="{max(step, 0.6):.2f}" height="{_ROW - 4}" '
                f'fill="{_COLORS[state]}"><title>{at(timeline, start)}: {state}</title></rect>'
            )
    yield from _axis(timeline, first, step, height)
    yield "</svg>"


def _axis(timeline: Timeline, first: int, step: float, height: int) -> Iterator[str]:
    n = round((_WIDTH - _LEFT) / step)
    yield f'<text x="{_LEFT}" y="{height - 6}">{at(timeline, first)}</text>'
    last = at(timeline, first + (n - 1) * timeline.width_ms)
    yield f'<text x="{_WIDTH}" y="{height - 6}" text-anchor="end">{last}</text>'


def psi_map(timeline: Timeline) -> dict[StreamKey, dict[Column, dict[int, float]]]:
    """PSI by stream, column and window."""
    found: dict[StreamKey, dict[Column, dict[int, float]]] = {}
    for d in timeline.drift:
        if d.metric == "psi" and math.isfinite(d.value):
            columns = found.setdefault(d.stream, {})
            columns.setdefault(d.column, {})[d.window_start_ms] = d.value
    return found


def _maps(timeline: Timeline) -> Iterator[str]:
    maps = psi_map(timeline)
    if not maps:
        return
    yield "<h2>Distance from the baseline (PSI)</h2><p>White is none, red is .25 and more.</p>"
    for stream, columns in sorted(maps.items())[:_MOST_STREAMS]:
        shown = sorted(columns, key=lambda c: -max(columns[c].values()))[:_MOST_FEATURES]
        first, step = _x(timeline, [s for c in shown for s in columns[c]])
        height = _ROW * len(shown) + 24
        yield f"<p>{escape(name_of(stream))}</p>"
        yield f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="PSI by window">'
        for line, column in enumerate(shown):
            y = line * _ROW
            yield f'<text x="0" y="{y + 13}">{escape(shown_name(column)[:36])}</text>'
            for start, value in sorted(columns[column].items()):
                x = _LEFT + (start - first) // timeline.width_ms * step
                yield (
                    f'<rect x="{x:.2f}" y="{y + 1}" width="{max(step, 0.6):.2f}" '
                    f'height="{_ROW - 2}" fill="{_heat(value)}">'
                    f"<title>{at(timeline, start)}: {value:.4f}</title></rect>"
                )
        yield from _axis(timeline, first, step, height)
        yield "</svg>"


def _heat(psi: float) -> str:
    """White to red, by the square root, so that small distances show."""
    share = math.sqrt(min(1.0, max(0.0, psi) / 0.25))
    return f"rgb({round(246 - 54 * share)},{round(246 - 189 * share)},{round(244 - 201 * share)})"

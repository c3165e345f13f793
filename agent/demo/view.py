"""The live picture: one screen of text made from a `Story` and a `Watch`; nothing is kept here.

Made of lines that are cut to the width, so that it holds its shape from 80x24 upwards; taller
terminals get more features and a longer log, wider ones longer histograms.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from rich.console import Group
from rich.text import Text

from agent.demo.flights import FEATURES
from agent.demo.model import CANARY_VERSION
from agent.demo.report import alarms
from agent.demo.story import Alarm, Injected, Story
from agent.demo.watch import SCORE, Values, Watch, compare, latency_quantile
from agent.demo.watch import late_share as late_share_of
from agent.judge.drift import quantile, rebin

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Features from the one that must be seen to the one that may be cut off.
_BY_IMPORTANCE: Final = (
    *("distance", "temp", "dewp", "humid", "wind_speed", "precip", "visib", "carrier"),
    *("dest", "sched_minutes", "hour", SCORE, "weekday", "pressure"),
)
_SHOWN_ORDER: Final = (*(name for name in FEATURES if name != "origin"), SCORE)
_NAMES: Final = {SCORE: "late score", "sched_minutes": "sched_min"}
_BLOCKS: Final = " ▁▂▃▄▅▆▇█"
_ASCII_BLOCKS: Final = " .:-=+*#%"
_MIN_LOG_LINES: Final = 4
_FIXED_LINES: Final = 7  # everything but feature rows, stream rows and the log
#: Customary bounds of the population stability index, for colours alone.
_QUIET_PSI: Final = 0.1
_SHIFT_PSI: Final = 0.25

_DIM, _REFERENCE, _NOW, _BAD, _WARN, _TITLE = (
    *("bright_black", "cyan", "green", "bold red", "yellow", "bold"),
)


class View:
    """How to draw; `ascii_only` for terminals without block characters."""

    def __init__(self, *, ascii_only: bool = False) -> None:
        self._blocks = _ASCII_BLOCKS if ascii_only else _BLOCKS
        self._rule = "-" if ascii_only else "─"

    def draw(self, story: Story, watch: Watch, width: int, height: int) -> Group:
        """The whole screen, exactly `height` lines of at most `width` characters."""
        n_streams = max(1, len(watch.groups()))
        room = max(0, height - _FIXED_LINES - n_streams - _MIN_LOG_LINES)
        chosen = set(_BY_IMPORTANCE[: min(room, len(_BY_IMPORTANCE))])
        lines = [
            *self._header(story, width),
            *self._streams(story, watch, width),
            self._weeks(story, watch, width),
            *self._features(story, watch, chosen, width),
            _heading("events", width),
        ]
        lines += self._log(story, height - len(lines))
        lines = lines[:height] + [Text()] * (height - len(lines))
        for line in lines:
            line.no_wrap, line.overflow = True, "crop"
            line.truncate(width)
        return Group(*lines)

    # Header

    def _header(self, story: Story, width: int) -> list[Text]:
        rows_per_s, _ = story.rates()
        lag = (story.state.get("lag") or {}).get("records")
        behind = story.produced - story.rows
        done = min(1.0, (story.sim_ms - story.start_ms) / (story.days * 86_400_000))
        title = Text("inferometer demo", _TITLE)
        title.append("   New York flights of 2013, 1 simulated day = ", _DIM)
        title.append(f"{story.duration_s / story.days:.2f} s", _DIM)
        clock = _date(max(story.sim_ms, story.start_ms), "%a %d %b %Y")
        bar_width = max(10, width - 36)
        filled = round(done * bar_width)
        progress = Text()
        progress.append(f"{clock}  ", _TITLE)
        progress.append(("#" if self._rule == "-" else "━") * filled, _NOW)
        progress.append(self._rule * (bar_width - filled), _DIM)
        progress.append(f" {done:4.0%}  Ctrl-C ends", _DIM)
        waiting = max(0, behind if lag is None else lag)
        counts = Text()
        for name, value, style in (
            ("rows", f"{story.rows:,}", _TITLE),
            ("labels", f"{story.labels:,}", _TITLE),
            ("rows/s", f"{rows_per_s:,.0f}", _TITLE),
            ("records waiting", f"{waiting:,}", _TITLE),
            ("dropped", f"{story.dropped:,}", _BAD if story.dropped else _TITLE),
        ):
            counts.append(value, style)
            counts.append(f" {name}   ", _DIM)
        return [title, progress, counts]

    # Models

    def _streams(self, story: Story, watch: Watch, width: int) -> list[Text]:
        names = f"{'flight-delay v1':<16}{'flights':>10}{'late':>7}{'p50':>9}{'p99':>9}"
        lines = [_heading(names, width)]
        for name, streams in watch.groups().items():
            line = Text(f"  {name:<14}", _TITLE)
            line.append(f"{sum(stream.rows for stream in streams):>10,}", "")
            line.append(f"{_percent(late_share_of(streams)):>7}", "")
            for q in (0.5, 0.99):
                line.append(f"{_milliseconds(latency_quantile(streams, q)):>9}", "")
            line.append_text(self._health(story, name))
            lines.append(line)
        if len(lines) == 1:
            lines.append(Text("  waiting for the first rows", _DIM))
        return lines

    def _health(self, story: Story, name: str) -> Text:
        """What alarms say of an airport, or of the canary."""
        kind, _, label = name.partition(" ")
        if kind == "canary":
            canary = story.canary
            if canary is None or canary.after_s is None:
                return Text("  a tenth of the traffic", _DIM)
            is_gone = canary.rolled_back_s is not None
            return Text("  worse than its twin" + (", rolled back" if is_gone else ""), _BAD)
        broken = story.broken(label)
        listed = ", ".join(feature for feature in FEATURES if feature in broken)
        return Text(f"  broken: {listed}" if listed else "", _BAD)

    def _weeks(self, story: Story, watch: Watch, width: int) -> Text:
        """One cell a week; a week is red in which an alarm began."""
        n_weeks = math.ceil(story.days / 7)
        stretch = max(1, (width - 22) // n_weeks)
        shares = {week: late / rows for week, (late, rows) in watch.late_by_week.items() if rows}
        top = max([0.4, *shares.values()])
        pages = [alarm for alarm in story.alarms.values() if alarm.is_page]
        broken = {(alarm.sim_ms - story.start_ms) // (7 * 86_400_000) for alarm in pages}
        line = Text("late by week ", _DIM)
        for week in range(n_weeks):
            share = shares.get(week)
            cell = self._rule if share is None else self._bar(share / top)
            style = _DIM if share is None else _BAD if week in broken else _NOW
            line.append(cell * stretch, style)
        if shares:
            line.append(f" {shares[max(shares)]:.0%} now", "")
        return line

    # Features

    def _features(self, story: Story, watch: Watch, chosen: set[str], width: int) -> list[Text]:
        cells = max(8, (width - 44) // 2)
        names = f"{'features':<11}{'January':<{cells + 1}}{'last 7 days':<{cells + 1}}"
        lines = [_heading(f"{names}{'median':^15}{'missing':>9}{'drift':>6}", width)]
        broken = story.broken()
        return lines + [
            self._feature(watch, name, cells, bad=name in broken)
            for name in _SHOWN_ORDER
            if name in chosen
        ]

    def _feature(self, watch: Watch, name: str, cells: int, *, bad: bool) -> Text:
        reference, recent = watch.overall(name)
        line = Text(f"{_NAMES.get(name, name)[:10]:<11}", _BAD if bad else _TITLE)
        left, right = self._pictures(reference, recent, cells)
        line.append(f"{left:<{cells}} ", _REFERENCE)
        line.append(f"{right:<{cells}} ", _BAD if bad else _NOW)
        line.append(f"{_change(reference, recent):^15}", "")
        line.append_text(_missing(watch, name))
        if reference.is_coarse:
            line.append("coarse", _DIM)
            return line
        psi = compare(reference, recent).corrected if recent.rows else math.nan
        style = _DIM if not psi >= _QUIET_PSI else _WARN if psi < _SHIFT_PSI else _BAD
        line.append(f"{'' if math.isnan(psi) else f'{psi:.2f}':>6}", style)
        return line

    def _pictures(self, reference: Values, recent: Values, cells: int) -> tuple[str, str]:
        """Both distributions over the same axis: numbers from tail to tail, or the commonest values."""
        if reference.top and not reference.histogram.total:
            names = sorted(reference.top, key=lambda v: -reference.top[v])[:cells]
            pair = [np.array([v.top.get(n, 0) for n in names]) for v in (reference, recent)]
            return self._bars(pair[0]), self._bars(pair[1])
        edges, repeat = _axis(reference, recent, cells)
        if not len(edges):
            return "", ""
        drawn = []
        for values in (reference, recent):
            bars = self._bars(rebin(values.histogram, edges))
            drawn.append("".join(bar * repeat for bar in bars))
        return drawn[0], drawn[1]

    def _bars(self, counts: NDArray[Any]) -> str:
        top = counts.max() if len(counts) else 0
        return "".join(self._bar(c / top) for c in counts) if top > 0 else ""

    def _bar(self, share: float) -> str:
        """A block of the height of `share`; the least that is not nothing still shows."""
        if share <= 0:
            return self._blocks[0]
        return self._blocks[max(1, min(8, round(share * 8)))]

    # Events

    def _log(self, story: Story, room: int) -> list[Text]:
        lines = [line for alarm in story.alarms.values() for line in self._alarm(story, alarm)]
        if not lines:
            waiting = story.injected and "a fault was injected upstream; sealed days will show it"
            calm = "no alarm so far; windows are judged against January"
            return [Text(waiting or calm, _WARN if waiting else _DIM)]
        return lines[-room:] if room > 0 else []

    def _alarm(self, story: Story, alarm: Alarm) -> list[Text]:
        line = Text(f"{_date(alarm.sim_ms, '%d %b')}  ", _DIM)
        line.append(alarm.sentence(), _BAD if alarm.is_page else _WARN)
        fault = alarm.fault
        if fault is None or fault.after_s is None:
            lasting = "" if alarm.is_open else "; over"
            return [
                line,
                Text(f"        {alarm.verdict['severity']}: the data itself{lasting}", _DIM),
            ]
        n = alarms(sum(each.fault is fault for each in story.alarms.values()))
        what = f"injected: {fault.what}" if isinstance(fault, Injected) else fault.what
        lines = [line, Text(f"        {what} ({n}, caught after {fault.after_s:.1f} s)", _WARN)]
        if not isinstance(fault, Injected) and fault.rolled_back_s is not None:
            done = f"        webhook: signed rollback event, rolled back after {fault.rolled_back_s:.1f} s"
            lines.append(Text(done, _NOW))
        return lines


def _axis(reference: Values, recent: Values, cells: int) -> tuple[Sequence[float], int]:
    """Edges of the display cells and the characters a cell takes; none without data."""
    shown = [v.histogram for v in (reference, recent) if v.histogram.total]
    if not shown:
        return (), 1
    low = min(quantile(h, 0.005) for h in shown)
    high = max(quantile(h, 0.995) for h in shown)
    n_values = max(reference.distinct, recent.distinct)
    if high <= low:
        return (low - 0.5, low + 0.5), 1
    if 2 <= n_values <= cells:  # few values: a cell for each, as whole numbers
        half = (high - low) / (n_values - 1) / 2
        return np.linspace(low - half, high + half, n_values + 1).tolist(), max(
            1, cells // n_values
        )
    margin = (high - low) * 1e-6
    return np.linspace(low, high + margin, cells + 1).tolist(), 1


def _change(reference: Values, recent: Values) -> str:
    """Median then and now; for categories how many values there are."""
    if reference.top and not reference.histogram.total:
        return (
            f"{len(reference.top)} values"
            if reference.distinct <= len(reference.top)
            else (f"~{max(reference.distinct, len(reference.top))} values")
        )
    before, after = (quantile(v.histogram, 0.5) for v in (reference, recent))
    if math.isnan(before) or math.isnan(after):
        return ""
    return f"{_short(before)} → {_short(after)}"


def _missing(watch: Watch, name: str) -> Text:
    """The worst airport's missing rate of the last seven days; named when it stands out."""
    rates = {
        s.origin: s.recent(name).missing_rate
        for s in watch.streams.values()
        if s.days and s.version != CANARY_VERSION
    }
    if not rates:
        return Text(f"{'':>9}")
    worst = max(rates, key=lambda stream: rates[stream])
    rate = rates[worst]
    if rate > 0.1 and rate > 2 * sorted(rates.values())[0]:
        return Text(f"{f'{worst} {rate:.0%}':>9}", _BAD if rate > 0.5 else _WARN)
    return Text(f"{rate:>9.0%}", _BAD if rate > 0.5 else _DIM)


def _heading(names: str, width: int) -> Text:
    return Text(f"{names:<{width}}", f"{_DIM} underline")


def _short(value: float) -> str:
    """Two or three digits: the sketch knows values to about a hundredth."""
    if abs(value) >= 10:
        return f"{value:,.0f}"
    if value == 0:
        return "0"
    return f"{value:.1f}" if abs(value) >= 1 else f"{value:.2f}"


def _percent(share: float) -> str:
    return "" if math.isnan(share) else f"{share:.0%}"


def _milliseconds(seconds: float) -> str:
    return "" if math.isnan(seconds) else f"{seconds * 1e3:.1f} ms"


def _date(time_ms: int, form: str) -> str:
    return dt.datetime.fromtimestamp(time_ms / 1000, dt.UTC).strftime(form)

"""Traces: which kept requests lie in the bins that moved, so that a verdict names some to look at.

    links of kept rows (`sketch.links`) -> a small sample for each window, model and column -> trace ids of causes

Invariants
1. A function of the links, in their order, and of the windows: a replay names the same requests.
2. At most MOST_LINKS are held, whatever arrives, and none behind its window.
3. What is named was kept: of a column that moved, requests whose value lies where the window has more rows than
   the baseline has, the bin that moved most first. Where no kept request does, none is named.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import msgspec
import numpy as np

from agent.fold.profile import Profile
from agent.judge.cells import MIN_VALUES, Prepared, PreparedColumn
from agent.judge.counted import CountedColumn, counted
from agent.judge.detector import Segment
from agent.judge.reference import ModelKey
from agent.judge.sketch_counts import Counts
from agent.sketch.links import text_bucket
from agent.types import Column, Exemplar
from agent.verdict import State, Verdict, shown_name

#: Trace ids that a cause lists.
MOST_IDS: Final = 5
#: Links held of one column in one window: so many drawn by their trace ids alone, so many from either end.
DRAWN: Final = 24
ENDS: Final = 4
#: Links held in all, some 200 bytes each.
MOST_LINKS: Final = 32_768
#: A bin has moved when it holds so many times its share of the baseline.
MOVED: Final = 1.25
#: A column that is missing in so many rows is missing in whichever is named.
_ALL_MISSING: Final = 0.99
_GONE: Final = frozenset(("missing", "missing_rate", "vanished"))
#: What is about no value of one row: named requests would explain nothing.
_OF_NO_VALUE: Final = frozenset(
    ("pairs", "type", "distinct", "violations", "violation_rate", "volume", "stall", "errors")
)


class Link(NamedTuple):
    """A kept request, and the bin of one column that it is in (`sketch.links`)."""

    value: float
    trace_id: bytes
    segment: Segment


class Place(NamedTuple):
    """Where links are kept together; `column` None: of all columns."""

    window: int
    key: ModelKey
    column: Column | None


class TracesKept(msgspec.Struct, array_like=True):
    links: list[tuple[Place, list[Link]]]


class Traces:
    """See the module."""

    def __init__(self, width_ms: int) -> None:
        self._width_ms = width_ms
        self._held: dict[Place, list[Link]] = {}
        self._n = 0

    def __len__(self) -> int:
        return self._n

    def add(self, links: Iterable[Exemplar], sealed_until: int | None) -> None:
        """Links that arrived; windows below `sealed_until` take none any more."""
        for link in links:
            window = link.time_ns // 1_000_000 // self._width_ms
            if sealed_until is not None and window < sealed_until:
                continue
            key = ModelKey(link.stream.model, link.stream.version)
            known = Link(link.value, link.trace_id, link.stream.segment)
            self._put(Place(window, key, link.column), known)
            everything = self._held.get(Place(window, key, None))
            if everything is None or everything[-1].trace_id != known.trace_id:
                self._put(Place(window, key, None), known)  # a row's links come together

    def _put(self, place: Place, link: Link) -> None:
        if self._n >= MOST_LINKS:
            return
        held = self._held.setdefault(place, [])
        held.append(link)
        self._n += 1
        if len(held) > 2 * (DRAWN + 2 * ENDS):
            sample = _sampled(held)
            self._n -= len(held) - len(sample)
            self._held[place] = sample

    def forget(self, sealed_until: int) -> None:
        """Windows below are judged."""
        for place in [p for p in self._held if p.window < sealed_until]:
            self._n -= len(self._held.pop(place))

    # ------------------------------------------------------------ naming

    def has(self, window: int, key: ModelKey) -> bool:
        """Whether any request of this window is known."""
        return Place(window, key, None) in self._held

    def name(
        self, verdict: Verdict, key: ModelKey, whole: Profile, baseline: Prepared | None
    ) -> Verdict:
        """The verdict with trace ids in its causes, where something is wrong with its window.

        whole  all traffic of the model in the verdict's window
        """
        everything = self._held.get(Place(whole.window, key, None))
        if everything is None or verdict.state not in (State.PENDING, State.FIRING):
            return verdict
        read = counted(whole)
        known = baseline.columns if baseline is not None else {}
        columns = {shown_name(column): column for column in (*known, *read.columns)}
        causes = []
        for cause in verdict.attribution:
            column = columns.get(cause.feature or "")
            links: Sequence[Link] = ()
            if column is not None and cause.statistic in _GONE:
                now = read.columns.get(column)
                if now is None or now.missing >= _ALL_MISSING * read.rows:
                    links = everything
            elif column is not None and cause.statistic not in _OF_NO_VALUE:
                held = self._held.get(Place(whole.window, key, column), [])
                links = _moved(held, known.get(column), read.columns.get(column))
            segment = cause.segment or verdict.stream.segment
            own = (link.trace_id.hex() for link in links if segment in ((), link.segment))
            ids = tuple(itertools.islice(dict.fromkeys(own), MOST_IDS))
            causes.append(msgspec.structs.replace(cause, trace_ids=ids) if ids else cause)
        return msgspec.structs.replace(verdict, attribution=tuple(causes))

    # ------------------------------------------------------------ kept

    def kept(self) -> TracesKept:
        """All there is, to go on from."""
        return TracesKept(list(self._held.items()))

    def restore(self, kept: TracesKept) -> None:
        """Go on from `kept`, in place."""
        self._held = dict(kept.links)
        self._n = sum(map(len, self._held.values()))


def _sampled(links: list[Link]) -> list[Link]:
    """DRAWN of them by their trace ids, and ENDS from either end of the values, in the order they came in."""
    places = range(len(links))
    by_value = sorted(places, key=lambda i: (links[i].value, links[i].trace_id))
    drawn = sorted(places, key=lambda i: (links[i].trace_id[::-1], i))[:DRAWN]
    return [links[i] for i in sorted({*by_value[:ENDS], *by_value[-ENDS:], *drawn})]


def _moved(
    links: Sequence[Link], before: PreparedColumn | None, now: CountedColumn | None
) -> list[Link]:
    """Those in bins that hold more of the window than of the baseline, the bin that moved most first."""
    if before is None or now is None or before.kind is not now.kind:
        return []
    if before.numbers is not None and now.numbers is not None:
        if now.numbers.count < MIN_VALUES:
            return []
        base = before.at(now.numbers.scale)
        starts, shares = base.grouping(now.numbers.count)
        counts = np.add.reduceat(base.placed(now.numbers), starts)
        gains = _gains(shares, counts)
        placed = [
            (gains[np.searchsorted(starts, base.place_of(link.value), "right") - 1], link)
            for link in links
            if text_bucket(link.value) is None
        ]
    elif before.texts is not None and now.texts is not None and now.texts.count:
        old = before.texts.texts
        gains = _gains(old.hashed / old.count, now.texts.hashed)
        placed = [
            (gains[bucket], link)
            for link in links
            if (bucket := text_bucket(link.value)) is not None
        ]
    else:
        return []
    placed.sort(key=lambda item: -item[0])  # stable: of one bin, the first to come
    return [link for gain, link in placed if gain > 0.0]


def _gains(shares: Counts, counts: Counts) -> Counts:
    """float64[k]: what each bin adds to the PSI where the window has clearly more than the baseline, else 0.

    shares  of the baseline's values in each bin; counts: of the window's
    """
    half = 0.5 / max(1.0, float(counts.sum()))
    now = counts / max(1.0, float(counts.sum()))
    gain: Counts = (now - shares) * np.log((now + half) / (shares + half))
    return np.where(now > MOVED * shares + half, gain, 0.0)

"""What explains an alarm: features, sources, segments, bins. Ranked, the best first.

The detector's list holds cells; a feature stands for its best one. A broken feed moves many features, so a
source is named, once, where it holds most of the list. A segment's share of a change is what goes
away when its rows are replaced by as many from its own baseline.

An output follows the input, so it never outranks a feature that moved; broken pairs stand where the column
stands that they blame. The list may hold a cell that chance put there, and such a feature would be named
before the output that broke. So a cell is left out that holds less than a hundredth of what the strongest
holds: of the strongest and not of all evidence, since each of the features of a broad break has little of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Final

from agent.judge.cells import CellKey, Prepared, Statistic, measure
from agent.judge.counted import Counted, merged, scaled
from agent.judge.detector import Evidence, Segment
from agent.judge.explanation import NORMAL_AGAIN, explain
from agent.judge.pairs_cells import PairsFound
from agent.types import Column, Role
from agent.verdict import Cause, shown_name

#: A source is named when it holds this share of the list, or this share of its features is listed.
_HALF_OF_LIST: Final = 0.5
_MOST_OF_SOURCE: Final = 0.6
#: What comes first at any score: a feature that is gone explains why its values differ.
_RANK: Final = {
    Statistic.VOLUME: 4,
    Statistic.MISSING: 1,
    Statistic.UNSEEN: 2,
    Statistic.LOC: 2,
    Statistic.SHAPE: 2,
    Statistic.CENTROID: 2,
    Statistic.RFF: 2,
    Statistic.PAIRS: 3,  # a pair breaks when one of its columns moves: behind what moved by itself
}
#: Missing rows explain a column when they are so many.
_MUCH_MISSING: Final = 0.5
#: Cells with a smaller part of what the strongest cell holds explain nothing.
_LEAST_PART: Final = 0.01
#: Pairs that are this near to their baseline are back: which of them is worst is chance.
_CALM: Final = 2.0
_MOST_CAUSES: Final = 20


def causes(
    evidence: Sequence[Evidence],
    *,
    sources: Mapping[Column, str] | None = None,
    baseline: Prepared | None = None,
    window: Counted | None = None,
    pairs: PairsFound | None = None,
) -> list[Cause]:
    """Explanations of an alarm, from the detector's list.

    sources           which source each feature comes from, where that is declared
    baseline, window  of all traffic: with them causes say in words what moved
    pairs             of all traffic: names the columns behind the cell of pairs

    Empty for an empty list. A source that is named comes first, its features behind it.
    """
    best = _by_column(_that_count(evidence), pairs)
    if not best:
        return []
    named = sources or {}
    features = [
        Cause(
            statistic=str(e.id.key.statistic),
            score=e.score,
            feature=None if column is None else shown_name(column),
            source=named.get(column) if column is not None else None,
            segment=e.id.segment,
            share=e.share,
            detail=_detail(e, baseline, window, pairs),
        )
        for e in best
        for column in (_column(e, pairs),)
    ]
    return [*_sources(best, named), *features][:_MOST_CAUSES]


def _that_count(evidence: Sequence[Evidence]) -> list[Evidence]:
    """Without cells that hold next to nothing of the evidence; the strongest always stays."""
    least = _LEAST_PART * max((e.share for e in evidence), default=0.0)
    return [e for e in evidence if e.share >= least]


def _by_column(evidence: Sequence[Evidence], pairs: PairsFound | None) -> list[Evidence]:
    """Each column's best cell: features before outputs, all traffic before segments, then by score."""
    best: dict[Column | None, Evidence] = {}
    for e in sorted(evidence, key=_order):
        best.setdefault(e.id.key.column, e)
    return sorted(best.values(), key=lambda e: (_is_late(e, pairs), *_order(e)))


def _order(e: Evidence) -> tuple[int, bool, float, str]:
    statistic = e.id.key.statistic
    rank = _RANK[statistic]
    if statistic is Statistic.MISSING and e.effect < _MUCH_MISSING:
        rank = 2
    name = "" if e.id.key.column is None else f"{e.id.key.column.role}.{e.id.key.column.name}"
    return rank, e.id.segment is not None, -e.score, name


def _is_late(e: Evidence, pairs: PairsFound | None) -> bool:
    """Whether features come first: before outputs, and before pairs that blame an output or nobody."""
    column = _column(e, pairs)
    is_unknown = column is None and e.id.key.statistic is Statistic.PAIRS
    return is_unknown or _is_score(column)


def _is_score(column: Column | None) -> bool:
    """A model's output follows its input: it never outranks a feature."""
    return column is not None and column.role is not Role.FEATURE


def _sources(best: Sequence[Evidence], sources: Mapping[Column, str]) -> list[Cause]:
    """Sources that explain the list, the one with most of it first."""
    listed: dict[str, list[Evidence]] = {}
    for e in best:
        source = sources.get(e.id.key.column) if e.id.key.column is not None else None
        if source is not None:
            listed.setdefault(source, []).append(e)
    sizes: dict[str, int] = {}
    for source in sources.values():
        sizes[source] = sizes.get(source, 0) + 1
    found = []
    n_features = sum(not _is_score(e.id.key.column) for e in best)
    for source, own in listed.items():
        holds = len(own) / max(1, n_features)
        if len(own) < 2 and sizes[source] > 1:
            continue  # one feature of several is that feature
        if holds >= _HALF_OF_LIST or len(own) / sizes[source] >= _MOST_OF_SOURCE:
            names = ", ".join(shown_name(e.id.key.column) for e in own if e.id.key.column)
            found.append(
                Cause(
                    statistic=str(own[0].id.key.statistic),
                    score=max(e.score for e in own),
                    source=source,
                    share=min(1.0, holds),
                    detail=f"{len(own)} of its {sizes[source]} features moved: {names}",
                )
            )
    found.sort(key=lambda c: (-(c.share or 0.0), -c.score, c.source or ""))
    return found


def _column(e: Evidence, pairs: PairsFound | None) -> Column | None:
    """The column of a cell; of pairs the one that most broken pairs have in common, None once they are back."""
    if e.id.key.statistic is not Statistic.PAIRS:
        return e.id.key.column
    return pairs.culprit if pairs is not None and e.z >= _CALM else None


def _detail(
    e: Evidence, baseline: Prepared | None, window: Counted | None, pairs: PairsFound | None
) -> str:
    if e.id.segment is not None:
        return ""
    if e.is_back:
        return NORMAL_AGAIN
    if e.id.key.statistic is Statistic.PAIRS:
        return pairs.detail if pairs is not None and e.z >= _CALM else ""
    if baseline is None or window is None or e.id.key.column is None:
        return ""
    return explain(e.id.key, baseline, window)


def segment_causes(
    key: CellKey,
    baseline: Prepared,
    windows: Mapping[Segment, Counted],
    baselines: Mapping[Segment, Counted],
) -> list[Cause]:
    """How much of a cell's change in all traffic each segment explains, largest share first.

    windows    the window of every segment with rows; together all traffic
    baselines  of those segments that have one; without, a segment's rows are taken out instead

    share = 1 - d' / d, d' the distance with the segment's rows replaced by as many of its own baseline: 1 explains
    all, below 0 hides some. Only segments that explain something are listed.
    """
    if len(windows) < 2:
        return []
    whole = _distance(key, baseline, list(windows.values()))
    if whole <= 0.0:
        return []
    found = []
    for segment in sorted(windows):
        others = [w for s, w in windows.items() if s != segment]
        before = baselines.get(segment)
        if before is not None and before.rows:
            others.append(scaled(before, windows[segment].rows))
        share = 1.0 - _distance(key, baseline, others) / whole
        if share > 0.0:
            found.append((share, segment))
    found.sort(key=lambda item: (-item[0], item[1]))
    return [
        Cause(
            statistic=str(key.statistic),
            score=0.0,
            feature=None if key.column is None else shown_name(key.column),
            segment=segment,
            share=share,
        )
        for share, segment in found[:_MOST_CAUSES]
    ]


def _distance(key: CellKey, baseline: Prepared, parts: Sequence[Counted]) -> float:
    cells = measure(baseline, reduce(merged, parts))
    return next((abs(cell.effect) for cell in cells if cell.key == key), 0.0)

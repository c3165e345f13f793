"""Score tables from a profile: which columns are compared in pairs, and the score of each of their values.

A number's score is the normal quantile of its mid-rank among the profile's rows, by the buckets of its sketch:
cells are 1.1 to 1.6 % wide, with round values in their middle, so that small whole numbers have cells of their
own. Where values differ by less than buckets resolve (1013 +- 3), the score is (x - mean) / sd.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from agent.config import Config
from agent.fold.profile import Profile, ProfileColumn
from agent.judge.reference import ModelKey, Reference, ReferenceStream, read_reference
from agent.judge.sketch_counts import read_texts
from agent.judge.wave_tables import wave_tables
from agent.sketch.histogram import representatives
from agent.sketch.pair_scorer import Tables
from agent.sketch.pair_sums import (
    MEAN_ABS,
    MOST_CELLS,
    MOST_SCORE,
    MOST_SCORES,
    SD_ABS,
    UNIT,
    ScoredColumn,
    ScoreTable,
)
from agent.sketch.vector_adder import BaselineTables
from agent.sketch.views import NumericView
from agent.types import Column, JsonType, Kind, Role

T = TypeVar("T")
Floats = NDArray[np.float64]
#: Latency moves with load, and free text has no categories: neither is compared.
_ROLES: Final = (Role.FEATURE, Role.PREDICTION, Role.USAGE)
_TYPES: Final = {
    Kind.NUMERIC: JsonType.NUMBER,
    Kind.BOOLEAN: JsonType.BOOLEAN,
    Kind.VECTOR: JsonType.VECTOR,
    Kind.CATEGORICAL: JsonType.STRING,
}
_BITS: Final = 6  # of a cell behind the leading one
_CATEGORIES: Final = 3
#: Rarer categories, and answers of a boolean, say nothing in windows of a few thousand rows.
_RARE: Final = 0.005
#: Values further from zero or closer to it than all but this share of rows share a cell.
_BEYOND: Final = 0.001
#: A standard deviation narrower than so many buckets is not resolved.
_FEW_BUCKETS: Final = 3.0
#: Tables with more scores take one row in four: 0.3 us a row else.
_WIDE: Final = 48
_NORMAL: Final = NormalDist()


def score_table(profile: Profile) -> ScoreTable | None:
    """None where no two columns can be compared. Columns past MOST_SCORES scores are left out: outputs are in
    first, then features in the profile's order."""
    columns: list[ScoredColumn] = []
    n_scores = 0
    ordered = sorted(profile.columns.items(), key=lambda item: item[0].role is Role.FEATURE)
    for name, column in ordered:
        if name.role not in _ROLES or column.kind not in _TYPES or not column.sketch:
            continue
        scored = _scored(name, column)
        if scored is not None and n_scores + scored.n_scores <= MOST_SCORES:
            columns.append(scored)
            n_scores += scored.n_scores
    if len(columns) < 2:
        return None
    return ScoreTable(columns, 2 if n_scores > _WIDE else 0)


def configured_tables(config: Config) -> Tables:
    """Tables of the baseline that `judge.baseline_file` names. Raises ConfigError where it cannot be read."""
    judge = config.judge
    if not judge.enabled or judge.baseline_file is None:
        return {}
    return tables_of(config, [read_reference(Path(judge.baseline_file))])


def tables_of(config: Config, references: Iterable[Reference]) -> Tables:
    """Tables by model and version; versions that no reference has are scored as the one last seen. Without what
    `judge.pairs` and `judge.vectors` have off."""
    judge = config.judge
    streams = [(key, s) for reference in references for key, s in reference.models.items()]
    scores = [(k, s, s.pairs.table) for k, s in streams if s.pairs is not None]
    waves = [(k, s, own) for k, s in streams if (own := wave_tables(s.profile))]
    return BaselineTables(
        _by_version(scores if judge.pairs == "auto" else []),
        _by_version(waves if judge.vectors == "auto" else []),
    )


def _by_version(
    found: Sequence[tuple[ModelKey, ReferenceStream, T]],
) -> dict[tuple[str, str | None], T]:
    """The first of each version, and under None the one last seen."""
    tables: dict[tuple[str, str | None], T] = {}
    newest: dict[str, int] = {}
    for key, stream, own in found:
        tables.setdefault((key.model, key.version), own)
        if stream.end_ms > newest.get(key.model, -1):
            newest[key.model] = stream.end_ms
            tables[key.model, None] = own
    return tables


def _scored(name: Column, column: ProfileColumn) -> ScoredColumn | None:
    if column.kind is Kind.CATEGORICAL:
        return _text(name, column.sketch)
    view = column.numbers
    if view is None or not view.in_domain:
        return None
    if column.kind is Kind.BOOLEAN:
        share = 1.0 - view.zeros / view.count
        if not _RARE <= share <= 1.0 - _RARE:
            return None
        low, high = _two_levels(share)
        levels = np.array([low, low, high], np.int8)
        return ScoredColumn(
            name, JsonType.BOOLEAN, 0.0, 52, 1022, [], levels.tobytes(), [_two_peak(share)]
        )
    return _number(name, _TYPES[column.kind], view) if column.kind is not None else None


# ---------------------------------------------------------------- texts and booleans


def _two_levels(share: float) -> tuple[int, int]:
    """Scores of others and of the ones that `share` rows are; they differ by one, and are 0 in the mean."""
    others = -round(UNIT * share)
    return others, others + UNIT


def _two_peak(share: float) -> float:
    """Kurtosis of a score with two values."""
    return 1.0 / (share * (1.0 - share)) - 3.0


def _text(name: Column, sketch: bytes) -> ScoredColumn | None:
    texts = read_texts(sketch)
    counts = sorted(texts.named.items(), key=lambda item: (-item[1], item[0]))
    shares = [(key, n / texts.count) for key, n in counts[:_CATEGORIES]]
    shares = [(key, share) for key, share in shares if _RARE <= share <= 1.0 - _RARE]
    if sum(share for _, share in shares) > 1.0 - _RARE:
        shares.pop()  # what is neither of the others
    if not shares:
        return None
    levels = np.zeros((len(shares), len(shares) + 1), np.int8)
    for i, (_, share) in enumerate(shares):
        levels[i], levels[i, i] = _two_levels(share)
    return ScoredColumn(
        name,
        JsonType.STRING,
        0.0,
        0,
        0,
        [key for key, _ in shares],
        levels.tobytes(),
        [_two_peak(share) for _, share in shares],
    )


# ---------------------------------------------------------------- numbers


def _number(name: Column, kind: JsonType, view: NumericView) -> ScoredColumn | None:
    """None for a constant."""
    values, counts = _buckets(view)
    centre, sd = view.mean, view.stddev()
    width = 2.0 ** (2.0**-view.scale) - 1.0
    if sd > 0.0 and sd < _FEW_BUCKETS * width * abs(centre) and view.distinct() > 2 * len(values):
        return _by_moments(name, kind, centre, sd)
    shift, low, high = _range(values, counts)
    cells = _key(values, shift) - low
    cells = np.sign(values).astype(np.int64) * np.clip(cells, 0, high) + high
    masses = np.bincount(cells, counts, 2 * high + 1) / counts.sum()
    ranks = np.cumsum(masses) - masses / 2.0
    scores = np.array([_quantile(rank) for rank in ranks.tolist()])
    return _column(name, kind, 0.0, shift, low, scores, masses)


def _by_moments(name: Column, kind: JsonType, centre: float, sd: float) -> ScoredColumn | None:
    """Cells of x - mean, scored as a normal's."""
    edges = sd * np.array([2.0**-5, 4.0])
    shift = 52 - 5
    low = int(_key(edges[:1], shift)[0]) - 1
    high = int(_key(edges[1:], shift)[0]) - low
    inner = ((np.arange(low + 1, low + high + 1)) << shift).view(np.float64) / sd
    scores = np.concatenate((-inner[::-1], (0.0,), inner))
    mass = np.exp(-(scores**2) / 2.0) * np.gradient(scores)
    return _column(
        name,
        kind,
        centre,
        shift,
        low,
        np.clip(scores, -MOST_SCORE, MOST_SCORE),
        mass / mass.sum(),
    )


def _column(
    name: Column,
    kind: JsonType,
    centre: float,
    shift: int,
    low: int,
    scores: Floats,
    masses: Floats,
) -> ScoredColumn | None:
    first = np.rint(UNIT * scores)
    second = np.rint(UNIT * (np.abs(first / UNIT) - MEAN_ABS) / SD_ABS)
    peaks = [_peak(levels, masses) for levels in (first, second)]
    if math.isinf(peaks[0]):
        return None
    kept = [first] if math.isinf(peaks[1]) else [first, second]
    levels = np.array(kept).astype(np.int8).tobytes()
    return ScoredColumn(name, kind, centre, shift, low, [], levels, peaks[: len(kept)])


def _buckets(view: NumericView) -> tuple[Floats, Floats]:
    """Values that stand for buckets, ascending, and their counts; empty ones left out."""
    negative = representatives(view.scale, view.negative_offset, len(view.negative))
    positive = representatives(view.scale, view.positive_offset, len(view.positive))
    values = np.concatenate((-negative[::-1], (0.0,), positive))
    counts = np.concatenate((view.negative[::-1], (view.zeros,), view.positive)).astype(np.float64)
    held = counts > 0
    return values[held], counts[held]


def _range(values: Floats, counts: Floats) -> tuple[int, int, int]:
    """Shift, lowest key less one, and cells to a side, from the magnitudes that most rows have."""
    order = np.argsort(np.abs(values), kind="stable")
    sizes, upto = np.abs(values)[order], np.cumsum(counts[order]) / counts.sum()
    least, most = np.searchsorted(upto, (_BEYOND, 1.0 - _BEYOND))
    inner = sizes[least : most + 1]
    inner = inner[inner > 0.0]
    if not len(inner):
        inner = sizes[sizes > 0.0]
    ends = np.array([inner[0], inner[-1]])
    shift = 52 - _BITS
    while True:
        low, high = _key(ends, shift).tolist()
        if high - low + 2 <= MOST_CELLS:
            return shift, low - 1, high - low + 2  # a last cell for what is beyond
        shift += 1


def _key(values: Floats, shift: int) -> NDArray[np.int64]:
    """|x| rounded to 52 - shift bits behind the leading one, as a whole number (see `ScoredColumn`)."""
    bits = np.abs(values).view(np.int64)
    return (bits + (1 << (shift - 1))) >> shift


def _quantile(rank: float) -> float:
    if not 1e-6 < rank < 1.0 - 1e-6:
        return math.copysign(MOST_SCORE, rank - 0.5)
    return min(MOST_SCORE, max(-MOST_SCORE, _NORMAL.inv_cdf(rank)))


def _peak(levels: Floats, masses: Floats) -> float:
    """Kurtosis; infinite where nearly all rows have one level."""
    off = levels - masses @ levels
    variance = float(masses @ off**2)
    if variance < (UNIT * 0.05) ** 2:
        return math.inf
    return float(masses @ off**4) / variance**2

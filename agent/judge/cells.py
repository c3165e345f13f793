"""Cells: what is tested of a window, one number for each (column, statistic).

Numeric, boolean and vector columns have `shape` (PSI over 24 cells), `loc` (AUC location) and `missing`;
a boolean's shape is its loc. Of vectors those are about their norms; where they point, `centroid` and `rff`
say. Categories have `shape`, `unseen` and `missing`; free text only `missing`.
KS, Wasserstein, Jensen-Shannon and Hellinger are shown (`drift_shown`), not tested: to second order
they say the same, and testing all of them only buys more alarms.

Pure functions of two profiles. `Prepared` keeps what is derived from a baseline; a window of 20 columns
then takes some 0.6 ms.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

import msgspec
import numpy as np

from agent.fold.profile import Profile
from agent.judge.counted import Counted, CountedColumn, counted
from agent.judge.numeric_bulk import Bulk
from agent.judge.numeric_cells import NumericBaseline
from agent.judge.sketch_counts import Counts, Numbers, Texts
from agent.judge.special import beta_binomial_z, log_poisson_tail, normal_quantile
from agent.judge.text_cells import TextBaseline
from agent.judge.vector_cells import Vectors, moved
from agent.types import Column, Kind


class Statistic(enum.StrEnum):
    SHAPE = "shape"
    LOC = "loc"
    MISSING = "missing"
    UNSEEN = "unseen"
    VOLUME = "volume"
    PAIRS = "pairs"
    CENTROID = "centroid"
    RFF = "rff"


class CellKey(NamedTuple):
    """`column` None: the stream's own (volume, pairs)."""

    column: Column | None
    statistic: Statistic


#: Change that nobody wants to hear of, in the unit of `effect`: windows of any size may differ so much.
TOLERANCE: Final = {
    Statistic.LOC: 0.005,  # AUC: .018 standard deviations of a normal
    Statistic.SHAPE: 0.0025,  # PSI
    Statistic.MISSING: 0.0025,  # share of rows
    Statistic.UNSEEN: 0.001,  # share of rows
    Statistic.VOLUME: 0.1,  # log of the rows' ratio
    Statistic.PAIRS: 0.02,  # correlation
    Statistic.CENTROID: 0.0005,  # squared distance over the total variance of the directions
    Statistic.RFF: 0.0005,  # the same of waves
}
#: Their x is the log of a distance over what chance makes of it, 0 while nothing changes.
LOG_RATIOS: Final = frozenset((Statistic.SHAPE, Statistic.CENTROID, Statistic.RFF))
#: Fewer values are not compared.
MIN_VALUES: Final = 20


class CellValue(msgspec.Struct, frozen=True):
    """One cell of one window.

    x       what the detector reads. loc: standard errors of rows that are independent; shape: log of PSI
            over what noise alone would make of it (centroid, rff: of another distance); missing, unseen: z
            past the tolerance, from an exact tail; volume: log(1 + rows)
    n, m    values of the window and of the baseline (rows for missing and volume)
    effect  in its own unit: AUC - 1/2, PSI less its noise, difference of rates, share unseen, log ratio
    df      degrees of freedom (shape); texts seen once (unseen); else 0
    tail    whether both directions count
    spread  standard deviation of the effect of a single row; 0 where it has none. centroid, rff: the root
            of the effect that one row has by chance
    p       tail probability of `x` where the cell is tested by itself while uncalibrated, else None
    """

    key: CellKey
    x: float
    n: float
    m: float
    effect: float
    df: float
    tail: Literal["upper", "two"]
    spread: float = 0.0
    p: float | None = None


@dataclass(slots=True, eq=False)
class PreparedColumn:
    """One column of a baseline: only the part that its kind has is set."""

    kind: Kind | None
    missing: float
    numbers: Numbers | None = None
    texts: TextBaseline | None = None
    vectors: Vectors | None = None
    by_scale: dict[int, NumericBaseline] = field(default_factory=dict)

    def at(self, scale: int) -> NumericBaseline:
        """The numeric column at this scale or its own, if that is coarser."""
        assert self.numbers is not None
        scale = min(scale, self.numbers.scale)
        found = self.by_scale.get(scale)
        if found is None:
            found = self.by_scale[scale] = NumericBaseline.at(self.numbers, scale)
        return found


class Prepared:
    """A baseline, with all that windows are compared with worked out once. A column without a value in it is none
    of its own: what turns up there is new, not changed."""

    def __init__(self, baseline: Profile | Counted) -> None:
        read = baseline if isinstance(baseline, Counted) else counted(baseline)
        self.rows = read.rows
        self.columns: dict[Column, PreparedColumn] = {}
        for column, held in read.columns.items():
            if held.is_absent(read.rows):
                continue
            own = self.columns[column] = PreparedColumn(held.kind, held.missing)
            if held.numbers is not None and held.numbers.count:
                own.numbers = held.numbers
                own.vectors = held.vectors
            if held.texts is not None and held.texts.count:
                own.texts = TextBaseline.of(held.texts, held.distinct)


def measure(
    baseline: Profile | Prepared,
    window: Profile | Counted,
    expected_rows: float | None = None,
    *,
    is_inside: bool = False,
) -> list[CellValue]:
    """The cells of a window, in the baseline's order of columns.

    expected_rows  rows that a window has in the median, for `volume`; None: no such cell
    is_inside      the window's rows are part of the baseline (history that calibrates): `unseen` is then
                   what the rest of the baseline has not seen

    Columns that the window lacks are all missing there; those that the baseline lacks have no cells
    (the data-quality contract speaks of them), nor have columns of another kind.
    """
    known = baseline if isinstance(baseline, Prepared) else Prepared(baseline)
    seen = window if isinstance(window, Counted) else counted(window)
    if not seen.rows or not known.rows:
        return []
    out: list[CellValue] = []
    by_column = _numeric_cells(known, seen)
    for column, before in known.columns.items():
        now = seen.columns.get(column)
        if now is None:
            now = CountedColumn(before.kind, float(seen.rows))
        if now.kind is not None and now.kind is not before.kind:
            continue
        if now.numbers is not None and before.numbers is not None:
            if now.numbers.count >= MIN_VALUES:
                out += by_column[column]
                if before.vectors is not None and now.vectors is not None:
                    counts = now.numbers.count, before.numbers.count
                    out += _vector_cells(column, before.vectors, now.vectors, *counts)
        elif now.texts is not None and before.texts is not None:
            out += _text_cells(column, before.texts, now.texts, is_inside)
        out.append(_missing_cell(column, known.rows, before.missing, seen.rows, now.missing))
    if expected_rows is not None and expected_rows > 0:
        out.append(_volume_cell(seen.rows, expected_rows))
    return out


def _numeric_cells(known: Prepared, seen: Counted) -> dict[Column, list[CellValue]]:
    """Of all columns that both sides hold as numbers, at once."""
    columns: list[Column] = []
    bases: list[NumericBaseline] = []
    window: list[Numbers] = []
    for column, before in known.columns.items():
        now = seen.columns.get(column)
        if now is None or now.numbers is None or before.numbers is None:
            continue
        if now.numbers.count >= MIN_VALUES:
            columns.append(column)
            bases.append(before.at(now.numbers.scale))
            window.append(now.numbers)
    if not columns:
        return {}
    bulk = Bulk.of(bases, window)
    found: dict[Column, list[CellValue]] = {column: [] for column in columns}
    for column, base, n, auc in zip(
        columns, bases, bulk.n.tolist(), bulk.locations().tolist(), strict=True
    ):
        if base.ties < 1.0 - 1e-9:
            m, effect = float(base.count), auc - 0.5
            spread = math.sqrt((1.0 - base.ties) / 12.0)
            x = effect * math.sqrt(n * m / (n + m)) / spread
            key = CellKey(column, Statistic.LOC)
            found[column].append(CellValue(key, x, n, m, effect, 0.0, "two", spread))
    groups = bulk.groups()
    parts = groups.psi(), groups.sizes, groups.n, groups.m
    for column, *shape in zip(columns, *(part.tolist() for part in parts), strict=True):
        psi, cells, n, m = shape
        if cells > 1.0 and known.columns[column].kind is not Kind.BOOLEAN:
            found[column].append(_shape_cell(column, psi, cells - 1.0, n, m))
    return found


def _vector_cells(
    column: Column, before: Vectors, now: Vectors, n: float, m: float
) -> list[CellValue]:
    """Of n and m vectors, of which a sample was looked at."""
    out = []
    for found in moved(before, now):
        key = CellKey(column, Statistic.CENTROID if found.is_centre else Statistic.RFF)
        spread = math.sqrt(found.by_chance / (1.0 / n + 1.0 / m))
        out.append(CellValue(key, found.log_ratio, n, m, found.effect, found.df, "upper", spread))
    return out


def _text_cells(
    column: Column, before: TextBaseline, texts: Texts, is_inside: bool
) -> list[CellValue]:
    n, m = float(texts.count), float(before.texts.count)
    if n < MIN_VALUES:
        return []
    out = []
    p, q = before.partition(texts)
    if len(p) > 1:
        out.append(_shape_cell(column, psi_of(p, q, m, n), len(p) - 1.0, n, m))
    unseen = before.held_alone(texts) if is_inside else before.unseen(texts)[0]
    share = unseen / n
    z = unseen_z(unseen, n, (before.singletons + 3.0 * math.sqrt(before.singletons + 1.0)) / m)
    key = CellKey(column, Statistic.UNSEEN)
    out.append(
        CellValue(key, z, n, m, share, before.singletons, "upper", 0.0, 0.5 * math.erfc(z / 2**0.5))
    )
    return out


def unseen_z(rows: float, n: float, share: float, phi: float = 1.0) -> float:
    """z of `rows` of n without precedent, where `share` of rows are, past the tolerance.

    `phi`: rows come in clusters of about so many, which count as one.
    """
    past = math.floor((rows - TOLERANCE[Statistic.UNSEEN] * n) / phi)
    if past <= 0:
        return 0.0
    return max(0.0, normal_quantile(log_poisson_tail(past, max(share * n / phi, 1e-12))))


def psi_of(p: Counts, q: Counts, m: float, n: float) -> float:
    """PSI of counts in the same cells, smoothed by (c + 1/2) / (n + B/2)."""
    cells = len(p)
    p = (p + 0.5) / (m + cells / 2)
    q = (q + 0.5) / (n + cells / 2)
    return float((q - p) @ np.log(q / p))


def _shape_cell(column: Column, psi: float, df: float, n: float, m: float) -> CellValue:
    rows = n * m / (n + m)
    x = math.log(max(psi * rows / df, 1e-12))
    effect = max(0.0, psi - df / rows)
    return CellValue(CellKey(column, Statistic.SHAPE), x, n, m, effect, df, "upper")


def _missing_cell(
    column: Column, baseline_rows: float, before: float, rows: float, now: float
) -> CellValue:
    rate = before / baseline_rows
    effect = now / rows - rate
    shrunk = math.copysign(max(0.0, abs(effect) - TOLERANCE[Statistic.MISSING]), effect)
    z = beta_binomial_z((rate + shrunk) * rows, rows, before, baseline_rows) if shrunk else 0.0
    key = CellKey(column, Statistic.MISSING)
    p = math.erfc(abs(z) / 2**0.5)
    smoothed = (before + 0.5) / (baseline_rows + 1.0)
    spread = math.sqrt(smoothed * (1.0 - smoothed))
    return CellValue(key, z, float(rows), float(baseline_rows), effect, 0.0, "two", spread, p)


def _volume_cell(rows: float, expected_rows: float) -> CellValue:
    x = math.log1p(rows)
    key = CellKey(None, Statistic.VOLUME)
    effect = x - math.log1p(expected_rows)
    return CellValue(key, x, float(rows), float(expected_rows), effect, 0.0, "two")

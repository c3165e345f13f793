"""A data-quality contract from a reference: what was so without exception, with room for chance.

Rates get their exact upper bound at ALPHA, the worst single window, and a margin; ranges are widened by
their span on each side, but not across zero; categories are closed only when all of them are known
and none is rare. What the reference does not show is not asked for.
"""

from __future__ import annotations

import math
from typing import Final

from agent.config.contract import ColumnRule, ContractFile, ModelContract, RowRule
from agent.fold.profile import ProfileColumn
from agent.judge.contract import ALPHA, MIN_ROWS
from agent.judge.counted import CountedColumn, counted
from agent.judge.drift import binomial_bounds
from agent.judge.reference import ColumnFacts, ModelKey, Reference, ReferenceStream
from agent.types import Column, Kind, Role

#: Added to the share of rows without a value that the reference shows.
MISSING_MARGIN: Final = 0.02
#: Added to twice the share of vectors that are all zero.
ZEROS_MARGIN: Final = 0.01
#: A window may have so many times fewer or more rows than any window of the reference.
ROWS_FACTOR: Final = 4.0
#: More categories are not a closed set.
MOST_CATEGORIES: Final = 100
#: Of a closed set, each category was seen so often.
CATEGORY_ROWS: Final = 5
#: Ranges reach beyond what was seen by so many spans, and so many rows may lie outside: values of one storm,
#: or one batch, come together. A range is for what cannot be; what merely differs is the change detector's.
ROOM: Final = 1.0
_OUTSIDE: Final = 0.01
_CUT_BYTES: Final = 56
_UNIQUE: Final = 0.97
_UNIQUE_ROWS: Final = 1000
_PROBABILITIES: Final = ("score", "probabilities.")


def infer(reference: Reference) -> ContractFile:
    """The contract of every model. A version is named only where a model has several."""
    models = [key.model for key in reference.models]
    return ContractFile(
        contract=[
            infer_model(
                reference.models[key], reference.width_ms, named=models.count(key.model) > 1
            )
            for key in sorted(reference.models)
        ]
    )


def infer_model(stream: ReferenceStream, width_ms: int, *, named: bool = False) -> ModelContract:
    """The contract of one model. `named`: of this version only."""
    profile = stream.profile
    read = counted(profile)
    rules: dict[Role, dict[str, ColumnRule]] = {Role.FEATURE: {}, Role.PREDICTION: {}}
    for column, held in profile.columns.items():
        if column.role in rules and any(held.present):
            facts = stream.columns.get(column, ColumnFacts(0, 1.0, 1.0))
            rule = _column(column, held, read.columns[column], facts, profile.rows)
            rules[column.role][column.name] = rule
    key = ModelKey(profile.stream.model, profile.stream.version)
    return ModelContract(
        model=key.model,
        version=key.version if named else None,
        rows=_rows(stream, width_ms),
        features=dict(sorted(rules[Role.FEATURE].items())),
        predictions=dict(sorted(rules[Role.PREDICTION].items())),
    )


def _rows(stream: ReferenceStream, width_ms: int) -> RowRule:
    profile = stream.profile
    errors = _rounded(min(1.0, 2.0 * _upper(profile.errors, profile.rows) + 0.01))
    if not stream.windows:
        return RowRule(errors=errors)
    low = math.floor(stream.rows_low / ROWS_FACTOR)
    return RowRule(
        min=low if low >= MIN_ROWS else None,  # where windows are nearly empty, so may be the next
        max=math.ceil(stream.rows_high * ROWS_FACTOR),
        errors=errors,
        silence_s=_silence_s(stream, width_ms),
    )


def _silence_s(stream: ReferenceStream, width_ms: int) -> float | None:
    """Half as long again as the longest gap between windows with rows, at least a window, and so long that
    MIN_ROWS rows are expected: with fewer, none at all may be chance. None where windows are not known."""
    width_s = width_ms / 1000
    if stream.windows < 2:
        return None
    silence_s = max(width_s, 1.5 * (stream.gap_s - width_s))
    covered_s = max(width_s, (stream.end_ms - stream.start_ms) / 1000)
    return round(max(silence_s, MIN_ROWS * covered_s / max(1, stream.profile.rows)), 3)


def _column(
    column: Column, held: ProfileColumn, read: CountedColumn, facts: ColumnFacts, rows: int
) -> ColumnRule:
    present = sum(held.present)
    usable = present - (read.numbers.non_finite if read.numbers is not None else 0)
    missing = rows - usable
    allowed = max(_upper(missing, rows), 2.0 * min(facts.missing_high, missing / rows * 20))
    allowed += MISSING_MARGIN
    is_dense = allowed < 0.95
    violations = held.violations()
    # Windows differ: what a whole window without values would be is for `required` to say.
    low, high = _range(column, held, read)
    return ColumnRule(
        kind=held.kind,
        required=is_dense,
        missing=_rounded(allowed) if is_dense else None,
        violations=_rounded(max(_upper(violations, present), facts.violations_high)),
        min=low,
        max=high,
        categories=_categories(held, read),
        outside=_rounded(_upper(0, usable) if read.texts is not None else _OUTSIDE),
        distinct=0.9 if _is_unique(held, usable) else None,
        dimension=_dimension(read),
        zeros=_zeros(held, read),
    )


def _dimension(read: CountedColumn) -> int | None:
    """The one that all sampled vectors have, where there are enough."""
    if not read.vectors or len(read.vectors) > 1:
        return None
    ((dimension, cloud),) = read.vectors.items()
    return dimension if cloud.rows >= MIN_ROWS and dimension > 0 else None


def _zeros(held: ProfileColumn, read: CountedColumn) -> float | None:
    if held.kind is not Kind.VECTOR or read.numbers is None or not read.numbers.count:
        return None
    allowed = 2.0 * _upper(round(read.numbers.zeros), round(read.numbers.count)) + ZEROS_MARGIN
    return _rounded(allowed) if allowed < 0.95 else None


def _upper(hits: int, rows: int) -> float:
    return binomial_bounds(hits, rows, 2 * ALPHA)[1]


def _rounded(share: float) -> float:
    """Up to two significant digits, never down."""
    if share <= 0.0 or share >= 1.0:
        return min(1.0, max(0.0, share))
    digits = 1 - math.floor(math.log10(share))
    step = 10.0**-digits
    return min(1.0, round(math.ceil(share / step - 1e-9) * step, digits))


def _range(
    column: Column, held: ProfileColumn, read: CountedColumn
) -> tuple[float | None, float | None]:
    numbers = read.numbers
    if held.kind is not Kind.NUMERIC or numbers is None or not numbers.count:
        return None, None
    low, high = numbers.low, numbers.high
    is_score = column.role is Role.PREDICTION and column.name.startswith(_PROBABILITIES)
    if is_score and low >= 0.0 and high <= 1.0:
        return 0.0, 1.0
    room = ROOM * (high - low)
    if not math.isfinite(room):
        return None, None
    least = max(0.0, low - room) if low >= 0.0 else low - room
    most = min(0.0, high + room) if high <= 0.0 else high + room
    if room == 0.0:  # a constant: its values are the change detector's
        return (0.0 if low >= 0.0 else None), (0.0 if high < 0.0 else None)
    return _short(least, down=True), _short(most, down=False)


def _short(bound: float, *, down: bool) -> float:
    """To three significant digits, away from the data."""
    if bound == 0.0:
        return 0.0
    step = 10.0 ** (math.floor(math.log10(abs(bound))) - 2)
    count = math.floor(bound / step) if down else math.ceil(bound / step)
    return float(f"{count * step:.3g}")


def _categories(held: ProfileColumn, read: CountedColumn) -> list[str] | None:
    texts = read.texts
    if held.kind is not Kind.CATEGORICAL or texts is None or not texts.is_exact:
        return None
    names = texts.names
    if not 0 < len(names) <= MOST_CATEGORIES or len(names) < len(texts.named):
        return None
    if min(texts.named.values()) < CATEGORY_ROWS:
        return None
    if any(len(name.encode()) >= _CUT_BYTES or "�" in name for name in names.values()):
        return None
    return sorted(names.values())


def _is_unique(held: ProfileColumn, usable: int) -> bool:
    if held.kind not in (Kind.TEXT, Kind.CATEGORICAL) or usable < _UNIQUE_ROWS:
        return False
    return (held.facts.distinct or 0) >= _UNIQUE * usable

"""What a stream and a column cost: exported series, and bytes of base. `inferometer plan` adds these up too."""

from __future__ import annotations

import math
from dataclasses import dataclass

from agent.config import Config
from agent.sketch.cells import (
    NUMERIC_CELL_BYTES,
    NUMERIC_WIDE_CELL_BYTES,
    STRING_CELL_BYTES,
)
from agent.types import Kind, Role

#: rows, errors, rows.late, rows.future; window.rows, window.start, window.coverage
STREAM_SERIES = 7

#: Series of a feature or prediction, by kind. Categories exported by name come on top.
#: numeric: value, sum (only once negative), missing, violations, non_finite, over_range, distinct, min, max
#: boolean: missing, violations, true      categorical, text: missing, violations, distinct
#: vector:  value, missing, violations, non_finite, over_range, min, max
_VALUE_SERIES = {
    Kind.NUMERIC: 9,
    Kind.BOOLEAN: 3,
    Kind.CATEGORICAL: 3,
    Kind.TEXT: 3,
    Kind.VECTOR: 7,
}

#: Open windows that each column has room for; more are borrowed from what is left of the budget.
RESERVED_WINDOWS = 3

#: Python objects of a stream and of a column, roughly, so that a million empty streams are not free.
STREAM_BYTES = 4096
COLUMN_BYTES = 1024

#: A window this long could count 2^32 values of one column (at 7 million rows a second): wide cells then.
WIDE_WINDOW_S = 600.0


def window_cell_bytes(width_s: float) -> int:
    """Size of a numeric cell of an open window."""
    return NUMERIC_CELL_BYTES if width_s <= WIDE_WINDOW_S else NUMERIC_WIDE_CELL_BYTES


@dataclass(frozen=True, slots=True)
class Cost:
    """Series and bytes."""

    series: int
    memory_bytes: int

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.series + other.series, self.memory_bytes + other.memory_bytes)

    def times(self, n: int) -> Cost:
        return Cost(self.series * n, self.memory_bytes * n)


class Costs:
    """Costs under one configuration. Upper bounds: what is exported or used never exceeds them."""

    def __init__(self, config: Config) -> None:
        self._top = config.export.top_categories
        self.reserved_windows = min(RESERVED_WINDOWS, config.windows.max_open)
        self._window_cell = window_cell_bytes(config.windows.width_s)

    @property
    def stream(self) -> Cost:
        """A stream without columns."""
        return Cost(STREAM_SERIES, STREAM_BYTES)

    def column(self, role: Role, kind: Kind | None) -> Cost:
        """A column; kind None: not decided yet, so the dearest."""
        strings = STRING_CELL_BYTES * (1 + self.reserved_windows)
        numbers = NUMERIC_WIDE_CELL_BYTES + self._window_cell * self.reserved_windows
        if kind is None:
            memory = max(strings, numbers)
        else:
            memory = strings if kind in (Kind.CATEGORICAL, Kind.TEXT) else numbers
        if role in (Role.LATENCY, Role.USAGE):
            series = 1
        elif kind is None:
            series = max(self._series(kind) for kind in Kind)
        else:
            series = self._series(kind)
        return Cost(series, memory + COLUMN_BYTES)

    def _series(self, kind: Kind) -> int:
        return _VALUE_SERIES[kind] + (self._top if kind is Kind.CATEGORICAL else 0)

    def declared_stream(self, features: int, categorical: int) -> Cost:
        """One stream of a declared model: its features, a score, a label, and latency."""
        categorical = min(categorical, features)
        numeric = self.column(Role.FEATURE, Kind.NUMERIC)
        category = self.column(Role.FEATURE, Kind.CATEGORICAL)
        return (
            self.stream
            + numeric.times(features - categorical + 1)
            + category.times(categorical + 1)
            + self.column(Role.LATENCY, Kind.NUMERIC)
        )


def overflow_share(limit: int) -> int:
    """Part of a budget that only overflow streams may use: a sixteenth."""
    return math.ceil(limit / 16)

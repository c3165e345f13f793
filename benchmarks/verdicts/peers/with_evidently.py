"""Evidently: `DataDriftPreset` at its defaults, one report a window.

With a reference of more than 1,000 rows it takes the normed Wasserstein distance of a number and the Jensen-Shannon
distance of a text, each against 0.1; the dataset drifts when half of its columns do. A report takes seconds, so
scores come from the functions that the preset calls; in the first window of some runs the report itself is made, and
its values must be those. Where a column is missing or empty the report raises an error, which is asked for once.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from typing import Any

from benchmarks.verdicts.peers.offline import refuse_connections

refuse_connections()

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
from evidently import DataDefinition, Dataset, Report  # noqa: E402
from evidently.legacy.calculations.stattests import StatTest, get_stattest  # noqa: E402
from evidently.legacy.core import ColumnType  # noqa: E402
from evidently.presets import DataDriftPreset  # noqa: E402

from benchmarks.verdicts.peers.given import Table  # noqa: E402
from benchmarks.verdicts.peers.runner import Clock, Found, judge_all  # noqa: E402

COLUMN, DATASET = "any column", "half of the columns"
THRESHOLD = 0.1


class Preset:
    def __init__(self, reference: Table, rows: int) -> None:
        self._texts = [name for name, values in reference.items() if values.dtype.kind == "U"]
        self._numbers = [name for name in reference if name not in self._texts]
        self._definition = DataDefinition(
            numerical_columns=self._numbers, categorical_columns=self._texts
        )
        self._frame = _frame(reference)
        self._reference = Dataset.from_pandas(self._frame, data_definition=self._definition)
        assert not self._frame.isna().any().any()
        self._tests: dict[str, StatTest] = {}
        self._is_checked = False

    def copy(self) -> Preset:
        return self

    def judge(self, tables: Sequence[Table]) -> list[Found]:
        return [self._one(_frame(table)) for table in tables]

    def _one(self, frame: pd.DataFrame) -> Found:
        gone = tuple(name for name in self._frame if name not in frame)
        empty = tuple(name for name in frame if not frame[name].notna().any())
        if gone or empty:
            raise ValueError(self._error(frame, gone, empty))
        scores = {name: self._score(name, frame) for name in self._frame}
        if not self._is_checked and SPENT.windows < _CHECKED:
            self._is_checked = True
            for name, (value, is_drifted) in self._reported(frame).items():
                ours, drifted = scores[name]
                assert abs(value - ours) < 1e-9 and is_drifted == drifted, (name, value, ours)
        named = [name for name, (_, drifted) in scores.items() if drifted]
        return Found(
            {COLUMN: bool(named), DATASET: 2 * len(named) >= len(scores)},
            named,
            scores={name: {"distance": value / THRESHOLD} for name, (value, _) in scores.items()},
        )

    def _error(self, frame: pd.DataFrame, gone: tuple[str, ...], empty: tuple[str, ...]) -> str:
        """What the report says of such a window."""
        key = gone, empty
        if key not in _ERRORS:
            try:
                self._report(frame)
            except ValueError as error:
                _ERRORS[key] = str(error)
        return _ERRORS[key]

    def _score(self, name: str, frame: pd.DataFrame) -> tuple[float, bool]:
        kind = ColumnType.Categorical if name in self._texts else ColumnType.Numerical
        now = frame[name].dropna()
        if name not in self._tests:
            # What it chooses depends on the reference's rows and on whether there are more than five values.
            self._tests[name] = get_stattest(self._frame[name], now, kind, None)
        found = self._tests[name](self._frame[name], now, kind, None)
        assert found.actual_threshold == THRESHOLD
        return float(found.drift_score), bool(found.drifted)

    def _reported(self, frame: pd.DataFrame) -> dict[str, tuple[float, bool]]:
        """Column -> (value, whether it drifts), from the report of the preset."""
        began = time.process_time()
        document = self._report(frame)
        SPENT.judge_s += time.process_time() - began
        SPENT.windows += 1
        return {
            metric["config"]["column"]: (
                float(metric["value"]),
                float(metric["value"]) >= metric["config"]["threshold"],
            )
            for metric in document["metrics"]
            if "column" in metric["config"]
        }

    def _report(self, frame: pd.DataFrame) -> dict[str, Any]:
        current = Dataset.from_pandas(frame, data_definition=self._definition)
        return dict(Report([DataDriftPreset()]).run(current, self._reference).dict())


#: Of the reports that were made.
SPENT = Clock()
_CHECKED = 2
_ERRORS: dict[tuple[tuple[str, ...], tuple[str, ...]], str] = {}


def _frame(table: Table) -> pd.DataFrame:
    return pd.DataFrame(
        {
            name: pd.Series(values).where(values != "").astype(object)
            if values.dtype.kind == "U"
            else values.astype(np.float64)
            for name, values in table.items()
        }
    )


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    judge_all(Preset, ("evidently", "scipy", "pandas", "numpy"), (COLUMN, DATASET), SPENT)

"""NannyML: univariate drift and, beside it, missing and unseen values, all at their defaults.

Chunks are the windows. Jensen-Shannon distances alarm above mean + 3 standard deviations of the reference's own
chunks, missing rates beyond 3 either way, unseen values at the first one.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

from benchmarks.verdicts.peers.offline import refuse_connections

refuse_connections()

import nannyml  # noqa: E402
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402

from benchmarks.verdicts.peers.given import Table  # noqa: E402
from benchmarks.verdicts.peers.runner import MOST_SCORE, Found, judge_all  # noqa: E402

DRIFT, ALL = "drift", "drift and data quality"
#: A threshold of 0 is a share of 0 for nothing, and of this for anything.
_LEAST_THRESHOLD = 1e-9


class Calculators:
    def __init__(self, reference: Table, rows: int) -> None:
        frame = _frame(reference)
        texts = [name for name, values in reference.items() if values.dtype.kind == "U"]
        every: dict[str, Any] = {"column_names": list(reference), "chunk_size": rows}
        self._names = list(reference)
        self._tests = {
            "drift": nannyml.UnivariateDriftCalculator(**every),
            "missing": nannyml.MissingValuesCalculator(**every),
            "unseen": nannyml.UnseenValuesCalculator(column_names=texts, chunk_size=rows),
        }
        for test in self._tests.values():
            test.fit(frame)

    def copy(self) -> Calculators:
        return self

    def judge(self, tables: Sequence[Table]) -> list[Found]:
        frame = pd.concat([_frame(table) for table in tables], ignore_index=True)
        results = {
            name: test.calculate(frame).filter(period="analysis").to_df()
            for name, test in self._tests.items()
        }
        return [self._one(results, at) for at in range(len(tables))]

    def _one(self, results: dict[str, pd.DataFrame], at: int) -> Found:
        found = Found({DRIFT: False, ALL: False})
        for test, frame in results.items():
            for name in self._names:
                if name not in frame.columns.get_level_values(0):
                    continue
                told = frame[name]
                told = (told["jensen_shannon"] if test == "drift" else told).iloc[at]
                value, upper = float(told["value"]), float(told["upper_threshold"])
                if math.isfinite(value):
                    score = min(MOST_SCORE, value / max(upper, _LEAST_THRESHOLD))
                    found.scores.setdefault(name, {})[test] = score
                if bool(told["alert"]):
                    found.alarms[ALL] = True
                    found.alarms[DRIFT] |= test == "drift"
                    if name not in found.named:
                        found.named.append(name)
        drifts = {name: tests.get("drift", 0.0) for name, tests in found.scores.items()}
        first = max(drifts, key=lambda name: drifts[name], default="")
        found.firsts[DRIFT] = first if found.alarms[DRIFT] else ""
        return found


def _frame(table: Table) -> pd.DataFrame:
    return pd.DataFrame(
        {
            name: pd.Series(values, dtype=object).where(values != "", None)
            if values.dtype.kind == "U"
            else values.astype(np.float64)
            for name, values in table.items()
        }
    )


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    judge_all(Calculators, ("nannyml", "scipy", "pandas", "numpy"), (DRIFT, ALL))

"""Alibi Detect: `TabularDrift` at its defaults.

Kolmogorov-Smirnov for numbers and chi-square for texts, p below .05 over the number of columns (Bonferroni). It takes
no missing values: a number that is NaN anywhere has p = NaN, which is no alarm. Texts are their codes, `""` one
of them, as its documentation asks.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

from benchmarks.verdicts.peers.offline import refuse_connections

refuse_connections()

import numpy as np  # noqa: E402
from alibi_detect.cd import TabularDrift  # noqa: E402

from benchmarks.verdicts.peers.given import Array, Table  # noqa: E402
from benchmarks.verdicts.peers.runner import Found, judge_all  # noqa: E402

ANY = "any column, Bonferroni"
_LEAST_P = 1e-300


class Tabular:
    def __init__(self, reference: Table, rows: int) -> None:
        self._names = list(reference)
        self._codes: dict[str, dict[str, int]] = {}
        for name, values in reference.items():
            if values.dtype.kind == "U":
                self._codes[name] = {text: code for code, text in enumerate(np.unique(values))}
        texts = {self._names.index(name): None for name in self._codes}
        self._detector = TabularDrift(self._matrix(reference), categories_per_feature=texts)

    def copy(self) -> Tabular:
        return self

    def judge(self, tables: Sequence[Table]) -> list[Found]:
        return [self._one(table) for table in tables]

    def _one(self, table: Table) -> Found:
        told = self._detector.predict(self._matrix(table))["data"]
        found = Found({ANY: bool(told["is_drift"])})
        for name, p in zip(self._names, told["p_val"].tolist(), strict=True):
            if math.isnan(p):
                continue
            score = math.log(max(p, _LEAST_P)) / math.log(told["threshold"])
            found.scores[name] = {"p": max(0.0, score)}
            if p < told["threshold"]:
                found.named.append(name)
        return found

    def _matrix(self, table: Table) -> Array:
        n = len(next(iter(table.values())))
        # It wants as many columns as it was given: one that is gone has no value in any row.
        return np.column_stack(
            [
                self._coded(name, table[name]) if name in table else np.full(n, np.nan)
                for name in self._names
            ]
        )

    def _coded(self, name: str, values: Array) -> Array:
        if values.dtype.kind != "U":
            return values.astype(np.float64)
        codes = self._codes[name]
        texts, at = np.unique(values, return_inverse=True)
        # Texts that the reference has not get the next codes.
        own = np.array([codes.setdefault(text, len(codes)) for text in texts], dtype=np.float64)
        return own[at]


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    judge_all(Tabular, ("alibi-detect", "scipy", "numpy"), (ANY,))

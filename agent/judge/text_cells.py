"""A categorical column of the baseline, cut into cells that windows are counted in.

A text whose count is exact on both sides is a cell of its own; all others are counted in the 256 hashed
buckets, which are exact whatever the column holds. Overestimates of the table of heavy hitters never
enter: they only name.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from agent.judge.numeric_cells import MIN_EXPECTED
from agent.judge.sketch_counts import Counts, Texts, bucket_of

#: Texts that are named as new.
MAX_NAMED: Final = 5


@dataclass(slots=True, eq=False)
class TextBaseline:
    """What windows of a categorical column are compared with.

    singletons  texts that were seen once: their share of rows estimates that of texts never seen (Good
                1953). An upper bound where not every text is listed
    """

    texts: Texts
    singletons: float

    @classmethod
    def of(cls, texts: Texts, distinct: float) -> TextBaseline:
        """`distinct`: estimated number of different texts, used where not all are listed."""
        repeated = sum(n > 1 for n in texts.named.values())
        if texts.is_exact:
            return cls(texts, float(len(texts.named) - repeated))
        return cls(texts, max(0.0, distinct - repeated))

    def partition(self, window: Texts) -> tuple[Counts, Counts]:
        """Counts of baseline and window in the same cells, float64[k] each, thin cells pooled into one."""
        m, n = self.texts.count, window.count
        p, q = self.texts.hashed.copy(), window.hashed.copy()
        own_p, own_q = [], []
        least = MIN_EXPECTED * m / max(1.0, min(m, n))
        for key, rows in self.texts.named.items():
            if rows >= least and not self.texts.bound(key) and not window.bound(key):
                own_p.append(rows)
                own_q.append(window.named.get(key, 0.0))
                p[bucket_of(key)] -= own_p[-1]
                q[bucket_of(key)] -= own_q[-1]
        p, q = np.concatenate((own_p, p)), np.concatenate((own_q, q))
        thick = p * (min(m, n) / m) >= MIN_EXPECTED
        rest_p, rest_q = float(p[~thick].sum()), float(q[~thick].sum())
        p, q = p[thick], q[thick]
        if rest_p or rest_q:
            if rest_p * min(m, n) / m >= MIN_EXPECTED or not len(p):
                p, q = np.append(p, rest_p), np.append(q, rest_q)
            else:  # too thin for a cell of its own: the smallest takes it
                least_at = int(p.argmin())
                p[least_at] += rest_p
                q[least_at] += rest_q
        return p, q

    def unseen(self, window: Texts) -> tuple[float, list[tuple[str, float]]]:
        """Rows of the window whose text the baseline never held, and the texts among them that are named,
        most frequent first.

        Certain: rows in hashed buckets that are empty in the baseline, and of listed texts that a full list of
        the baseline lacks. Where the list is not full, a text that it lacks may be rare instead of
        new: then rows count beyond those that the largest unlisted count explains, with three errors.
        """
        empty = self.texts.hashed == 0
        ratio = window.count / self.texts.count
        rows = float(window.hashed[empty].sum())
        found: list[tuple[str, float]] = []
        for key, n in window.named.items():
            if key in self.texts.named:
                continue
            new = n
            if not empty[bucket_of(key)]:
                rare = self.texts.bound(key) * ratio
                new = max(0.0, n - rare - 3.0 * math.sqrt(rare))
                rows += new
            if new and key in window.names:
                found.append((window.names[key], n))
        found.sort(key=lambda item: (-item[1], item[0]))
        return rows, found[:MAX_NAMED]

    def held_alone(self, window: Texts) -> float:
        """Rows of a window inside the baseline whose text no other window holds: what `unseen` would have
        found, had the window come after."""
        alone = (self.texts.hashed == window.hashed) & (window.hashed > 0)
        rows = float(window.hashed[alone].sum())
        for key, n in window.named.items():
            is_exact = not self.texts.bound(key) and not window.bound(key)
            if is_exact and not alone[bucket_of(key)] and self.texts.named.get(key) == n:
                rows += n
        return rows

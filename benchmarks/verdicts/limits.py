"""How surely rare pages are known: exact limits of a Poisson mean and of a share."""

from __future__ import annotations

import math
from collections.abc import Callable

from agent.judge.special import log_beta_binomial_tail, log_gamma_tail

SURE = 0.95


def upper_rate(count: int, sure: float = SURE) -> float:
    """One-sided upper limit of a Poisson mean after `count` events (Garwood 1936)."""

    # P(N <= count | mean) = Q(count + 1, mean)
    def is_likely(mean: float) -> bool:
        return math.exp(log_gamma_tail(count + 1.0, mean)) > 1.0 - sure

    return _last(is_likely, float(count), count + 20.0 + 6.0 * math.sqrt(count + 1.0))


def budget_kept(windows: int, pages: int, budget: float) -> float:
    """Windows between pages over the budget, as far as surely known."""
    return windows / upper_rate(pages) / budget


def lower_share(hits: int, of: int, sure: float = SURE) -> float:
    """One-sided lower limit of a share after `hits` of so many (Clopper and Pearson 1934)."""
    if not hits:
        return 0.0

    def is_unlikely(share: float) -> bool:
        # A binomial's tail as a beta-binomial's of next to no spread.
        many = 1e9
        tail = log_beta_binomial_tail(hits, of, many * share, many * (1.0 - share))
        return math.exp(tail) < 1.0 - sure

    return _last(is_unlikely, 1e-9, 1.0 - 1e-9)


def _last(holds: Callable[[float], bool], low: float, high: float) -> float:
    """Where a property that holds up to some point ends; by bisection."""
    while high - low > 1e-7 * max(1.0, high):
        middle = (low + high) / 2.0
        if holds(middle):
            low = middle
        else:
            high = middle
    return low

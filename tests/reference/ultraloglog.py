"""UltraLogLog as a set of ranks per register, cut down to a byte only when it is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from math import expm1, fsum, inf, sqrt


def registers(hashes: Iterable[int], p: int) -> list[int]:
    """The 2^p register bytes after these 64-bit hashes, in any order."""
    ranks: list[set[int]] = [set() for _ in range(1 << p)]
    for h in hashes:
        rest = h & ((1 << (64 - p)) - 1)
        ranks[h >> (64 - p)].add(64 - p - rest.bit_length() + 1)
    out = []
    for seen in ranks:
        if not seen:
            out.append(0)
            continue
        top = max(seen)
        out.append((top + p - 2) << 2 | (top - 1 in seen) << 1 | (top - 2 in seen))
    return out


def likely_count(registers: list[int], p: int) -> float:
    """The number of distinct values under which these registers are most likely; 0.0 for none.

    Distinct values arrive at each register as Poisson events of mean x = n / 2^p, of which rank k gets
    the share w_k: 2^-k, and the last rank 2^-(number of ranks - 1). A register is the set of its ranks,
    forgotten below the top one's second neighbour. The likelihood's slope in x is

        sum over ranks known to be seen of w / (exp(x w) - 1)  -  sum of w over ranks known to be unseen

    and falls in x, so bisection finds its zero. Infinite when no rank is known to be unseen.
    """
    n_ranks = 64 - p + 1
    weight = {k: 2.0**-k for k in range(1, n_ranks)} | {n_ranks: 2.0 ** -(n_ranks - 1)}
    seen: Counter[int] = Counter()
    unseen: Counter[int] = Counter()
    for register in registers:
        top = (register >> 2) - p + 2 if register else 0
        seen.update([top] if register else [])
        unseen.update(range(top + 1, n_ranks + 1))
        for rank, bit in ((top - 1, 2), (top - 2, 1)):
            if rank >= 1:
                (seen if register & bit else unseen)[rank] += 1
    if not seen:
        return 0.0
    if not unseen:
        return inf

    def slope(x: float) -> float:
        up = fsum(n * weight[k] / expm1(min(x * weight[k], 700.0)) for k, n in seen.items())
        return up - fsum(n * weight[k] for k, n in unseen.items())

    low, high = 1e-9, 2.0**64
    while high / low > 1 + 1e-13:
        middle = sqrt(low * high)
        if slope(middle) > 0:
            low = middle
        else:
            high = middle
    return len(registers) * low

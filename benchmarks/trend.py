"""Does a series of measurements grow? A rank test on medians of blocks, so that waves and spikes do not count.

Mann-Kendall: S counts pairs of blocks that rise less those that fall; without a trend it is normal with
variance n (n - 1) (2 n + 5) / 18 (Kendall, Rank Correlation Methods, 1975; ties make it conservative). How much
it grows: the median of the slopes between all pairs of blocks (Theil-Sen), times the length.
"""

from __future__ import annotations

import itertools
import math
import statistics
from dataclasses import dataclass

Points = list[tuple[float, float]]  # seconds, value; in order

BLOCKS = 12
#: A trend is one that chance gives less often than this.
LEVEL = 0.01
#: Left out of the judgement: at most this share of the run, and at most this long. Windows of a minute
#: fill and close, exports grow to their size, the allocator finds its level.
WARM_UP_SHARE, WARM_UP_S = 0.34, 600.0


@dataclass(frozen=True)
class Trend:
    """`level`: median of the last third. `growth`: over what was judged. `p`: of a growth or fall by chance."""

    level: float
    growth: float
    p: float

    @property
    def sure_growth(self) -> float:
        """0 when it may be chance, or falls."""
        return max(self.growth, 0.0) if self.p < LEVEL else 0.0


def judged_from_s(points: Points) -> float:
    """End of the warm-up."""
    return min(WARM_UP_S, WARM_UP_SHARE * points[-1][0])


def trend(points: Points) -> Trend:
    """Of what lies behind the warm-up. Raises ValueError with fewer points than two a block."""
    from_s = judged_from_s(points)
    after = [value for at, value in points if at >= from_s]
    if len(after) < 2 * BLOCKS:
        raise ValueError(f"{len(after)} points behind the warm-up; a trend needs {2 * BLOCKS}")
    edges = [round(i * len(after) / BLOCKS) for i in range(BLOCKS + 1)]
    blocks = [statistics.median(after[low:high]) for low, high in itertools.pairwise(edges)]
    pairs = list(itertools.combinations(range(BLOCKS), 2))
    s = sum((blocks[j] > blocks[i]) - (blocks[j] < blocks[i]) for i, j in pairs)
    deviation = math.sqrt(BLOCKS * (BLOCKS - 1) * (2 * BLOCKS + 5) / 18)
    z = max(abs(s) - 1, 0) / deviation
    slope = statistics.median((blocks[j] - blocks[i]) / (j - i) for i, j in pairs)
    level = statistics.median(after[-(len(after) // 3) :])
    return Trend(level, slope * (BLOCKS - 1), math.erfc(z / math.sqrt(2)))

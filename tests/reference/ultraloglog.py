"""UltraLogLog as a set of ranks per register, cut down to a byte only when it is read."""

from __future__ import annotations

from collections.abc import Iterable


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

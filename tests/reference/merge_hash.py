"""merge_hash, version 1, with Python integers."""

from __future__ import annotations

H0, H1, H2 = 0xA0761D6478BD642F, 0xE7037ED1A0B428DB, 0x8EBC6AF09C88C6E3
M = (1 << 64) - 1


def fold(a: int, b: int) -> int:
    """Both halves of the 128-bit product, xored."""
    product = a * b
    return (product >> 64) ^ (product & M)


def merge_hash(data: bytes) -> int:
    """64-bit hash of bytes; never 0 or 1."""
    h = 0
    for i in range(0, max(1, len(data)), 16):
        a = int.from_bytes(data[i : i + 8], "little")
        b = int.from_bytes(data[i + 8 : i + 16], "little")
        h = fold(a ^ H0 ^ h, b ^ H1)
    h = fold(h ^ len(data), H2)
    return h if h > 1 else h + 2


def value_hash(bits: int) -> int:
    """Hash of a float64's bits."""
    v0, v1, v2 = 0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93, 0xA0761D6478BD642F
    return fold(fold(bits ^ v0, v1) ^ bits, v2)

"""merge_hash: the fixed, versioned hash of a text (`kernels.hashing` has the definition)."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from agent.sketch.arrays import address_of, check
from agent.sketch.kernels import layout
from agent.sketch.kernels.hashing import hash_spans as _hash_spans

HASH_VERSION: Final = layout.HASH_VERSION


def merge_hash(data: bytes) -> int:
    """64-bit hash of UTF-8 bytes; never 0 or 1."""
    text = np.zeros(len(data) + layout.PADDING, np.uint8)
    text[: len(data)] = np.frombuffer(data, np.uint8)
    out = np.empty(1, np.uint64)
    hash_spans(text, np.zeros(1, np.int64), np.array([len(data)], np.int32), out)
    return int(out[0])


def hash_spans(
    text: NDArray[np.uint8],
    start: NDArray[np.int64],
    length: NDArray[np.int32],
    out: NDArray[np.uint64],
) -> None:
    """out[i] = merge_hash(text[start[i] : start[i] + length[i]]), in place.

    text  uint8[...] with at least 64 bytes behind the last span   start int64[n], length int32[n]
    out   uint64[n]

    Raises ValueError for a wrong shape or dtype, or a span too near the end of the text.
    """
    n = len(start)
    check(text, "text", np.dtype(np.uint8), (None,))
    check(start, "start", np.dtype(np.int64), (n,))
    check(length, "length", np.dtype(np.int32), (n,))
    check(out, "out", np.dtype(np.uint64), (n,))
    if n and (
        int(start.min()) < 0
        or int(length.min()) < 0
        or int((start + length).max()) + layout.PADDING > len(text)
    ):
        raise ValueError(
            f"a span is outside the text or less than {layout.PADDING} bytes from its end"
        )
    _hash_spans(address_of(text), address_of(start), address_of(length), n, address_of(out))

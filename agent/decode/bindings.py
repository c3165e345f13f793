"""Which stream number the rows of a (key hash, shape) have; bound when the orjson tier has made the first row.

Invariants
 1. A cache of one stream table: void when the table's generation changes.
 2. Bounded: past MAX_BOUND entries it begins again from nothing, which costs one orjson row a stream.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agent.decode.kernels.finish import (
    BOUND,
    FORGOTTEN,
    MAX_FRESH,
    REFUSED,
    SEEN,
    SLOT_BYTES,
    bind,
    move_slots,
)

MAX_BOUND = 1 << 16
_FIRST_SLOTS = 1024
_NO_WINDOW = -(1 << 63)


class Bindings:
    """The table of `kernels.finish`, and the windows each stream has had since the last cut.

    Memory: 32 to 64 bytes an entry; 32 bytes a stream.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget all streams."""
        self._use(np.zeros((_FIRST_SLOTS, SLOT_BYTES // 8), np.int64), 0)
        self._see(np.full((64, SEEN), _NO_WINDOW, np.int64))

    def _use(self, slots: NDArray[np.int64], n: int) -> None:
        self._slots = slots
        self._n = n
        self.address: int = slots.ctypes.data
        self.mask: int = len(slots) - 1

    def reserve(self) -> None:
        """Make room for the streams that one block of both tiers may bring."""
        wanted = 2 * (self._n + 2 * MAX_FRESH)
        if wanted <= len(self._slots):
            return
        if self._n > MAX_BOUND:
            self._use(np.zeros_like(self._slots), 0)
            return
        grown = np.zeros((2 * len(self._slots), SLOT_BYTES // 8), np.int64)
        old, n_old = self.address, len(self._slots)
        n = int(move_slots(old, n_old, grown.ctypes.data, len(grown) - 1))
        self._use(grown, n)

    def note_fresh(self, n: int) -> None:
        """A pass has entered n streams as pending."""
        self._n += n

    def bind(self, key_hash: np.uint64, shape: int, stream: int) -> None:
        """Rows of this key and shape are rows of this stream."""
        bind(self.address, self.mask, key_hash, shape, stream + BOUND)

    def refuse(self, key_hash: np.uint64, shape: int) -> None:
        """The orjson tier makes no rows of this key: leave them to it."""
        bind(self.address, self.mask, key_hash, shape, REFUSED)

    def forget(self, key_hash: np.uint64, shape: int) -> None:
        """As if never seen."""
        bind(self.address, self.mask, key_hash, shape, FORGOTTEN)

    def states(self) -> dict[tuple[int, int], int]:
        """State of each (key hash, shape), for tests."""
        used = self._slots[self._slots[:, 1] >> 32 != 0]
        keys = used[:, 0].view(np.uint64).tolist()
        shapes, states = (used[:, 1] & 0xFFFFFFFF).tolist(), (used[:, 1] >> 32).tolist()
        return dict(zip(zip(keys, shapes, strict=True), states, strict=True))

    # ------------------------------------------------------------ windows

    def fit_seen(self, n_streams: int) -> None:
        """Make room for the windows of this many streams."""
        if n_streams > self.n_seen:
            seen = np.full((2 * n_streams, SEEN), _NO_WINDOW, np.int64)
            seen[: self.n_seen] = self._seen
            self._see(seen)

    def _see(self, seen: NDArray[np.int64]) -> None:
        self._seen = seen
        self.n_seen = len(seen)
        self.seen_address: int = seen.ctypes.data

    def forget_windows(self) -> None:
        """After a cut: every (stream, window) needs new cells again."""
        self._seen[:] = _NO_WINDOW

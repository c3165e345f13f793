"""Memory for the kernels of a delta, in pieces that are kept from one cut to the next."""

from __future__ import annotations

import numpy as np

from agent.sketch.arrays import address_of
from agent.sketch.cells import Bytes, unset
from agent.sketch.kernels import arena

#: The system gives a piece's memory when it is first written, so a large piece costs an idle agent little.
PIECE_BYTES = 1 << 20


class Arena:
    """Pieces of memory behind a kernel's `arena`. One owner, no lock.

    `address` is what kernels take. After one has come back for want of memory call `grow`, and call it again.
    """

    def __init__(self, size_classes: int) -> None:
        self._fields = np.zeros(arena.FREE + size_classes, np.int64)
        self.address = address_of(self._fields)
        self._pieces: list[Bytes] = []
        self._in_use = 0  # pieces; the last of them is being filled
        self._filled_bytes = 0  # of those before it
        self._start = 0  # address of the last one

    @property
    def used_bytes(self) -> int:
        """Bytes handed out, with what was left over at the ends of pieces."""
        return self._filled_bytes + int(self._fields[arena.NEXT]) - self._start

    @property
    def peak(self) -> int:
        """Values in the fullest cell."""
        return int(self._fields[arena.PEAK])

    @property
    def size_bytes(self) -> int:
        """Bytes of all pieces."""
        return sum(len(piece) for piece in self._pieces)

    def grow(self) -> None:
        """Room for what a kernel wanted."""
        wanted = max(PIECE_BYTES, int(self._fields[arena.WANTED]))
        if self._in_use:
            self._filled_bytes += len(self._pieces[self._in_use - 1])
        if self._in_use < len(self._pieces) and len(self._pieces[self._in_use]) >= wanted:
            piece = self._pieces[self._in_use]
        else:
            piece = unset(wanted)
            del self._pieces[self._in_use :]
            self._pieces.append(piece)
        self._in_use += 1
        self._start = address_of(piece)
        self._fields[arena.NEXT] = self._start
        self._fields[arena.END] = self._start + len(piece)

    def reset(self) -> None:
        """Take back all that was handed out. Pieces that were not needed since the last time are let go."""
        del self._pieces[self._in_use :]
        self._in_use = 0
        self._filled_bytes = self._start = 0
        self._fields[:] = 0

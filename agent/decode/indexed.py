"""Where the records of a load lie in the arena."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agent.types import Record


class Unread(NamedTuple):
    """Offsets [offset, to_offset) that could not be read: at most that many records."""

    offset: int
    to_offset: int
    why: str


class Columns(NamedTuple):
    """Addresses (int64) of the columns of `Indexed`, for kernels."""

    offset: int
    timestamp_ms: int
    vpos: int
    vlen: int
    kpos: int
    klen: int
    hpos: int
    hlen: int
    hcount: int
    tpos: int
    tlen: int


def _column(name: str, doc: str) -> Any:
    """A column of `Indexed.rows` as a property: few are looked at outside of kernels, so none is made before."""
    at = Columns._fields.index(name)

    def column(index: Indexed) -> NDArray[np.int64]:
        return index.rows[at, : index.n]

    return property(column, doc=doc)


@dataclass(slots=True)
class Indexed:
    """Records of batches[lo:hi], in offset order. int64[n] each; positions count from the arena's start.

    A length of -1 is null (a tombstone, no key).
    """

    n: int
    hi: int  # the next load begins with this batch
    to_offset: int  # end of what batches[lo:hi] cover
    rows: NDArray[np.int64]  # [columns, n or more], as `Columns` names them
    address: int  # of the arena
    text: NDArray[np.uint8]  # the arena
    at: Columns
    unread: list[Unread] = field(default_factory=list)

    offset: ClassVar[Any] = _column("offset", "Of the records.")
    timestamp_ms: ClassVar[Any] = _column("timestamp_ms", "Below 0: none.")
    vpos: ClassVar[Any] = _column("vpos", "Where values begin.")
    vlen: ClassVar[Any] = _column("vlen", "Bytes of values.")
    kpos: ClassVar[Any] = _column("kpos", "Where keys begin.")
    klen: ClassVar[Any] = _column("klen", "Bytes of keys.")
    hpos: ClassVar[Any] = _column("hpos", "Where headers begin.")
    hlen: ClassVar[Any] = _column("hlen", "Bytes of all headers.")
    hcount: ClassVar[Any] = _column("hcount", "Headers.")
    tpos: ClassVar[Any] = _column(
        "tpos",
        "Where the value of the last header `traceparent`, of any case, that is not empty begins; -1 without one.",
    )
    tlen: ClassVar[Any] = _column("tlen", "Its bytes.")

    def record(self, row: int) -> Record:
        """A copy of one record; a header name that is not UTF-8 has U+FFFD in its place."""
        text = self.text
        klen, vlen = int(self.klen[row]), int(self.vlen[row])
        kpos, vpos = int(self.kpos[row]), int(self.vpos[row])
        return Record(
            int(self.offset[row]),
            int(self.timestamp_ms[row]),
            None if klen < 0 else text[kpos : kpos + klen].tobytes(),
            None if vlen < 0 else text[vpos : vpos + vlen].tobytes(),
            self.headers(row) if self.hcount[row] else (),
        )

    def headers(self, row: int) -> tuple[tuple[str, bytes | None], ...]:
        """The headers of one record."""
        start = int(self.hpos[row])
        raw = self.text[start : start + int(self.hlen[row])].tobytes()
        at = 0
        headers: list[tuple[str, bytes | None]] = []
        for _ in range(int(self.hcount[row])):
            size, at = _varint(raw, at)
            name = raw[at : at + size].decode("utf-8", "replace")
            at += size
            size, at = _varint(raw, at)
            if size < 0:
                headers.append((name, None))
            else:
                headers.append((name, raw[at : at + size]))
                at += size
        return tuple(headers)


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    """The zigzag varint at `at` and the position behind it; the index has checked that it is there."""
    bits = shift = 0
    while True:
        byte = raw[at]
        at += 1
        bits |= (byte & 127) << shift
        if byte < 128:
            return (bits >> 1) ^ -(bits & 1), at
        shift += 7

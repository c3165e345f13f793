"""Heads: the chunk id in a committed offset's metadata, `1;lineage;run;number`.

A chunk counts exactly when a head names it, or a later chunk of the lineage does. Number 0 names no
chunk: it is the genesis of a lineage, the offset at which its reading began.
"""

from __future__ import annotations

import re
import secrets

import msgspec

#: Of the metadata's form.
VERSION = "1"
_HEAD = re.compile(r"1;([0-9a-f]{8,64});([0-9a-f]{8,64});(0|[1-9][0-9]{0,17})")
_ID = re.compile(r"[0-9a-f]{8,64}")
_CHUNK_ID = re.compile(r"[0-9a-f]{8,64};[1-9][0-9]{0,17}")


class Head(msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    """Where one partition stands: `offset` is the next row; the chunk before it is (run id, number)."""

    lineage: str
    offset: int
    run_id: str
    number: int

    @property
    def chunk_id(self) -> str:
        """As in `PartitionRange.prev`; "" at the genesis of a lineage."""
        return chunk_id(self.run_id, self.number) if self.number else ""

    @property
    def metadata(self) -> str:
        """What the committed offset carries: less than 100 bytes."""
        return f"{VERSION};{self.lineage};{self.run_id};{self.number}"


def chunk_id(run_id: str, number: int) -> str:
    """The name of a chunk in `PartitionRange.prev`."""
    return f"{run_id};{number}"


def is_id(text: str) -> bool:
    """Whether this may be the id of a run or a lineage."""
    return _ID.fullmatch(text) is not None


def is_chunk_id(text: str) -> bool:
    """Whether a head may name it."""
    return _CHUNK_ID.fullmatch(text) is not None


def new_id() -> str:
    """A random id of a run or a lineage: 64 bits."""
    return secrets.token_hex(8)


def head_of(offset: int, metadata: str) -> Head | None:
    """The head in a committed offset; None when the metadata are not of this form."""
    found = _HEAD.fullmatch(metadata)
    if found is None:
        return None
    lineage, run_id, number = found.groups()
    return Head(lineage, offset, run_id, int(number))

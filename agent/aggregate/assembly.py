"""Puts the records of one shard together to whole chunks, in bounded memory.

Invariants
1. A chunk is whole when its manifest and all its parts are here.
2. Records that come twice change nothing; records that are not ours are counted and named.
3. What does not fit into memory is left in the topic: its position is remembered, and it is read
   again when it is wanted. `oldest` never passes a record that may still be wanted.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from agent.aggregate.decided import id_parts
from agent.errors import DecodeError
from agent.ingest.announcer import Announcer
from agent.state.parts import Manifest, Part, join, read_record
from agent.types import Chunk

log = logging.getLogger(__name__)

#: A chunk that stays incomplete for so many polls of a shard that answers was given up by its writer.
MAX_IDLE_POLLS: Final = 300
_PIECE_OVERHEAD_BYTES: Final = 200
#: Memory of a manifest, and of each of its ranges (measured with tracemalloc: 3.2 kB, and 390 bytes).
_MANIFEST_BYTES: Final = 3200
_RANGE_BYTES: Final = 400


@dataclass(slots=True)
class _Pieces:
    """What is here of one chunk."""

    first: int  # position of its first record
    manifest: Manifest | None = None
    parts: dict[int, bytes] = field(default_factory=dict)
    size_bytes: int = 0  # of parts and manifest, in memory
    idle_polls: int = 0

    @property
    def is_whole(self) -> bool:
        return self.manifest is not None and len(self.parts) == self.manifest.n_parts


class _Left(NamedTuple):
    """A chunk that is left in the topic: position of its first record, memory of its manifest."""

    first: int
    manifest_bytes: int


def _size_of(manifest: Manifest | None) -> int:
    return 0 if manifest is None else _MANIFEST_BYTES + _RANGE_BYTES * len(manifest.ranges)


class Assembly:
    """See the module. Memory: `max_bytes` of parts and manifests, or one chunk, whichever is more; and the
    manifests of chunks that are left in the topic, which `Accept` goes on holding."""

    def __init__(
        self,
        shard: int,
        n_shards: int,
        *,
        max_bytes: int,
        is_decided: Callable[[str], bool],
        is_named: Callable[[str], bool],
    ) -> None:
        """`is_named`: known to count; such chunks are the last to leave memory."""
        self._shard = shard
        self._n_shards = n_shards
        self._max_bytes = max_bytes
        self._is_decided = is_decided
        self._is_named = is_named
        self._chunks: dict[str, _Pieces] = {}
        self._left: dict[str, _Left] = {}
        self._announcer = Announcer(10.0)
        self._here_bytes = 0  # of `_chunks`
        self.n_foreign = 0

    def add(self, position: int, value: bytes | None) -> tuple[Manifest | None, Manifest | None]:
        """Take one record. Returns the manifest that it is, and that of a chunk which is whole now."""
        try:
            record = read_record(value)
            self._check(record)
        except (DecodeError, ValueError) as error:
            self.n_foreign += 1
            if self._announcer.may_say("foreign"):
                log.warning("chunk topic, position %d: left out: %s", position, error)
            return None, None
        manifest = record if isinstance(record, Manifest) else None
        return manifest, self._take_in(position, record)

    def _take_in(self, position: int, record: Part | Manifest) -> Manifest | None:
        """The manifest of the chunk if this record makes it whole."""
        chunk_id = record.chunk_id
        if self._is_decided(chunk_id):
            return None
        pieces = self._chunks.get(chunk_id)
        if pieces is None:
            if chunk_id in self._left:
                return None
            pieces = self._chunks[chunk_id] = _Pieces(first=position)
        if pieces.is_whole:
            return None
        is_whole = self._put(pieces, record)
        if is_whole:
            self._drop_given_up(chunk_id)
        self._make_room()
        return pieces.manifest if is_whole else None

    def _check(self, record: Part | Manifest) -> None:
        id_parts(record.chunk_id)
        if record.shard != self._shard:
            raise DecodeError(f"chunk {record.chunk_id}: a record of shard {record.shard}")
        if isinstance(record, Manifest) and record.n_shards != self._n_shards:
            raise DecodeError(
                f"chunk {record.chunk_id} was made for {record.n_shards} shards; the chunk topic has "
                f"{self._n_shards}. Give a changed number of shards a new topic"
            )

    def _put(self, pieces: _Pieces, record: Part | Manifest) -> bool:
        """True when the chunk is whole now."""
        pieces.idle_polls = 0
        size_bytes = 0
        if isinstance(record, Manifest):
            if pieces.manifest is None:
                pieces.manifest = record
                size_bytes = _size_of(record)
        elif record.index not in pieces.parts:
            pieces.parts[record.index] = record.data
            size_bytes = len(record.data) + _PIECE_OVERHEAD_BYTES
        pieces.size_bytes += size_bytes
        self._here_bytes += size_bytes
        return pieces.is_whole

    def take(self, chunk_id: str) -> Chunk:
        """The whole chunk, which leaves memory. Raises DecodeError when its parts are not its own."""
        pieces = self._chunks[chunk_id]
        manifest = pieces.manifest
        assert manifest is not None
        parts = [pieces.parts[index] for index in sorted(pieces.parts)]
        self.drop(chunk_id)
        return join(manifest, parts)

    def drop(self, chunk_id: str) -> None:
        """It is decided on, and not wanted again."""
        self._left.pop(chunk_id, None)
        pieces = self._chunks.pop(chunk_id, None)
        if pieces is not None:
            self._here_bytes -= pieces.size_bytes

    def has(self, chunk_id: str) -> bool:
        """Whether `take` would give it."""
        pieces = self._chunks.get(chunk_id)
        return pieces is not None and pieces.is_whole

    def is_left(self, chunk_id: str) -> bool:
        """Whether it was left in the topic for want of memory."""
        return chunk_id in self._left

    def reread(self, position: int) -> int | None:
        """Where to read again instead of at `position`, and now; None: nowhere.

        For the oldest chunk that counts: while that is here, another would be left in the topic again
        at once. For one that is not known to count only when nothing is here.
        """
        firsts = [pieces.first for one, pieces in self._chunks.items() if self._is_named(one)]
        named = min(
            (at.first for one, at in self._left.items() if self._is_named(one)), default=None
        )
        if named is None and not any(pieces.parts for pieces in self._chunks.values()):
            named = min((at.first for at in self._left.values()), default=None)
        if named is None or named > min(firsts, default=named) or named >= position:
            return None
        # The others behind it come past again as well.
        self._left = {one: at for one, at in self._left.items() if at.first < named}
        return named

    def polled(self) -> None:
        """The shard has answered: what did not grow for long was given up by its writer."""
        for chunk_id, pieces in list(self._chunks.items()):
            if not pieces.is_whole:
                pieces.idle_polls += 1
                if pieces.idle_polls > MAX_IDLE_POLLS and not self._is_named(chunk_id):
                    self.drop(chunk_id)

    @property
    def oldest(self) -> int | None:
        """Position of the oldest record that may still be wanted; None: there is none."""
        held = [pieces.first for pieces in self._chunks.values()]
        return min([*held, *(at.first for at in self._left.values())], default=None)

    @property
    def held_bytes(self) -> int:
        """Memory of parts and manifests, those of chunks that are left in the topic included."""
        return self._here_bytes + sum(at.manifest_bytes for at in self._left.values())

    # ------------------------------------------------------------ bounds

    def _drop_given_up(self, chunk_id: str) -> None:
        """A run writes one chunk at a time, so what is incomplete before a whole one stays so."""
        run_id, number = id_parts(chunk_id)
        for other, pieces in list(self._chunks.items()):
            other_run, other_number = id_parts(other)
            if other_run == run_id and other_number < number and not pieces.is_whole:
                self.drop(other)

    def _make_room(self) -> None:
        """Leave chunks with parts in the topic: those that are not known to count first, of those the youngest.

        The oldest that counts, or else the oldest, stays whatever its size: it is folded next.
        """
        if self._here_bytes <= self._max_bytes:
            return
        order = sorted(
            (chunk_id for chunk_id, pieces in self._chunks.items() if pieces.parts),
            key=lambda one: (self._is_named(one), -self._chunks[one].first),
        )
        for chunk_id in order[:-1]:
            if self._here_bytes <= self._max_bytes:
                return
            pieces = self._chunks.pop(chunk_id)
            self._here_bytes -= pieces.size_bytes
            manifest_bytes = _size_of(pieces.manifest) if pieces.is_whole else 0
            self._left[chunk_id] = _Left(pieces.first, manifest_bytes)
        size_bytes = self._chunks[order[-1]].size_bytes if order else 0
        if size_bytes > self._max_bytes and self._announcer.may_say("large"):
            log.warning(
                "chunk %s alone has %d bytes; aggregate.buffer_max_bytes is %d: raise it",
                order[-1],
                size_bytes,
                self._max_bytes,
            )

"""A volume: the journal and snapshots of one process, and the state that they make.

Invariants
 1. One process to a directory (`lock`), one thread to a Volume (the fold thread).
 2. An entry is put into the journal's order before the state takes it, and stays in memory until it is
    synced: whatever fails, the state is a function of the entries in that order.
 3. After a failed write or sync the file is never written again: what the disk holds of it is unknown.
    The entries that were not synced begin a new file, which is then the word on them.
 4. Two snapshots are kept, and the journal since the older one.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from agent.errors import StateError
from agent.fold.base import Fold
from agent.fold.effects import Effects
from agent.state.chunk import to_bytes
from agent.state.entries import (
    Answered,
    AnyEntry,
    Began,
    ChunkWritten,
    Export,
    Renewed,
    entry_to_bytes,
)
from agent.state.files import TEMPORARY, Files
from agent.state.heads import new_id
from agent.state.journal import JournalWriter, Origin, first_of
from agent.state.lock import DirectoryLock
from agent.state.recovery import FoldCodec, Owner, Recovered, find_instance_id, recover
from agent.state.snapshots import Heading, last_of, write_snapshot
from agent.telemetry import Telemetry
from agent.types import Chunk, Snapshot

log = logging.getLogger(__name__)

DAMAGED = ".damaged"
#: Numbers of entries jump by this much when some may be lost: no file then knows of one like it.
JUMP = 1_000_000_000
#: Before a restart takes chunks again it reads them, cell by cell: so long for each, and so fast its bytes. (Fitted
#: to 18,347 small cells, 6.4 MB, in 0.68 s, and 3,000 larger ones, 6.8 MB, in 0.16 s, on a busy machine.)
READ_CELL_S = 35e-6
READ_BYTES_PER_S = 100e6
#: Ids of processes remembered: heads of older ones read as another's.
MAX_RUNS = 1000


class Volume:
    """Made where the process starts, opened and used by the fold thread.

    Memory: entries that are not synced yet; one chunk among them at most. Raises StateError, with the
    path and what to do.
    """

    def __init__(
        self,
        directory: Path,
        owner: Owner,
        codec: FoldCodec,
        telemetry: Telemetry,
        *,
        files: Files | None = None,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        """Make the directory, lock it, and look for `instance_id`."""
        self._directory = directory
        self._owner = owner
        self._codec = codec
        self._telemetry = telemetry
        self._files = files or Files()
        self._clock = clock
        try:
            self._files.make_directory(directory)
        except OSError as error:
            raise StateError(
                f"{owner.volume_option} {directory} cannot be made: {error.strerror}; mount a volume "
                "that this process may write to"
            ) from None
        self._lock = DirectoryLock(directory, owner.volume_option)
        self.instance_id = find_instance_id(self._files, directory)
        self.run_id = new_id()
        self.snapshot_ns = 0  # when the newest snapshot was taken; 0: none by this process
        self.state = codec.journalled()
        self._writer: JournalWriter | None = None
        self._pending: list[bytes] = []
        self._has_pending_chunk = False
        self._durable = 0
        self._bytes_since_snapshot = 0
        self._replay_s = 0.0

    @property
    def fold(self) -> Fold:
        return self.state.fold

    # -- opening

    def open(self) -> Recovered:
        """Read what is there, and begin: entries may be taken when this returns."""
        found = recover(self._files, self._directory, self._owner, self._codec)
        self.state = found.state
        for reason, text in found.troubles:
            log.warning("%s: %s", self._directory, text)
            self._telemetry.add("inferometer.state.fallbacks", reason=reason)
        self._durable = found.last if found.exact else found.highest + JUMP
        now_ns = self._clock()
        had_fold = self.state.has_fold()
        self.take(Began(self.run_id, now_ns))
        if not found.exact and had_fold:
            self.take(Renewed(now_ns, found.troubles[-1][1]))
        del self.state.runs[:-MAX_RUNS]
        if not found.exact:
            # The files at hand do not lead here: a snapshot must, before anything else is written.
            self._durable += len(self._pending)
            self._pending.clear()
        self.sync()
        if found.damaged or not found.exact:
            self._write_snapshot()
            self._set_aside(found.damaged)
            self._prune()
        return found

    def _set_aside(self, damaged: list[str]) -> None:
        """Keep the damaged files, and only the last ones, for whoever wants to know."""
        with self._errors("cleaned"):
            for name in self._files.names(self._directory):
                if name.endswith(DAMAGED):
                    self._files.unlink(self._directory / name)
            for name in damaged:
                path = self._directory / name
                self._files.rename(path, path.with_name(name + DAMAGED))
            self._files.sync_directory(self._directory)

    # -- entries

    def take(
        self, entry: AnyEntry, *, sync: bool = False, chunk: Chunk | None = None
    ) -> Effects | Snapshot | None:
        """Put an entry into the journal's order and apply it; returns what the state made of it.

        With `sync`, it and all before it are durable when this returns. Raises StateError when they
        are not: the entry is taken all the same, and waits for the next `sync`.
        """
        if isinstance(entry, ChunkWritten):
            self._has_pending_chunk = True
        if isinstance(entry, Answered) and not entry.accepted and self._has_pending_chunk:
            self._drop_pending_chunk()
            self.state.unanswered = None
            return None
        self._pending.append(entry_to_bytes(entry))
        began = time.thread_time()
        result = self.state.take(entry, chunk)
        self._replay_s += time.thread_time() - began + len(self._pending[-1]) / READ_BYTES_PER_S
        if chunk is not None:
            self._replay_s += (len(chunk.numeric) + len(chunk.strings)) * READ_CELL_S
        if sync:
            self.sync()
        return result

    def export(self, now_ns: int, *, zeros: bool) -> Snapshot:
        """An export of the fold, durable when this returns. Raises StateError: nothing may leave."""
        began = time.thread_time()
        snapshot = self.fold.export(now_ns, zeros=zeros)
        self._replay_s += time.thread_time() - began
        # Its own time, not `now_ns`: scrapes move the fold's clock, and are not in the journal.
        self._pending.append(entry_to_bytes(Export(snapshot.time_ns, zeros)))
        self.sync()
        return snapshot

    def scrape(self, now_ns: int) -> Snapshot:
        """Every series' value now, all of it durable. Raises StateError: nothing may be seen."""
        self.sync()
        return self.fold.snapshot(now_ns)

    def _drop_pending_chunk(self) -> None:
        """A chunk that no disk has seen is forgotten: on a full disk they would pile up."""
        mark = entry_to_bytes(ChunkWritten(b""))[:2]
        self._pending = [data for data in self._pending if data[:2] != mark]
        self._has_pending_chunk = False

    def sync(self) -> None:
        """Everything taken so far is durable when this returns. Raises StateError."""
        if not self._pending:
            return
        started = time.perf_counter()
        try:
            if self._writer is None:
                origin = self._origin(self._durable + 1)
                self._writer = JournalWriter(self._files, self._directory, origin)
            size_bytes = self._writer.append(self._pending)
        except OSError as error:
            self._leave_file()
            self._telemetry.add("inferometer.journal.errors")
            raise self._error("written", error, "Nothing is committed until then") from None
        self._durable += len(self._pending)
        self._bytes_since_snapshot += size_bytes
        self._telemetry.add("inferometer.journal.entries", len(self._pending))
        self._telemetry.add("inferometer.journal.bytes", size_bytes)
        self._telemetry.record("inferometer.journal.sync.duration", time.perf_counter() - started)
        self._pending.clear()
        self._has_pending_chunk = False

    @property
    def durable(self) -> bool:
        """Nothing waits to be synced."""
        return not self._pending

    def made_durable(self) -> bool:
        """Whether all that was taken so far may leave: `sync`, for who can wait where the disk cannot be written."""
        try:
            self.sync()
        except StateError:
            return False
        return True

    def _leave_file(self) -> None:
        if self._writer is not None:
            with contextlib.suppress(OSError):
                self._writer.close()
            self._writer = None

    # -- snapshots

    @property
    def bytes_since_snapshot(self) -> int:
        """Bytes of journal that a restart would replay, of this process."""
        return self._bytes_since_snapshot

    @property
    def replay_s(self) -> float:
        """About so much processor time takes it to take the journal since the last snapshot again."""
        return self._replay_s

    def snapshot(self) -> None:
        """Write a snapshot, so that the journal before the last one may go. Raises StateError."""
        self.sync()
        self._write_snapshot()
        self._prune()

    def _write_snapshot(self) -> None:
        started = time.perf_counter()
        now_ns = self._clock()
        state = self.state
        heading = Heading(
            self._origin(self._durable),
            now_ns,
            state.runs,
            sorted(state.heads.items()),
            to_bytes(state.unanswered) if state.unanswered is not None else b"",
        )
        body = self._codec.dump(state.fold)
        with self._errors("written"):
            size_bytes = write_snapshot(self._files, self._directory, heading, body)
        self._leave_file()  # the next entry begins a file, so that those before it may go
        self.snapshot_ns = now_ns
        self._bytes_since_snapshot = 0
        self._replay_s = 0.0
        self._telemetry.set("inferometer.snapshot.bytes", size_bytes)
        self._telemetry.record("inferometer.snapshot.duration", time.perf_counter() - started)

    def _prune(self) -> None:
        """Remove what neither of the two newest snapshots needs."""
        with self._errors("cleaned"):
            names = self._files.names(self._directory)
            for name in superfluous(names):
                self._files.unlink(self._directory / name)

    # -- the end

    def close(self) -> None:
        """Let go of files and lock; what was not synced is lost, as in a crash."""
        self._leave_file()
        self._lock.release()

    def _origin(self, entry: int) -> Origin:
        owner = self._owner
        return Origin(owner.group, list(owner.topics), self.instance_id, self.run_id, entry)

    @contextlib.contextmanager
    def _errors(self, verb: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._telemetry.add("inferometer.journal.errors")
            raise self._error(verb, error, "Until then the journal grows") from None

    def _error(self, verb: str, error: OSError, until_then: str) -> StateError:
        return StateError(
            f"{self._directory} cannot be {verb}: {os.strerror(error.errno or 0)}; make room on the "
            f"volume, or mount it writable. {until_then}"
        )


def superfluous(names: Iterable[str]) -> list[str]:
    """Files that neither of the two newest snapshots needs; all is needed while there is only one."""
    names = list(names)
    snapshots = sorted(n for name in names if (n := last_of(name)) is not None)[-2:]
    oldest = snapshots[0] if len(snapshots) > 1 else 0
    firsts = sorted(n for name in names if (n := first_of(name)) is not None)
    needed = {*[n for n in firsts if n <= oldest + 1][-1:], *(n for n in firsts if n > oldest + 1)}
    out = []
    for name in names:
        last, first = last_of(name), first_of(name)
        is_old = (last is not None and last not in snapshots) or (
            first is not None and first not in needed
        )
        if is_old or name.endswith(TEMPORARY):
            out.append(name)
    return out

"""From the files of a volume to what they say: the newest snapshot that is whole, and the journal behind it.

Invariants
 1. Only bytes whose checksum is right are used. Bytes that are right and yet cannot be used (newer,
    another group's, another configuration's) stop the start: nothing is thrown away for them.
 2. `exact`: every entry that was ever relied upon is in what was recovered. A torn end was not. (An end of
    synced entries that somebody cut off looks the same; only the group's offsets know of it.)
 3. Not exact: what was recovered is what held at some earlier entry. Values that left since may have been
    larger, so series need new start times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from agent.errors import DecodeError, StateError
from agent.fold.base import Fold
from agent.state.chunk import from_bytes
from agent.state.entries import entry_from_bytes
from agent.state.files import Files
from agent.state.journal import End, NewerVersionError, Origin, first_of, read_journal
from agent.state.journalled import Beside, Journalled, MakeFold
from agent.state.snapshots import SnapshotFile, last_of, read_snapshot


@dataclass(frozen=True, slots=True)
class FoldCodec:
    """How folds are made, written and read, under this process's configuration.

    `beside`: what is kept with the fold; then `dump` and `load` are of both.
    """

    make: MakeFold
    dump: Callable[[Fold], bytes]
    load: Callable[[bytes], Fold]
    beside: Beside | None = None

    def journalled(self, fold: Fold | None = None) -> Journalled:
        return Journalled(self.make, fold, self.beside)


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose rows the state must be of, and the options that say so, for messages."""

    group: str
    topics: tuple[str, ...]
    volume_option: str = "delivery.volume_path"
    group_option: str = "kafka.group_id"


@dataclass(slots=True)
class Recovered:
    """What the files say.

    last         number of the last entry in `state`
    highest      no file knows of an entry, or the like of one, above this number
    exact        see the module's invariant 2
    troubles     (reason, sentence) of everything that was wrong
    damaged      names of files that are not what was written
    n_replayed   entries taken from the journal
    n_cut_bytes  torn off the journal's end
    """

    state: Journalled
    last: int = 0
    highest: int = 0
    exact: bool = True
    instance_id: str = ""
    troubles: list[tuple[str, str]] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    n_replayed: int = 0
    n_cut_bytes: int = 0

    @property
    def is_new(self) -> bool:
        """There was nothing to recover, and nothing was wrong."""
        return self.last == 0 and self.exact


def recover(files: Files, directory: Path, owner: Owner, codec: FoldCodec) -> Recovered:
    """Read everything. Raises StateError when the files must not be used, or cannot be read."""
    return _Recovery(files, directory, owner, codec).run()


def find_instance_id(files: Files, directory: Path) -> str:
    """`service.instance.id` of the newest file that has one; "" when there is none."""
    names = _names(files, directory)
    journals = sorted((n for n in names if first_of(n) is not None), reverse=True)
    snapshots = sorted((n for n in names if last_of(n) is not None), reverse=True)
    for name in journals + snapshots:
        data = _read(files, directory / name)
        try:
            if name in journals:
                return read_journal(data, name, upto=0).origin.instance_id
            return read_snapshot(data, name).heading.origin.instance_id
        except DecodeError:
            continue
    return ""


class _Recovery:
    def __init__(self, files: Files, directory: Path, owner: Owner, codec: FoldCodec) -> None:
        self._files = files
        self._directory = directory
        self._owner = owner
        self._codec = codec
        self._out = Recovered(codec.journalled())

    def run(self) -> Recovered:
        names = _names(self._files, self._directory)
        journals = {n: name for name in names if (n := first_of(name)) is not None}
        snapshots = {n: name for name in names if (n := last_of(name)) is not None}
        self._out.highest = max([0, *(n - 1 for n in journals), *snapshots])
        self._load_snapshot([snapshots[n] for n in sorted(snapshots, reverse=True)])
        if self._out.last == 0 and self._out.damaged and 1 not in journals:
            self._not_exact("no snapshot is whole", "everything counted so far is lost")
        else:
            self._replay(sorted(journals), journals)
        self._out.highest = max(self._out.highest, self._out.last)
        return self._out

    # -- snapshots

    def _load_snapshot(self, names: Iterable[str]) -> None:
        for name in names:
            data = _read(self._files, self._directory / name)
            try:
                snapshot = read_snapshot(data, name)
            except NewerVersionError as error:
                raise self._newer(error) from None
            except DecodeError as error:
                self._damage(name, "snapshot", f"{error}; the one before it is used")
                continue
            self._use(name, snapshot)
            return

    def _use(self, name: str, snapshot: SnapshotFile) -> None:
        heading = snapshot.heading
        self._check_owner(name, heading.origin)
        try:
            fold = self._codec.load(snapshot.body)
            waiting = from_bytes(heading.unanswered) if heading.unanswered else None
        except DecodeError as error:  # its checksum is right: not damage
            raise StateError(
                f"{self._directory / name} was written by another version of this program "
                f"({error}); use that version, or move the directory away to start from nothing"
            ) from None
        state = self._out.state = self._codec.journalled(fold)
        state.heads = dict(heading.heads)
        state.runs = list(heading.runs)
        state.unanswered = waiting
        self._out.last = heading.origin.entry
        self._out.instance_id = heading.origin.instance_id

    # -- journal

    def _replay(self, firsts: list[int], names: dict[int, str]) -> None:
        out = self._out
        for index, first in enumerate(firsts):
            following = firsts[index + 1] if index + 1 < len(firsts) else None
            if following is not None and following <= out.last + 1:
                continue  # all of it is in the snapshot
            name = names[first]
            if first > out.last + 1:
                self._not_exact(
                    "missing", f"entries {out.last + 1} to {first - 1} of the journal are missing"
                )
                return
            if not self._replay_file(name, None if following is None else following - 1):
                return

    def _replay_file(self, name: str, upto: int | None) -> bool:
        """Take the file's entries; False when what follows must not be taken any more."""
        out = self._out
        try:
            file = read_journal(_read(self._files, self._directory / name), name, upto)
        except NewerVersionError as error:
            raise self._newer(error) from None
        except DecodeError as error:
            self._damage(name, "journal", str(error))
            self._not_exact("journal", f"{name} and what follows it is lost")
            return False
        self._check_owner(name, file.origin)
        for payload in file.payloads[max(0, out.last + 1 - file.origin.entry) :]:
            self._take(name, payload)
        out.instance_id = file.origin.instance_id
        is_short = upto is not None and out.last < upto  # the next file goes on further on
        if is_short and file.end is End.WHOLE:
            self._not_exact(
                "missing", f"entries {out.last + 1} to {upto} of the journal are missing"
            )
            return False
        if file.end is End.DAMAGED or is_short:
            self._damage(name, "journal", f"{name} is damaged behind entry {out.last}")
            self._not_exact("journal", f"what follows entry {out.last} is lost")
            return False
        if upto is None and file.end is End.TORN:
            out.n_cut_bytes = file.n_cut_bytes
            out.troubles.append(
                (
                    "torn",
                    f"{name}: {file.n_cut_bytes} bytes behind its last whole entry are cut off",
                )
            )
        return True

    def _take(self, name: str, payload: memoryview) -> None:
        out = self._out
        try:
            out.state.take(entry_from_bytes(payload))
        except DecodeError as error:  # its checksum is right: not damage
            raise StateError(
                f"{self._directory / name}: entry {out.last + 1} cannot be used ({error}); use the "
                "version of this program that wrote it, or move the directory away to start from nothing"
            ) from None
        out.last += 1
        out.n_replayed += 1

    # -- troubles

    def _damage(self, name: str, reason: str, text: str) -> None:
        self._out.damaged.append(name)
        self._out.troubles.append((reason, text))

    def _not_exact(self, reason: str, text: str) -> None:
        self._out.exact = False
        self._out.troubles.append((reason, f"{text}; every series takes a new start time"))

    def _newer(self, error: NewerVersionError) -> StateError:
        return StateError(
            f"{self._directory}: {error}; start that version, or move the directory away to start "
            "from nothing"
        )

    def _check_owner(self, name: str, origin: Origin) -> None:
        owner, place = self._owner, self._directory / name
        if origin.group != owner.group:
            raise StateError(
                f"{place} belongs to consumer group {origin.group!r}; {owner.group_option} is "
                f"{owner.group!r}; correct one, or choose another {owner.volume_option}"
            )
        if not set(origin.topics) & set(owner.topics):
            raise StateError(
                f"{place} belongs to topics {', '.join(origin.topics)}; none of them is among "
                f"{', '.join(owner.topics)}; choose another {owner.volume_option}"
            )


def _names(files: Files, directory: Path) -> list[str]:
    try:
        return files.names(directory)
    except OSError as error:
        raise StateError(f"{directory} cannot be listed: {error.strerror}") from None


def _read(files: Files, path: Path) -> bytes:
    try:
        return files.read(path)
    except OSError as error:
        raise StateError(
            f"{path} cannot be read: {error.strerror}; check the disk and the file's owner"
        ) from None

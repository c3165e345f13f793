"""Volumes that are damaged, foreign, too new, full, read-only or in use: what is said, what is kept."""

from __future__ import annotations

import errno
import os
import random
import signal
import stat
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.errors import DecodeError, StateError
from agent.state.chunk import to_bytes
from agent.state.entries import Answered, ChunkWritten, Tick
from agent.state.files import Files
from agent.state.journal import read_journal
from agent.state.recovery import Owner
from agent.state.snapshots import read_snapshot
from agent.state.volume import Volume, superfluous
from agent.telemetry import Telemetry
from tests.support.fold_inputs import CODEC, chunk
from tests.support.process import OwnedProcess
from tests.support.wait import eventually_sync

OWNER = Owner("g", ("t",))


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., Volume]]:
    """Opens volumes on one directory, one after the other."""
    volumes: list[Volume] = []

    def open_volume(owner: Owner = OWNER, files: Files | None = None) -> Volume:
        for volume in volumes:
            volume.close()
        volumes.clear()
        volume = Volume(tmp_path, owner, CODEC, Telemetry(), files=files, clock=lambda: 5)
        volumes.append(volume)
        volume.found = volume.open()  # type: ignore[attr-defined]
        return volume

    yield open_volume
    for volume in volumes:
        volume.close()


def fill(volume: Volume, n: int, *, number: int = 0) -> None:
    """`n` chunks that count."""
    for i in range(number + 1, number + n + 1):
        made = chunk(volume.run_id, i, i, i + 1)
        volume.take(ChunkWritten(to_bytes(made)), chunk=made, sync=True)
        volume.take(Answered(i, True, [], 100 + i), sync=True)


def chunks_of(volume: Any) -> list[int]:
    return [entry[2] for entry in volume.fold.seen if entry[0] == "chunk"]


def named(folder: Path, kind: str) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.name.startswith(kind) and p.suffix != ".damaged")


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x40
    path.write_bytes(data)


def test_a_new_volume_holds_private_files_and_says_nothing(opened: Any, tmp_path: Path) -> None:
    volume = opened()
    fill(volume, 2)
    volume.snapshot()
    assert volume.found.is_new
    assert stat.S_IMODE((tmp_path / "lock").stat().st_mode) == 0o600
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert not list(tmp_path.glob("*.tmp"))


def test_a_new_directory_is_private(tmp_path: Path) -> None:
    volume = Volume(tmp_path / "a" / "b", OWNER, CODEC, Telemetry())
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700
    volume.close()


@pytest.mark.parametrize("is_in_snapshot", [False, True])
def test_positions_runs_and_the_unanswered_chunk_come_back(
    opened: Any, is_in_snapshot: bool
) -> None:
    volume = opened()
    fill(volume, 3)
    volume.snapshot()
    fill(volume, 1, number=3)
    made = chunk(volume.run_id, 5, 5, 9)
    volume.take(ChunkWritten(to_bytes(made)), chunk=made, sync=True)
    if is_in_snapshot:
        volume.snapshot()
    run_id, heads = volume.run_id, volume.state.heads
    again = opened()
    assert again.state.heads == heads
    assert again.state.runs == [run_id, again.run_id]
    assert again.state.unanswered.number == 5
    assert again.state.unanswered.ranges == made.ranges
    assert chunks_of(again) == [1, 2, 3, 4]


def test_two_snapshots_are_kept_and_the_journal_since_the_older_one(
    opened: Any, tmp_path: Path
) -> None:
    volume = opened()
    for i in range(5):
        fill(volume, 2, number=2 * i)
        volume.snapshot()
    assert len(named(tmp_path, "snapshot-")) == 2
    assert len(named(tmp_path, "journal-")) == 1
    assert chunks_of(opened()) == list(range(1, 11))


def test_a_damaged_newest_snapshot_costs_nothing_but_time(opened: Any, tmp_path: Path) -> None:
    volume = opened()
    for i in range(3):
        fill(volume, 2, number=2 * i)
        volume.snapshot()
    fill(volume, 1, number=6)
    newest = named(tmp_path, "snapshot-")[-1]
    for at in (0, 4, 40, newest.stat().st_size // 2, newest.stat().st_size - 1):
        flip(newest, at)
        seen = list(volume.fold.seen)
        volume = opened()
        assert volume.found.exact
        assert volume.fold.seen == seen  # no renewal: nothing was lost
        assert volume.found.damaged == [newest.name]
        assert "the one before it is used" in volume.found.troubles[0][1]
        assert (tmp_path / f"{newest.name}.damaged").exists()
        newest = named(tmp_path, "snapshot-")[-1]


@pytest.mark.parametrize("cut", [1, 5, 100])
def test_a_truncated_snapshot_costs_nothing_but_time(opened: Any, tmp_path: Path, cut: int) -> None:
    volume = opened()
    fill(volume, 2)
    volume.snapshot()
    newest = named(tmp_path, "snapshot-")[-1]
    os.truncate(newest, max(0, newest.stat().st_size - cut))
    volume = opened()
    assert volume.found.exact
    assert chunks_of(volume) == [1, 2]


def test_with_both_snapshots_damaged_counting_begins_anew_and_says_so(
    opened: Any, tmp_path: Path
) -> None:
    volume = opened()
    for i in range(3):
        fill(volume, 2, number=2 * i)
        volume.snapshot()
    for path in named(tmp_path, "snapshot-"):
        flip(path, 60)
    volume = opened()
    assert not volume.found.exact
    assert volume.fold.seen == [["start", 5]]
    assert any("every series takes a new start time" in text for _, text in volume.found.troubles)
    # What was begun anew survives in its turn.
    fill(volume, 1)
    assert chunks_of(opened()) == [1]


def test_damage_of_what_was_synced_falls_back_and_renews_every_series(
    opened: Any, tmp_path: Path
) -> None:
    volume = opened()
    fill(volume, 2)
    volume.snapshot()
    fill(volume, 4, number=2)
    journal = named(tmp_path, "journal-")[-1]
    flip(journal, journal.stat().st_size // 2)
    volume = opened()
    assert not volume.found.exact
    kept = chunks_of(volume)
    assert kept[:2] == [1, 2] and kept == list(range(1, len(kept) + 1)) and len(kept) < 6
    assert volume.fold.seen[-1] == ["renew", 5]
    again = opened()
    assert again.found.exact  # said once
    if (waiting := again.state.unanswered) is not None:  # it survived the fall-back
        again.take(Answered(waiting.number, True, [], 6))
        kept.append(waiting.number)
    fill(again, 1, number=90)
    again = opened()
    assert chunks_of(again) == [*kept, 91]
    assert again.fold.seen.count(["renew", 5]) == 1


def test_a_lost_file_in_the_middle_falls_back(opened: Any, tmp_path: Path) -> None:
    for i in range(3):
        fill(opened(), 2, number=2 * i)
    named(tmp_path, "journal-")[1].unlink()
    volume = opened()
    assert not volume.found.exact
    assert chunks_of(volume) == [1, 2]
    assert any("are missing" in text for _, text in volume.found.troubles)


def test_every_truncation_of_the_journal_keeps_the_entries_before_it(
    opened: Any, tmp_path: Path
) -> None:
    volume = opened()
    fill(volume, 4)
    seen = list(volume.fold.seen)
    journal = named(tmp_path, "journal-")[-1]
    whole = journal.read_bytes()
    header = read_journal(whole, journal.name, upto=0).n_cut_bytes
    others = {p: p.read_bytes() for p in tmp_path.iterdir() if p.name != "lock"}
    for length in range(len(whole) - header, len(whole), 7):
        for path in tmp_path.iterdir():
            if path.name != "lock":
                path.unlink()
        for path, data in others.items():
            path.write_bytes(data)
        journal.write_bytes(whole[:length])
        volume = opened()
        found = volume.fold.seen
        if found == [["start", 5]]:
            continue  # not even the process's own first entry
        assert found == seen[: len(found)]
        assert volume.found.exact


def test_another_group_or_other_topics_are_refused(opened: Any, tmp_path: Path) -> None:
    fill(opened(), 1)
    with pytest.raises(StateError, match=r"belongs to consumer group 'g'; kafka.group_id is 'h'"):
        opened(Owner("h", ("t",)))
    with pytest.raises(StateError, match="belongs to topics t; none of them is among u"):
        opened(Owner("g", ("u",)))
    options = {"volume_option": "aggregate.volume_path", "group_option": "the group of aggregate.x"}
    expected = (
        "the group of aggregate.x is 'h'; correct one, or choose another aggregate.volume_path"
    )
    with pytest.raises(StateError, match=expected):
        opened(Owner("h", ("t",), **options))
    with pytest.raises(StateError, match=r"among u; choose another aggregate\.volume_path"):
        opened(Owner("g", ("u",), **options))
    assert chunks_of(opened(Owner("g", ("u", "t")))) == [1]


def newer(data: bytes, at: int) -> bytes:
    """A whole file of version 9: `at` is where its checksum stands."""
    changed = data[:4] + struct.pack("<H", 9) + data[6:at]
    return changed + struct.pack("<I", zlib.crc32(changed)) + data[at + 4 :]


def test_a_newer_snapshot_or_journal_stops_the_start_and_changes_nothing(
    opened: Any, tmp_path: Path
) -> None:
    volume = opened()
    fill(volume, 1)
    volume.snapshot()
    fill(volume, 1, number=1)
    volume.close()
    snapshot, journal = named(tmp_path, "snapshot-")[-1], named(tmp_path, "journal-")[-1]
    (length,) = struct.unpack_from("<I", journal.read_bytes(), 12)
    for path, at in ((snapshot, snapshot.stat().st_size - 4), (journal, 16 + length)):
        before = path.read_bytes()
        path.write_bytes(newer(before, at))
        inventory = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.name != "lock"}
        again = Volume(tmp_path, OWNER, CODEC, Telemetry())
        with pytest.raises(StateError, match="has version 9; this program reads up to 1"):
            again.open()
        again.close()
        assert inventory == {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.name != "lock"}
        path.write_bytes(before)


def test_a_snapshot_of_a_fold_that_cannot_be_read_is_not_thrown_away(
    opened: Any, tmp_path: Path
) -> None:
    volume = opened()
    fill(volume, 1)
    heading = read_snapshot_of(volume, tmp_path)
    from agent.state.snapshots import write_snapshot

    write_snapshot(Files(), tmp_path, heading, b"from another world")
    volume.close()
    again = Volume(tmp_path, OWNER, CODEC, Telemetry())
    with pytest.raises(StateError, match="was written by another version of this program"):
        again.open()
    again.close()


def read_snapshot_of(volume: Volume, folder: Path) -> Any:
    volume.snapshot()
    newest = named(folder, "snapshot-")[-1]
    return read_snapshot(newest.read_bytes(), newest.name).heading


def test_a_second_process_is_refused_with_the_pid_of_the_first(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib, time\n"
        "from agent.state.lock import DirectoryLock\n"
        "lock = DirectoryLock(pathlib.Path(sys.argv[1]))\n"
        "print('held', flush=True)\n"
        "time.sleep(60)\n"
    )
    log = tmp_path / "log"
    holder = OwnedProcess([sys.executable, "-c", code, tmp_path], log_path=log)
    try:
        eventually_sync(lambda: "held" in log.read_text())
        with pytest.raises(StateError, match=f"in use by process {holder.pid}"):
            Volume(tmp_path, OWNER, CODEC, Telemetry())
        aggregator = Owner("g", ("t",), volume_option="aggregate.volume_path")
        with pytest.raises(StateError, match=r"give this one another aggregate\.volume_path"):
            Volume(tmp_path, aggregator, CODEC, Telemetry())
    finally:
        holder.kill()
    Volume(tmp_path, OWNER, CODEC, Telemetry()).close()


class Full(Files):
    """A disk without room, until `room`."""

    def __init__(self) -> None:
        self.room = True

    def write(self, fd: int, data: bytes) -> None:
        if not self.room:
            super().write(fd, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        super().write(fd, data)


def test_a_full_disk_is_said_and_what_waited_is_written_when_there_is_room(
    opened: Any, tmp_path: Path
) -> None:
    files = Full()
    volume = opened(files=files)
    fill(volume, 1)
    files.room = False
    made = chunk(volume.run_id, 2, 2, 3)
    with pytest.raises(StateError, match=r"cannot be written: No space left on device; make room"):
        volume.take(ChunkWritten(to_bytes(made)), chunk=made, sync=True)
    with pytest.raises(StateError):
        volume.sync()
    assert not list(tmp_path.glob("*.tmp"))
    files.room = True
    volume.sync()
    volume.take(Answered(2, True, [], 102), sync=True)
    seen = list(volume.fold.seen)
    assert opened().fold.seen == seen


def test_what_waits_is_made_durable_for_who_wants_to_leave_and_a_full_disk_is_a_no(
    opened: Any,
) -> None:
    files = Full()
    volume = opened(files=files)
    volume.take(Tick(1))
    assert not volume.durable
    assert volume.made_durable() and volume.durable
    volume.take(Tick(2))
    files.room = False
    assert not volume.made_durable() and not volume.durable
    files.room = True
    assert volume.made_durable() and volume.made_durable()
    ticks = [entry[1] for entry in opened().fold.seen if entry[0] == "tick"]
    assert ticks == [1, 2]


def test_a_chunk_that_never_reached_a_full_disk_is_forgotten_with_its_refusal(opened: Any) -> None:
    files = Full()
    volume = opened(files=files)
    files.room = False
    for number in range(1, 50):
        made = chunk(volume.run_id, number, number, number + 1)
        with pytest.raises(StateError):
            volume.take(ChunkWritten(to_bytes(made)), chunk=made, sync=True)
        volume.take(Answered(number, False, [], 7))
        volume.take(Tick(number))
    assert len(volume._pending) == 49  # the ticks
    files.room = True
    fill(volume, 1, number=100)
    seen = list(volume.fold.seen)
    assert opened().fold.seen == seen


def test_a_real_limit_of_file_size_is_survived(tmp_path: Path) -> None:
    """RLIMIT_FSIZE in a process of its own: EFBIG from the kernel, in the middle of an entry."""
    code = f"""
import resource, signal, sys
from pathlib import Path
from agent.errors import StateError
from tests.unit.test_state_volume import OWNER, CODEC, Telemetry, Volume, fill
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
volume = Volume(Path({str(tmp_path)!r}), OWNER, CODEC, Telemetry())
volume.open()
resource.setrlimit(resource.RLIMIT_FSIZE, (4000, resource.RLIM_INFINITY))
n = 0
try:
    while n < 1000:
        fill(volume, 1, number=n)
        n += 1
except StateError as error:
    assert 'File too large' in str(error), error
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
volume.sync()
waiting = volume.state.unanswered
print(n, 0 if waiting is None else waiting.number, len(volume.fold.seen))
"""
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 0, run.stderr
    n, waiting, n_seen = map(int, run.stdout.split())
    assert 0 < n < 1000
    volume = Volume(tmp_path, OWNER, CODEC, Telemetry())
    assert volume.open().exact
    assert len(volume.fold.seen) == n_seen
    assert (volume.state.unanswered.number if volume.state.unanswered else 0) == waiting
    volume.close()


def test_a_directory_that_cannot_be_made_or_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match=r"delivery.volume_path .* cannot be made"):
        Volume(tmp_path / "file" / "state", OWNER, CODEC, Telemetry())

    class ReadOnly(Files):
        def create(self, path: Path) -> int:
            raise OSError(errno.EROFS, "Read-only file system")

    volume = Volume(tmp_path, OWNER, CODEC, Telemetry(), files=ReadOnly())
    with pytest.raises(
        StateError, match=r"Read-only file system; make room .* or mount it writable"
    ):
        volume.open()
    volume.close()


def test_a_killed_writer_loses_nothing_that_it_synced(tmp_path: Path) -> None:
    """SIGKILL at random moments; the writer says on its pipe what is synced."""
    code = f"""
from pathlib import Path
from agent.compiled import mode
mode.use_files()  # no kernel is needed, and numba is half of the start
from tests.unit.test_state_volume import OWNER, CODEC, Telemetry, Volume, fill
volume = Volume(Path({str(tmp_path)!r}), OWNER, CODEC, Telemetry())
volume.open()
n = sum(entry[0] == 'chunk' for entry in volume.fold.seen)
waiting = volume.state.unanswered
print('open', n, flush=True)
if waiting is not None:
    from agent.state.entries import Answered
    volume.take(Answered(waiting.number, True, [], 1), sync=True)
    n += 1
while True:
    fill(volume, 1, number=n)
    n += 1
    print(n, flush=True)
    if n % 7 == 0:
        volume.snapshot()
"""
    rnd = random.Random(5)
    acknowledged = 0
    for _ in range(6):
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        assert process.stdout is not None
        try:
            first = process.stdout.readline().split()
            assert first[0] == "open" and int(first[1]) >= acknowledged
            for _ in range(rnd.randint(1, 60)):
                acknowledged = int(process.stdout.readline())
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            rest = process.stdout.read().split("\n")
            process.wait(10)
            process.stdout.close()
        acknowledged = max([acknowledged, *(int(line) for line in rest[:-1] if line)])
    volume = Volume(tmp_path, OWNER, CODEC, Telemetry())
    assert volume.open().exact
    assert chunks_of(volume)[:acknowledged] == list(range(1, acknowledged + 1))
    volume.close()


def test_mutated_files_are_refused_or_read_as_they_were(opened: Any, tmp_path: Path) -> None:
    """Any byte, any length: DecodeError, or entries that were written; nothing else."""
    volume = opened()
    fill(volume, 2)
    volume.snapshot()
    fill(volume, 3, number=2)
    journal, snapshot = named(tmp_path, "journal-")[-1], named(tmp_path, "snapshot-")[-1]
    written = [bytes(p) for p in read_journal(journal.read_bytes(), "j", None).payloads]
    rnd = random.Random(9)
    refused = 0
    for _ in range(4000):
        data = mutated(journal.read_bytes(), rnd)
        try:
            file = read_journal(data, "j", rnd.choice([None, 3, 10**6]))
        except DecodeError:
            refused += 1
        else:
            found = [bytes(p) for p in file.payloads]
            assert found == written[: len(found)]
        data = mutated(snapshot.read_bytes(), rnd)
        try:
            read = read_snapshot(data, "s")
        except DecodeError:
            refused += 1
        else:
            assert data == snapshot.read_bytes()
            assert read.heading.origin.group == "g"
    assert refused > 4000


def mutated(data: bytes, rnd: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(rnd.randint(1, 4)):
        if not out:
            break
        at = rnd.randrange(len(out))
        match rnd.randrange(5):
            case 0:
                out[at] ^= 1 << rnd.randrange(8)
            case 1:
                del out[at:]
            case 2:
                del out[at : at + rnd.randrange(1, 40)]
            case 3:
                out[at:at] = rnd.randbytes(rnd.randrange(1, 40))
            case _:
                out[at : at + 8] = struct.pack(
                    "<Q", rnd.choice([0, 1, 2**32 - 1, 2**63, 2**64 - 1])
                )
    return bytes(out)


def test_what_may_go() -> None:
    names = ["journal-1.ifj", "journal-5.ifj", "journal-9.ifj", "journal-12.ifj", "lock"]
    assert superfluous([*names, "snapshot-8.ifs"]) == []
    assert superfluous([*names, "snapshot-8.ifs", "snapshot-11.ifs"]) == names[:2]
    assert superfluous([*names, "snapshot-6.ifs", "snapshot-11.ifs"]) == names[:1]
    assert superfluous(["snapshot-1.ifs", "snapshot-2.ifs", "snapshot-3.ifs", "x.tmp"]) == [
        "snapshot-1.ifs",
        "x.tmp",
    ]

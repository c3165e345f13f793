"""Any sequence of entries, snapshots, failures and crashes recovers exactly what was synced."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.errors import StateError
from agent.state.chunk import to_bytes
from agent.state.entries import Answered, ChunkWritten, Export, Tick
from agent.state.recovery import Owner
from agent.state.volume import Volume
from agent.telemetry import Telemetry
from tests.support.fold_inputs import CODEC, chunk
from tests.support.simulated_disk import Crash, SimulatedDisk

OWNER = Owner("g", ("t",))


class Writer:
    """A process that writes a journal, and an account of what it may rely upon."""

    def __init__(self, folder: Path, disk: SimulatedDisk, now_ns: int) -> None:
        self.now_ns = now_ns
        self.n_chunks = 0
        self.volume = Volume(
            folder, OWNER, CODEC, Telemetry(), files=disk, clock=lambda: self.now_ns
        )
        self.before: list[Any] = []  # before this process began

    def open(self) -> Any:
        found = self.volume.open()
        self.relied = self.seen()
        return found

    def seen(self) -> tuple[list[Any], str | None]:
        waiting = self.volume.state.unanswered
        name = None if waiting is None else f"{waiting.run_id};{waiting.number}"
        return list(self.volume.fold.seen), name

    def step(self, kind: str) -> None:
        self.now_ns += 7
        volume = self.volume
        if kind == "tick":
            volume.take(Tick(self.now_ns))
        elif kind == "chunk" and volume.state.unanswered is None:
            self.n_chunks += 1
            made = chunk(volume.run_id, self.n_chunks, self.n_chunks, self.n_chunks + 1)
            volume.take(ChunkWritten(to_bytes(made)), chunk=made, sync=True)
        elif kind in ("accepted", "refused") and volume.state.unanswered is not None:
            number = volume.state.unanswered.number
            volume.take(Answered(number, kind == "accepted", [], self.now_ns))
        elif kind == "export":
            volume.take(Export(self.now_ns, True), sync=True)
        elif kind == "snapshot":
            volume.snapshot()
        elif kind == "sync":
            volume.sync()
        if volume.durable:
            self.relied = self.seen()


STEPS = st.sampled_from(
    ["tick", "chunk", "chunk", "accepted", "accepted", "refused", "export", "snapshot", "sync"]
)
#: Each life: what it does, after which file operation the machine stops, and which one fails before.
LIVES = st.lists(
    st.tuples(st.lists(STEPS, max_size=12), st.integers(0, 60), st.none() | st.integers(0, 40)),
    min_size=1,
    max_size=5,
)


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(lives=LIVES, seed=st.integers(0, 2**32))
def test_whatever_was_synced_before_a_crash_is_there_after_it(
    tmp_path: Path, lives: list[tuple[list[str], int, int | None]], seed: int
) -> None:
    disk, rnd = SimulatedDisk(), random.Random(seed)
    relied: tuple[list[Any], str | None] = ([], None)
    everything: tuple[list[Any], str | None] = ([], None)
    now_ns = 1_000
    for steps, stops_at, fails_at in lives:
        writer = Writer(tmp_path, disk, now_ns)
        disk.before = trouble(stops_at, fails_at)
        try:
            found = writer.open()
            assert found.exact
            assert_between(writer.seen(), relied, everything)
            for kind in steps:
                try:
                    writer.step(kind)
                except StateError as error:
                    assert "No space left" in str(error)
        except (Crash, StateError):
            pass
        finally:
            writer.volume.close()
        if writer.volume.state.has_fold() and hasattr(writer, "relied"):
            relied, everything = writer.relied, writer.seen()
        now_ns = writer.now_ns + 100
        disk.crash(rnd)
    writer = Writer(tmp_path, disk, now_ns)
    try:
        assert writer.open().exact
        assert_between(writer.seen(), relied, everything)
    finally:
        writer.volume.close()


def trouble(stops_at: int, fails_at: int | None) -> Callable[[str], None]:
    """One operation that fails for want of space, and one behind which nothing is done any more."""
    n_operations = 0

    def before(operation: str) -> None:
        nonlocal n_operations
        n_operations += 1
        if n_operations == fails_at and operation != "names":
            raise OSError(errno.ENOSPC, "No space left on device")
        if n_operations > stops_at:
            raise Crash

    return before


def assert_between(
    found: tuple[list[Any], str | None],
    relied: tuple[list[Any], str | None],
    everything: tuple[list[Any], str | None],
) -> None:
    """All that was synced is there, in order, and nothing that was not put there."""
    if not relied[0]:
        return  # no process came as far as to rely on anything
    n = len(found[0])
    assert n >= len(relied[0])
    assert found[0] == everything[0][:n]
    if n == len(everything[0]) and everything == relied:
        assert found[1] == relied[1]

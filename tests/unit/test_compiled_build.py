"""The children that compile: ended at once when nobody wants more, and with their parent however it ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from agent.compiled import build as building
from agent.compiled.build import build
from agent.errors import InferometerError
from tests.support.wait import eventually_sync


def children_of(pid: int) -> set[int]:
    """Processes, by what Linux says of its threads."""
    found: set[int] = set()
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # ended meanwhile
            found |= {int(child) for child in (thread / "children").read_text().split()}
    return found


def is_alive(pid: int) -> bool:
    """Also false for one that only waits for its parent to ask how it ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


class Stopped(Exception):
    pass


@pytest.mark.timeout(240)
def test_stopping_early_ends_children_that_are_compiling_at_once() -> None:
    before = children_of(os.getpid())
    children: set[int] = set()
    begun: list[float] = []

    def begins(name: str) -> None:
        begun.append(time.monotonic())
        if len(begun) == 2:
            children.update(children_of(os.getpid()) - before)
            raise Stopped

    with pytest.raises(Stopped):
        list(build(["template.decode_templates", "scan.scan"], begins, n_children=2))
    assert time.monotonic() - begun[-1] < 5.0
    assert len(children) == 2
    assert not any(is_alive(child) for child in children)
    assert children_of(os.getpid()) == before


@pytest.mark.timeout(240)
def test_closing_after_the_first_kernel_ends_the_rest_at_once() -> None:
    before = children_of(os.getpid())
    built = build(["pages.clear_cells", "finish.sum_sizes"], lambda name: None, n_children=1)
    assert isinstance(built, Generator)
    assert next(built).name == "pages.clear_cells"
    began = time.monotonic()
    built.close()
    assert time.monotonic() - began < 5.0
    assert children_of(os.getpid()) == before


@pytest.mark.timeout(240)
def test_two_children_compile_what_one_does_and_each_is_begun_once() -> None:
    names = ["finish.sum_sizes", "pages.clear_cells", "path_slots.hash_text", "crc.crc32c"]
    events: list[str] = []
    codes = []
    for n in (1, 2):
        codes.append({b.name: b.code for b in build(names, events.append, n_children=n)})
        assert sorted(events) == sorted(names)
        events.clear()
    assert codes[0].keys() == codes[1].keys() == set(names)
    assert all(codes[0].values())


def test_there_is_one_child_for_each_cpu_up_to_two(monkeypatch: pytest.MonkeyPatch) -> None:
    for allowed, expected in ((1, 1), (2, 2), (64, 2)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid, n=allowed: set(range(n)))
        assert building._allowed() == expected


def test_nothing_to_compile_starts_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "_Compiler", None)
    assert list(build([], lambda name: None)) == []


@pytest.mark.timeout(240)
def test_one_child_that_fails_ends_the_other(capfd: pytest.CaptureFixture[str]) -> None:
    before = children_of(os.getpid())
    with pytest.raises(InferometerError, match="exit status is 1"):
        list(build(["template.decode_templates", "no.such"], lambda name: None, n_children=2))
    assert "no.such" in capfd.readouterr().err
    assert children_of(os.getpid()) == before


@pytest.mark.timeout(100)
def test_an_answer_that_is_none_is_an_error_and_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text("print('hello', flush=True)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    before = children_of(os.getpid())
    with pytest.raises(InferometerError, match="could not be compiled"):
        list(build(["pages.clear_cells"], lambda name: None, n_children=1))
    assert children_of(os.getpid()) == before


PARENT = """
import sys
from agent.compiled.build import build
names = ["template.decode_templates", "scan.scan"]
list(build(names, lambda name: print(name, flush=True), n_children=2))
"""


@pytest.mark.timeout(120)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_compiler_outlives_its_parent(number: int) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE)
    try:
        assert parent.stdout is not None
        assert [parent.stdout.readline() for _ in range(2)] == [
            b"template.decode_templates\n",
            b"scan.scan\n",
        ]
        children = children_of(parent.pid)
        assert len(children) == 2
        parent.send_signal(number)
        parent.wait(20)
        eventually_sync(
            lambda: not any(is_alive(child) for child in children), timeout_s=60, every_s=0.1
        )
    finally:
        parent.kill()
        with parent:
            pass

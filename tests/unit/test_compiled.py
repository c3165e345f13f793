"""Kernels as files: what they depend on, that damage is noticed, and that they are the kernels."""

from __future__ import annotations

import ctypes
import mmap
import shutil
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.compiled.build import build
from agent.compiled.load import _unchanged, load
from agent.compiled.store import Store
from agent.decode.kernels.path_slots import hash_text
from agent.errors import InferometerError
from agent.sketch.kernels.pages import clear_cells

NAMES = ["pages.clear_cells", "path_slots.hash_text", "finish.sum_sizes", "crc.crc32c"]
CODE = bytes(range(256)) * 10
#: Private memory that is only read is one page of zeros, however long it is.
UNWRITTEN = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS


# ---------------------------------------------------------------- store


def test_a_kernel_is_read_as_it_was_written(tmp_path: Path) -> None:
    store = Store(tmp_path / "new", "k1")
    assert store.read("a.b", "void(int64)") is None
    assert store.write("a.b", "void(int64)", CODE)
    assert store.write("a.c", "void()", b"")
    assert store.read("a.b", "void(int64)") == CODE
    assert store.read("a.c", "void()") == b""
    assert sorted(p.name for p in (tmp_path / "new/k1").iterdir()) == ["a.b.o", "a.c.o"]


def test_a_damaged_kernel_is_as_if_it_were_not_there(tmp_path: Path) -> None:
    store = Store(tmp_path, "k1")
    store.write("a.b", "void()", CODE)
    path = tmp_path / "k1/a.b.o"
    whole = path.read_bytes()
    for at in range(0, len(whole), 7):
        path.write_bytes(whole[:at])
        assert store.read("a.b", "void()") is None
        path.write_bytes(whole[:at] + bytes((whole[at] ^ 1,)) + whole[at + 1 :])
        assert store.read("a.b", "void()") is None
    path.write_bytes(whole + b"x")
    assert store.read("a.b", "void()") is None
    assert store.write("a.b", "void()", CODE) and store.read("a.b", "void()") == CODE


def test_a_file_of_another_kernel_signature_or_key_does_not_count(tmp_path: Path) -> None:
    Store(tmp_path, "k1").write("a.b", "void()", CODE)
    shutil.copytree(tmp_path / "k1", tmp_path / "k2")
    shutil.copy(tmp_path / "k1/a.b.o", tmp_path / "k1/a.c.o")
    assert Store(tmp_path, "k2").read("a.b", "void()") is None
    assert Store(tmp_path, "k1").read("a.c", "void()") is None
    assert Store(tmp_path, "k1").read("a.b", "void(int64)") is None


def test_a_folder_that_cannot_be_written_keeps_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    assert not Store(tmp_path / "file", "k").write("a.b", "void()", CODE)
    assert not Store(None, "k").write("a.b", "void()", CODE)
    assert Store(None, "k").read("a.b", "void()") is None


# ---------------------------------------------------------------- built and loaded


@pytest.fixture(scope="module")
def loaded() -> dict[str, Any]:
    begun: list[str] = []
    built = list(build(NAMES, begun.append))
    assert sorted(begun) == sorted(b.name for b in built) == sorted(NAMES)
    assert all(b.seconds > 0 for b in built)
    return load({b.name: b.code for b in built})


@pytest.mark.timeout(180)
def test_a_kernel_from_a_file_gives_what_numbas_gives(loaded: dict[str, Any]) -> None:
    call = loaded["path_slots.hash_text"]
    text = np.frombuffer(np.random.default_rng(1).bytes(4096), np.uint8)
    key = np.arange(64, dtype=np.uint64)
    for length in (0, 1, 7, 8, 9, 31, 32, 33, 200):
        arguments = (text.ctypes.data + 64, length, key.ctypes.data)
        assert call(*arguments) == hash_text(*arguments)
    assert type(call(*arguments)) is int


@pytest.mark.timeout(180)
def test_a_kernel_without_result_returns_none_and_works(loaded: dict[str, Any]) -> None:
    cells = [np.arange(8.0), np.arange(8.0)]
    ids = np.zeros(1, np.int64)
    before = sys.getrefcount(None)
    for cell, call in zip(cells, (loaded["pages.clear_cells"], clear_cells), strict=True):
        base = np.array([cell.ctypes.data])
        assert call(base.ctypes.data, ids.ctypes.data, np.int64(1), 64) is None
        nothing = [call(base.ctypes.data, ids.ctypes.data, 0, 64) for _ in range(5000)]
        assert nothing == [None] * 5000
        del nothing
    assert abs(sys.getrefcount(None) - before) < 1000  # one is made for each None, and taken back
    assert cells[0].tolist() == cells[1].tolist()


@pytest.mark.timeout(180)
def test_wrong_arguments_are_refused_before_the_kernel_runs(loaded: dict[str, Any]) -> None:
    call = loaded["pages.clear_cells"]
    for arguments in ((), (1, 2, 3), (1, 2, 3, 4, 5)):
        with pytest.raises(TypeError):
            call(*arguments)
    with pytest.raises(TypeError):
        call(1, 2, "3", 4)
    with pytest.raises(TypeError):
        call(1, 2, 3.0, 4)
    with pytest.raises(OverflowError):
        call(1, 2, 1 << 64, 4)
    assert call(0, 0, -1, 64) is None  # -1 is a value, not an error


@pytest.mark.timeout(180)
def test_kernels_from_files_run_on_several_threads(loaded: dict[str, Any]) -> None:
    call = loaded["path_slots.hash_text"]
    key = np.arange(64, dtype=np.uint64)
    text = ctypes.create_string_buffer(b"x" * 200, 300)
    arguments = (ctypes.addressof(text), 100, key.ctypes.data)
    expected = call(*arguments)
    found: list[bool] = []

    def work() -> None:
        found.append(all(call(*arguments) == expected for _ in range(20_000)))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [True] * 4


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("name", "gives_gil"), [("path_slots.hash_text", True), ("crc.crc32c", False)]
)
def test_other_threads_run_during_a_kernel_unless_it_keeps_the_gil(
    loaded: dict[str, Any], name: str, gives_gil: bool
) -> None:
    """No thread is made to give the GIL up: this one runs again when the kernel gives it, or has ended."""
    call = loaded[name]
    key = np.arange(64, dtype=np.uint64)
    ended: list[int] = []
    seen: list[bool] = []
    before = sys.getswitchinterval()
    sys.setswitchinterval(100.0)
    try:
        for mib in (64, 512, 4096):  # until this one gets a processor while the kernel runs
            with mmap.mmap(-1, mib << 20, flags=UNWRITTEN) as zeros:
                address = np.frombuffer(zeros, np.uint8).ctypes.data
                arguments = (address, mib << 20, key.ctypes.data)[: 3 if gives_gil else 2]
                ended.clear()
                thread = threading.Thread(target=lambda: ended.append(call(*arguments)))  # noqa: B023
                thread.start()
                seen.append(not ended)
                thread.join(100)
                assert len(ended) == 1
            if gives_gil and seen[-1]:
                break
    finally:
        sys.setswitchinterval(before)
    assert seen[-1] if gives_gil else not any(seen)


@pytest.mark.timeout(180)
def test_a_compiler_that_fails_is_an_error_that_says_what_to_do(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(InferometerError, match="INFEROMETER_KERNELS=numba"):
        list(build(["no.such_kernel"], lambda name: None))
    assert "no.such_kernel" in capfd.readouterr().err


ZEROS = {"Private_Dirty": 0, "Shared_Dirty": 0, "Anonymous": 0, "Swap": 0}
LINKER = "r-xp 00 08:01 1   /site/llvmlite/binding/libllvmlite.so"


def smaps(*mappings: tuple[str, dict[str, int]]) -> str:
    """As Linux writes it: mappings of 16 bytes from 0x10 on, and what it says of each."""
    lines = []
    for i, (what, numbers) in enumerate(mappings, 1):
        lines += [f"{i}0-{i + 1}0 {what}", "Rss: 4 kB"]
        lines += [f"{name}:  {kib} kB" for name, kib in numbers.items()]
        lines.append("VmFlags: rd ex mr mw me")
    return "\n".join(lines) + "\n"


def test_only_unchanged_pages_of_the_linkers_file_are_given_back() -> None:
    text = smaps(
        (LINKER, ZEROS),
        (LINKER.replace("r-xp", "rw-p"), ZEROS),
        ("r-xp 00 08:01 1   /site/llvmlite/other/libc.so", ZEROS),
        ("r--p 00 00:00 0", ZEROS),
        (LINKER.replace("r-xp", "r--p"), ZEROS),
    )
    assert _unchanged(text) == [(0x10, 0x20), (0x50, 0x60)]


@pytest.mark.parametrize("changed", ZEROS)
def test_pages_changed_here_or_before_a_fork_or_in_swap_are_not_given_back(changed: str) -> None:
    """After a fork they are Shared_Dirty, in swap they are only Swap: dropped, relocations would be lost."""
    lines = [name for name in ZEROS if name != changed]
    text = smaps((LINKER, ZEROS | {changed: 4}), (LINKER, dict.fromkeys(lines, 0)), (LINKER, ZEROS))
    assert _unchanged(text) == [(0x30, 0x40)]

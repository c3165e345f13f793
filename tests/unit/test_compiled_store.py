"""The folder of kernels does not grow for ever, and nothing that is used or another's is removed from it."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import pytest

from agent.compiled.store import Store, mark_used

DAY_S = 86_400
THIS = "f" * 20


def key(number: int) -> str:
    return f"{number:020x}"


def kept(base: Path, name: str, *, age_days: float) -> Path:
    store = Store(base, name)
    assert store.write("a.b", "void()", b"code")
    folder = base / name
    age(folder, age_days)
    return folder


def age(path: Path, days: float) -> None:
    then = time.time() - days * DAY_S
    os.utime(path, (then, then))


def left(base: Path) -> set[str]:
    return {path.name for path in base.iterdir()}


def test_the_newest_keys_and_those_of_the_last_week_stay(tmp_path: Path) -> None:
    kept(tmp_path, THIS, age_days=400)  # its own, whatever its age
    for days in (3, 6, 8, 9, 10, 11, 12):
        kept(tmp_path, key(days), age_days=days)
    Store(tmp_path, THIS).tidy()
    assert left(tmp_path) == {THIS, key(3), key(6), key(8)}
    for days in (1, 2, 4, 5):
        kept(tmp_path, key(days), age_days=days)
    Store(tmp_path, THIS).tidy()
    assert left(tmp_path) == {THIS, *map(key, range(1, 7))}


def test_a_key_that_is_used_is_young_again(tmp_path: Path) -> None:
    for days in range(20, 26):
        kept(tmp_path, key(days), age_days=days)
    mark_used(tmp_path / key(25))
    kept(tmp_path, THIS, age_days=0)
    Store(tmp_path, THIS).tidy()
    assert left(tmp_path) == {THIS, key(25), key(20), key(21)}
    mark_used(tmp_path / "not there")


def test_what_is_no_key_stays(tmp_path: Path) -> None:
    kept(tmp_path, THIS, age_days=0)
    for number in range(8):
        kept(tmp_path, key(number), age_days=30 + number)
    strange = {"README", "numba", key(1)[:-1], "z" * 20, key(1) + ".old"}
    for name in strange:
        (tmp_path / name).mkdir()
        age(tmp_path / name, 100)
    elsewhere = tmp_path.parent / f"{tmp_path.name}-elsewhere"
    elsewhere.mkdir()
    (elsewhere / "a.b.o").write_text("of somebody")
    link = tmp_path / key(99)
    link.symlink_to(elsewhere)
    os.utime(link, (0, 0), follow_symlinks=False)
    Store(tmp_path, THIS).tidy()
    assert left(tmp_path) == {THIS, key(0), key(1), key(2), link.name, *strange}
    assert (elsewhere / "a.b.o").read_text() == "of somebody"


@pytest.mark.parametrize("which", ["folder", "file in it"])
def test_what_is_another_users_stays(
    tmp_path: Path, which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept(tmp_path, THIS, age_days=0)
    for number in range(6):
        kept(tmp_path, key(number), age_days=30 + number)
    theirs = tmp_path / key(5)
    path = theirs if which == "folder" else theirs / "a.b.o"
    if os.geteuid() == 0:
        os.chown(path, 4242, 4242)
        Store(tmp_path, THIS).tidy()
        assert left(tmp_path) == {THIS, key(0), key(1), key(2), key(5)}
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 4242)
        before = left(tmp_path)
        Store(tmp_path, THIS).tidy()
        assert left(tmp_path) == before


def test_nothing_is_removed_where_others_may_write(tmp_path: Path) -> None:
    kept(tmp_path, THIS, age_days=0)
    for number in range(8):
        kept(tmp_path, key(number), age_days=30 + number)
    before = left(tmp_path)
    tmp_path.chmod(tmp_path.stat().st_mode | stat.S_IWOTH)
    Store(tmp_path, THIS).tidy()
    assert left(tmp_path) == before


def test_files_of_writers_that_were_killed_are_removed(tmp_path: Path) -> None:
    folder = kept(tmp_path, THIS, age_days=0)
    for name, hours in (("tmpkilled", 2.0), ("tmpwriting", 0.1)):
        (folder / name).write_text("half a kernel")
        age(folder / name, hours / 24)
    age(folder / "a.b.o", 300)
    Store(tmp_path, THIS).tidy()
    assert left(folder) == {"a.b.o", "tmpwriting"}


def test_a_store_says_why_it_could_not_keep(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    store = Store(tmp_path / "file", THIS)
    assert not store.write("a.b", "void()", b"")
    assert f"cannot write {tmp_path}/file/{THIS}" in store.failure
    assert "no home folder" in Store(None, THIS).failure
    store.tidy()
    Store(None, THIS).tidy()

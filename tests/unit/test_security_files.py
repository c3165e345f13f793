"""Files that code is loaded from, and files with values in them: who may write them, and who may read them."""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

import pytest

from agent.compiled.store import Store
from agent.state.files import Files

CODE = b"object code"
SIGNATURE = "void()"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def kept(base: Path) -> Store:
    store = Store(base, "key")
    assert store.write("a.b", SIGNATURE, CODE)
    return store


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o000])
def test_the_folder_of_kernels_is_this_users_alone(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        store = kept(tmp_path / "cache")
    finally:
        os.umask(before)
    assert mode(tmp_path / "cache") == mode(tmp_path / "cache/key") == 0o700
    assert mode(tmp_path / "cache/key/a.b.o") & 0o022 == 0
    assert store.read("a.b", SIGNATURE) == CODE


@pytest.mark.parametrize("which", ["cache", "cache/key", "cache/key/a.b.o"])
@pytest.mark.parametrize("writer", [stat.S_IWGRP, stat.S_IWOTH])
def test_kernels_that_others_can_write_are_not_loaded(
    tmp_path: Path, which: str, writer: int, caplog: pytest.LogCaptureFixture
) -> None:
    kept(tmp_path / "cache")
    (tmp_path / which).chmod(mode(tmp_path / which) | writer)
    store = Store(tmp_path / "cache", "key")
    with caplog.at_level(logging.WARNING):
        assert store.read("a.b", SIGNATURE) is None
        assert store.read("a.b", SIGNATURE) is None
    assert len(caplog.records) == 1, "said once"
    assert "nobody else may write it (chown, chmod go-w)" in caplog.text
    if not which.endswith(".o"):
        assert not store.write("a.b", SIGNATURE, CODE)


@pytest.mark.parametrize("which", ["cache", "cache/key", "cache/key/a.b.o"])
def test_kernels_of_another_user_are_not_loaded(
    tmp_path: Path, which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept(tmp_path / "cache")
    if os.geteuid() == 0:
        os.chown(tmp_path / which, 4242, 4242)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 4242)
    assert Store(tmp_path / "cache", "key").read("a.b", SIGNATURE) is None


def test_kernels_of_root_are_loaded_by_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image is built by root and run by another."""
    if os.geteuid() != 0:
        pytest.skip("only root can make files of root")
    kept(tmp_path / "cache")
    monkeypatch.setattr(os, "geteuid", lambda: 65532)
    assert Store(tmp_path / "cache", "key").read("a.b", SIGNATURE) == CODE


def test_a_link_is_not_followed_to_a_kernel(tmp_path: Path) -> None:
    store = kept(tmp_path / "cache")
    assert store.folder is not None
    file = store.folder / "a.b.o"
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    assert store.read("a.b", SIGNATURE) is None


def test_state_is_this_users_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        files = Files()
        files.make_directory(tmp_path / "state")
        fd = files.create(tmp_path / "state/snapshot")
        files.close(fd)
    finally:
        os.umask(before)
    assert mode(tmp_path / "state") == 0o700
    assert mode(tmp_path / "state/snapshot") == 0o600

"""What the demo prepares once is read again, and never when it is stale, broken or not to be had."""

import numpy as np
import pytest

from agent.demo import cache


class Build:
    """Counts how often it was asked to build."""

    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return {"a.b": np.arange(5), "names": np.array(["EWR", "JFK"])}


@pytest.fixture
def build():
    return Build()


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def test_the_second_time_is_read_not_built(build):
    first = cache.arrays("table", ["1"], build)
    second = cache.arrays("table", ["1"], build)
    assert build.calls == 1
    assert set(first) == set(second)
    assert second["a.b"].tolist() == [0, 1, 2, 3, 4]
    assert second["names"].tolist() == ["EWR", "JFK"]


def test_another_version_is_built_and_replaces_the_old(build):
    cache.arrays("table", ["1"], build)
    cache.arrays("other", ["1"], build)
    cache.arrays("table", ["2"], build)
    assert build.calls == 3
    names = sorted(path.name.rpartition("-")[0] for path in cache.directory().iterdir())
    assert names == ["other", "table"]


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 half a file", b"not an archive"])
def test_a_damaged_file_is_built_again(build, damage):
    cache.arrays("table", ["1"], build)
    (path,) = cache.directory().iterdir()
    path.write_bytes(damage)
    cache.arrays("table", ["1"], build)
    assert build.calls == 2
    cache.arrays("table", ["1"], build)
    assert build.calls == 2


def test_pickled_content_is_refused(build):
    cache.arrays("table", ["1"], build)
    (path,) = cache.directory().iterdir()
    np.savez(path, **{"a.b": np.array([{"an": "object"}], dtype=object)})
    assert cache.arrays("table", ["1"], build)["a.b"].tolist() == [0, 1, 2, 3, 4]


def test_without_a_place_to_write_it_works_all_the_same(build, monkeypatch, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    assert cache.arrays("table", ["1"], build)["a.b"].tolist() == [0, 1, 2, 3, 4]


def test_without_a_home_it_works_all_the_same(build, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")

    def homeless(*_):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr("pathlib.Path.home", homeless)
    assert cache.arrays("table", ["1"], build)["a.b"].tolist() == [0, 1, 2, 3, 4]


def test_only_the_user_can_read_the_folder(build):
    cache.arrays("table", ["1"], build)
    assert cache.directory().stat().st_mode & 0o077 == 0

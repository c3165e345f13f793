"""What tests build once is whole or absent; what cannot be had names what to install."""

import multiprocessing
import os
import shutil
from pathlib import Path

import pytest

from tests.support import built
from tests.support.collector_real import CollectorUnavailable, _build
from tests.support.kafka_real import KafkaUnavailable, kafka_jars
from tests.support.process import OwnedProcess, StartFailed


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(built, "CACHE", tmp_path / "cache")
    return tmp_path / "cache"


def _fill(folder: Path) -> None:
    with (folder / "made").open("a") as out:
        out.write(f"{os.getpid()}\n")


@pytest.mark.usefixtures("cache")
def test_same_inputs_are_built_once_and_others_apart(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_text("a")
    first = built.built_once("thing", [source, "linux"], _fill)
    assert built.built_once("thing", [source, "linux"], _fill) == first
    assert (first / "made").read_text().count("\n") == 1
    source.write_text("b")
    assert built.built_once("thing", [source, "linux"], _fill) != first
    assert built.built_once("thing", [source, "darwin"], _fill) != first


def test_failed_build_leaves_nothing(cache: Path) -> None:
    def fail(folder: Path) -> None:
        _fill(folder)
        raise OSError("no network")

    with pytest.raises(OSError, match="no network"):
        built.built_once("thing", ["x"], fail)
    assert [path.name for path in (cache / "thing").iterdir()] == ["lock"]
    assert built.built_once("thing", ["x"], _fill).is_dir()


def _build_in(cache: Path) -> None:
    built.CACHE = cache
    built.built_once("shared", ["x"], _fill)


def test_processes_that_want_the_same_build_share_one(cache: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_build_in, args=(cache,)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    [folder] = [path for path in (cache / "shared").iterdir() if path.is_dir()]
    assert (folder / "made").read_text().count("\n") == 1


@pytest.mark.parametrize(
    ("present", "missing"), [([], "java and mvn"), (["java"], "mvn"), (["mvn"], "java")]
)
def test_missing_java_or_maven_is_named(
    monkeypatch: pytest.MonkeyPatch, present: list[str], missing: str
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: name if name in present else None)
    with pytest.raises(KafkaUnavailable, match=f"install Java 17 and Maven: no {missing} on"):
        kafka_jars()


def test_missing_go_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(CollectorUnavailable, match=r"install Go 1\.25 or newer"):
        _build(tmp_path)


def test_process_that_ends_early_shows_the_end_of_its_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = OwnedProcess(["sh", "-c", "echo port is taken; exit 3"], log_path=log)
    with pytest.raises(StartFailed, match="sh ended with 3:\nport is taken"):
        process.wait_ready(lambda: False, timeout_s=20)


def test_process_that_is_never_ready_is_ended(tmp_path: Path) -> None:
    process = OwnedProcess(["sleep", "60"], log_path=tmp_path / "log")
    with pytest.raises(StartFailed, match=r"sleep not ready in 0\.2 s"):
        process.wait_ready(lambda: False, timeout_s=0.2)
    assert not process.running

"""What `warmup` leaves in the cache is what every command finds there; and a start without it says how far it is."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.agent_process import AgentProcess
from tests.support.wait import eventually_sync

EVENT = '{"model":"m","features":{"a":%d,"b":"x","c":true},"prediction":0.5,"latency_ms":1}\n'


RUN = (
    "import sys; from agent.cli import main; sys.argv = ['inferometer', *sys.argv[1:]]; main();"
    "print('numba' in sys.modules, file=sys.stderr)"
)


def environment(cache: Path) -> dict[str, str]:
    return {**os.environ, "INFEROMETER_KERNEL_CACHE": str(cache)}


def run(cache: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", RUN, *arguments]
    return subprocess.run(
        command, env=environment(cache), check=True, capture_output=True, text=True, timeout=500
    )


def files(cache: Path) -> dict[Path, tuple[int, bytes]]:
    found = (path for path in cache.rglob("*") if path.is_file())
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in found}


@pytest.fixture(scope="module")
def warmed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    """A cache that `warmup` has filled, for reading; and what it took by kernel (seconds)."""
    cache = tmp_path_factory.mktemp("warm") / "kernels"
    done = run(cache, "warmup", "--quiet", "--json")
    return cache, json.loads(done.stdout)["kernels"]


@pytest.mark.timeout(600)
def test_commands_load_what_a_warmup_left_and_only_damage_is_compiled_again(
    warmed: tuple[Path, dict[str, float]], tmp_path: Path
) -> None:
    cache = tmp_path / "kernels"
    shutil.copytree(warmed[0], cache)
    before = files(cache)
    assert {path.stem for path in before} == set(warmed[1])
    assert all(seconds > 0 for seconds in warmed[1].values())
    events = tmp_path / "events.jsonl"
    events.write_text("".join(EVENT % i for i in range(100)))

    folders = [cache, *(path for path in cache.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    done = run(cache, "replay", "--json", "--quiet", str(events))
    assert json.loads(done.stdout)["rows"] == 100
    assert done.stderr.splitlines()[-1] == "False"  # numba was not needed
    assert files(cache) == before
    for folder in folders:
        folder.chmod(0o755)

    damaged = next(path for path in before if path.stem == "pages.copy_cells")
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    took = json.loads(run(cache, "warmup", "--quiet", "--json").stdout)["kernels"]
    assert [name for name, seconds in took.items() if seconds] == ["pages.copy_cells"]
    again = files(cache)
    assert set(again) == set(before)
    assert {path for path in before if again[path] != before[path]} == {damaged}
    assert again[damaged][1].startswith(b"inferometer kernel 1 ")


@pytest.mark.timeout(900)
def test_kernels_from_files_make_the_cells_that_numbas_make(
    warmed: tuple[Path, dict[str, float]],
) -> None:
    """Batches of five codecs, broken rows, all tiers; where kernels are files, numba cannot be imported."""

    def told(how: str, where: dict[str, str]) -> dict[str, Any]:
        command = [sys.executable, "-m", "tests.support.whole_path", how]
        done = subprocess.run(
            command, env=where, check=True, capture_output=True, text=True, timeout=420
        )
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    from_files = told("files", environment(warmed[0]))
    by_numba = told("numba", dict(os.environ))
    assert (from_files.pop("numba"), by_numba.pop("numba")) == (False, True)
    assert from_files == by_numba
    assert len(from_files["tiers"]) == 3 and all(from_files["tiers"].values())
    assert from_files["rows"] > 5000 and sum(from_files["dropped"].values()) > 50
    assert from_files["cells"] > 50 and from_files["bytes"] > 10_000


#: Compiling takes a minute, so another store hands out what was compiled before.
WITHOUT_COMPILING = """
import os, sys
from pathlib import Path
from agent.compiled import build, key, mode, store
mode.use_files()
from agent.cli import main
from agent.sketch.kernels.compile import KERNELS
before = store.Store(Path(sys.argv[1]), key.cache_key())
def at_once(names, begins):
    for name in names:
        begins(name)
        yield build.Built(name, 0.1, before.read(name, KERNELS[name][1]))
build.build = at_once
sys.exit(main(["warmup", "--json"]))
"""


@pytest.mark.timeout(600)
def test_a_warmup_that_could_keep_nothing_fails_and_says_why(
    warmed: tuple[Path, dict[str, float]], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("not a folder")

    def warmup(cache: Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", WITHOUT_COMPILING, str(warmed[0])]
        where = environment(cache)
        return subprocess.run(
            command, env=where, capture_output=True, text=True, timeout=100, check=False
        )

    done = warmup(tmp_path / "file/kernels")
    assert done.returncode == 1
    assert json.loads(done.stdout)["folder"] is None
    assert f"not kept: cannot write {tmp_path}/file/kernels/" in done.stderr
    assert "set INFEROMETER_KERNEL_CACHE to a writable folder" in done.stderr
    done = warmup(tmp_path / "kernels")
    assert done.returncode == 0
    assert {path.stem for path in files(tmp_path / "kernels")} == set(warmed[1])
    assert warmup(tmp_path / "kernels").returncode == 0


@pytest.mark.timeout(240)
def test_a_start_without_a_cache_says_how_far_it_is_and_is_not_ready(tmp_path: Path) -> None:
    config = {"kafka": {"bootstrap_servers": ["127.0.0.1:1"], "topics": ["t"]}}
    where = {"INFEROMETER_KERNEL_CACHE": str(tmp_path / "kernels")}
    with AgentProcess(tmp_path, config, environment=where) as agent:

        def waiting() -> tuple[int, int] | None:
            status, body = agent.get("/readyz")
            assert status == 503, body
            found = re.search(rb"starting: (\d+) of (\d+) kernels are compiled", body)
            return (int(found[1]), int(found[2])) if found else None

        n_done, n_all = eventually_sync(waiting, timeout_s=100)
        assert 0 <= n_done < n_all and n_all > 20
        assert agent.get("/livez")[0] == 200, "it lives all the same"

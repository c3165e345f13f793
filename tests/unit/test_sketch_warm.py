"""What `warmup` leaves in the cache is what every command finds there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EVENT = '{"model":"m","features":{"a":%d,"b":"x","c":true},"prediction":0.5,"latency_ms":1}\n'


RUN = (
    "import sys; from agent.cli import main; sys.argv = ['inferometer', *sys.argv[1:]]; main();"
    "print('numba' in sys.modules, file=sys.stderr)"
)


@pytest.mark.timeout(420)
def test_commands_load_what_a_warmup_left_and_only_damage_is_compiled_again(tmp_path: Path) -> None:
    cache = tmp_path / "kernels"
    environment = {**os.environ, "INFEROMETER_KERNEL_CACHE": str(cache)}
    events = tmp_path / "events.jsonl"
    events.write_text("".join(EVENT % i for i in range(100)))

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", RUN, *arguments]
        return subprocess.run(
            command, env=environment, check=True, capture_output=True, text=True, timeout=400
        )

    def files() -> dict[Path, tuple[int, bytes]]:
        found = (path for path in cache.rglob("*") if path.is_file())
        return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in found}

    took = json.loads(run("warmup", "--quiet", "--json").stdout)["kernels"]
    warmed = files()
    assert {path.stem for path in warmed} == set(took)

    folders = [cache, *(path for path in cache.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    done = run("replay", "--json", "--quiet", str(events))
    assert json.loads(done.stdout)["rows"] == 100
    assert done.stderr.splitlines()[-1] == "False"  # numba was not needed
    assert files() == warmed
    for folder in folders:
        folder.chmod(0o755)

    damaged = next(path for path in warmed if path.stem == "pages.copy_cells")
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    took = json.loads(run("warmup", "--quiet", "--json").stdout)["kernels"]
    assert [name for name, seconds in took.items() if seconds] == ["pages.copy_cells"]
    again = files()
    assert set(again) == set(warmed)
    assert {path for path in warmed if again[path] != warmed[path]} == {damaged}
    assert again[damaged][1].startswith(b"inferometer kernel 1 ")

"""What `warmup` leaves in the cache is what every command finds there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EVENT = '{"model":"m","features":{"a":%d,"b":"x","c":true},"prediction":0.5,"latency_ms":1}\n'


@pytest.mark.timeout(180)
def test_a_replay_after_a_warmup_compiles_nothing(tmp_path: Path) -> None:
    cache = tmp_path / "kernels"
    environment = {**os.environ, "INFEROMETER_KERNEL_CACHE": str(cache)}
    events = tmp_path / "events.jsonl"
    events.write_text("".join(EVENT % i for i in range(100)))

    def run(*arguments: str) -> None:
        command = [sys.executable, "-m", "agent", *arguments]
        subprocess.run(command, env=environment, check=True, capture_output=True, timeout=150)

    run("warmup", "--quiet")
    warmed = {path: path.stat().st_mtime_ns for path in cache.rglob("*") if path.is_file()}
    assert warmed
    run("replay", "--json", str(events))
    assert {p: p.stat().st_mtime_ns for p in cache.rglob("*") if p.is_file()} == warmed

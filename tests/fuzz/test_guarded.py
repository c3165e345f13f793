"""What follows text is not read: every tier, the sketches and the checksums, at the edge of readable memory."""

from __future__ import annotations

import random
import signal
import subprocess
import sys

import pytest


def guarded(*arguments: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.fuzz.guarded_whole", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)


@pytest.mark.parametrize("seed", [1, None])
def test_nothing_beyond_text_and_its_padding_is_read_from_records_to_sketches(
    seed: int | None,
) -> None:
    seed = random.SystemRandom().randrange(10**9) if seed is None else seed
    done = guarded(3000, seed)
    assert done.returncode == 0, f"seed {seed}: {done.returncode} {done.stderr}"
    assert int(done.stdout) > (200 if seed == 1 else 0)


def test_guard_ends_a_process_that_reads_beyond_its_padding() -> None:
    """With less padding than kernels ask for, the same run dies: the guard is there."""
    assert guarded(3000, 1, 8).returncode == -signal.SIGSEGV

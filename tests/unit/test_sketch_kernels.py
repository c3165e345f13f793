"""Compiled code: warmed once, one signature each, cached where that is possible."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np

from agent.sketch.kernels import compile as compiling
from agent.sketch.kernels import warm as warming
from agent.sketch.kernels.bucket_index import bounds
from tests.reference.sketching import merged, numeric, strings

#: Names of functions that run for every row or batch.
HOT = ("add_rows", "update_strings", "add_batch", "flush", "keep_text", "sort_out")
CLEAR_CELLS = """
import sys
from agent.sketch.kernels.pages import clear_cells
from agent.sketch.kernels import compile
import numpy as np
cell, ids = np.ones(8), np.zeros(1, np.int64)
clear_cells(np.array([cell.ctypes.data]).ctypes.data, ids.ctypes.data, 0, 64)
print(sum(clear_cells.stats.cache_hits.values()), compile.folder)
"""


def test_every_kernel_has_one_signature_after_warming_and_use() -> None:
    seen: list[str] = []
    took = warming.warm(lambda name, done, total: seen.append(f"{done}/{total} {name}"))
    assert len(seen) == len(took) == len(compiling.KERNELS)
    record = numeric([1.0, -1.0, 0.0, float("nan"), 1e300])
    merged([record])
    merged([record, merged([record], wide=True)][1:], wide=True)
    merged([strings([b"a", b"b"])])
    for name, (dispatcher, _) in compiling.KERNELS.items():
        assert len(dispatcher.signatures) == 1, (name, dispatcher.signatures)


def test_hot_kernels_touch_no_reference_count() -> None:
    """An array handed to an inner function would: it made the histogram five times slower."""
    for name in ("route.add_rows", "strings.update_strings"):
        dispatcher, signature = compiling.KERNELS[name]
        fresh = numba.njit(nogil=True, error_model="numpy")(
            dispatcher.py_func
        )  # not from the cache
        fresh.compile(signature)
        code = fresh.inspect_llvm(fresh.signatures[0])
        hot = [
            part.partition("\n}")[0]
            for part in code.split("\ndefine ")
            if any(word in part.partition("(")[0] for word in HOT)
            and "cpython" not in part.partition("(")[0]
        ]
        assert hot
        assert not any("NRT_incref" in part or "NRT_decref" in part for part in hot)


def _run(variable: str) -> tuple[int, str, list[str]]:
    """(hits, folder, warnings) of a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", CLEAR_CELLS],
        env={**os.environ, "INFEROMETER_KERNEL_CACHE": variable},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    hits, folder = done.stdout.split()
    return int(hits), folder, done.stderr.splitlines()


def test_kernels_are_loaded_from_the_cache_the_second_time(tmp_path: Path) -> None:
    assert _run(str(tmp_path))[0] == 0
    assert _run(str(tmp_path))[0] == 1


def test_a_folder_that_cannot_be_written_costs_one_warning(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    hits, folder, said = _run(str(tmp_path / "file"))
    assert (hits, folder) == (0, "None")
    assert len(said) == 1
    assert "kernels are compiled at every start: cannot write" in said[0]
    assert "set INFEROMETER_KERNEL_CACHE to a writable folder" in said[0]


def test_bucket_bounds_are_roots_of_two() -> None:
    for scale in range(9):
        got = np.array(bounds(scale), np.float64) / 2.0**52 + 1
        assert np.abs(got - np.exp2(np.arange(1 << scale) / (1 << scale))).max() <= 2.0**-51

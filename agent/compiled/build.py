"""Compiles kernels in a child process, so that numba's memory goes with it.

The child gets one JSON line on stdin: the names wanted. It answers on stdout, for each kernel: a JSON
line {"begins": name}, then one {"name", "seconds", "size"} followed by that many bytes of object code.
It ends when stdin does, whatever it is doing: however the parent ends, no compiler stays behind.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.errors import InferometerError

_ROOT = Path(__file__).resolve().parents[2]
#: For a compiler that has failed to say why.
_LAST_WORDS_S = 10.0


@dataclass(frozen=True, slots=True)
class Built:
    name: str
    seconds: float
    code: bytes


def build(names: Sequence[str], begins: Callable[[str], None]) -> Iterator[Built]:
    """Compile kernels one by one in a child; `begins` is told each name before.

    Raises InferometerError when the child cannot: its own words are on stderr by then.
    """
    # This very code, wherever the process stands and however it was found.
    start = f"import sys; sys.path.insert(0, {str(_ROOT)!r}); from agent.compiled.build import main; main()"
    child = subprocess.Popen(
        [sys.executable, "-P", "-c", start], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdin is not None and child.stdout is not None
    n_built = 0
    with child:
        try:
            child.stdin.write(json.dumps(list(names)).encode() + b"\n")
            child.stdin.flush()
            while line := child.stdout.readline():
                told = json.loads(line)
                if "begins" in told:
                    begins(told["begins"])
                    continue
                code = child.stdout.read(told["size"])
                if len(code) < told["size"]:
                    break
                n_built += 1
                yield Built(told["name"], told["seconds"], code)
        except BrokenPipeError:
            pass
        finally:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(_LAST_WORDS_S if n_built < len(names) else 0.0)
            child.kill()
    if n_built != len(names):
        raise InferometerError(
            f"kernels could not be compiled (the compiler's exit status is {child.returncode}); "
            "see its words above. INFEROMETER_KERNELS=numba compiles them in this process"
        )


def main() -> None:
    """The child."""
    names = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)  # nothing that a library prints gets between
        from agent.compiled import mode

        mode.compile_afresh()
        from agent.compiled.object_code import object_code
        from agent.sketch.kernels.compile import KERNELS, WITHOUT_GIL
        from agent.sketch.kernels.warm import import_all

        import_all()
        for name in names:
            began = time.perf_counter()
            out.write(json.dumps({"begins": name}).encode() + b"\n")
            out.flush()
            dispatcher, signature = KERNELS[name]
            code = object_code(name, dispatcher, signature, nogil=name in WITHOUT_GIL)
            seconds = time.perf_counter() - began
            told = {"name": name, "seconds": round(seconds, 3), "size": len(code)}
            out.write(json.dumps(told).encode() + b"\n" + code)
            out.flush()


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


if __name__ == "__main__":
    main()

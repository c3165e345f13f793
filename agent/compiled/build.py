"""Compiles kernels in child processes, so that numba's memory goes with them.

A child gets names on stdin, a line each, the next when it has answered. It answers on stdout: a JSON line
{"name", "seconds", "size"} followed by that many bytes of object code. It ends when stdin does, whatever
it is doing: however the parent ends, no compiler stays behind.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from agent.compiled.target import environment
from agent.errors import InferometerError

_ROOT = Path(__file__).resolve().parents[2]
#: For a compiler that has failed to say why.
_LAST_WORDS_S = 10.0
#: Each takes 300-400 MiB, imports numba and compiles shared pieces again: more do not pay.
MAX_CHILDREN = 2
#: Begun first, so that no child is left alone with a long one at the end.
_HEAVIEST = (
    "template.decode_templates",
    "scan.scan",
    "route.add_rows",
    "freeze.flush_groups",
    "freeze.pack_numbers",
    "open_batches.open_batches",
    "merge_cells.merge_numeric",
)


@dataclass(frozen=True, slots=True)
class Built:
    name: str
    seconds: float
    code: bytes


@dataclass(frozen=True, slots=True)
class _Failed:
    exit_status: int | None


_Told = SimpleQueue["str | Built | _Failed"]


def build(
    names: Sequence[str], begins: Callable[[str], None], *, n_children: int | None = None
) -> Iterator[Built]:
    """Compile kernels in children, the heaviest first; `begins` is told each name before.

    n_children  None: one for each CPU that this process may use, `MAX_CHILDREN` at most

    Raises InferometerError when a child cannot: its own words are on stderr by then. Both the exception
    and closing the iterator end all children.
    """
    rank = {name: i for i, name in enumerate(_HEAVIEST)}
    waiting = deque(sorted(names, key=lambda name: rank.get(name, len(rank))))
    told: _Told = SimpleQueue()
    compilers: list[
        _Compiler
    ] = []  # one by one, so that those there are end when the next cannot start
    n_built = 0
    try:
        for _ in range(min(len(waiting), n_children or _allowed())):
            compilers.append(_Compiler(waiting, told))  # noqa: PERF401
        while n_built < len(names):
            event = told.get()
            if isinstance(event, str):
                begins(event)
            elif isinstance(event, Built):
                n_built += 1
                yield event
            else:
                raise InferometerError(
                    f"kernels could not be compiled (the compiler's exit status is {event.exit_status}); "
                    "see its words above. INFEROMETER_KERNELS=numba compiles them in this process"
                )
    finally:
        for compiler in compilers:
            compiler.end()


def _allowed() -> int:
    """CPUs of this process, up to `MAX_CHILDREN`."""
    known = hasattr(os, "sched_getaffinity")
    return min(len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1, MAX_CHILDREN)


class _Compiler:
    """A child, and the thread that gives it names and takes what it made."""

    def __init__(self, waiting: deque[str], told: _Told) -> None:
        # This very code, wherever the process stands and however it was found.
        start = f"import sys; sys.path.insert(0, {str(_ROOT)!r}); from agent.compiled.build import main; main()"
        self._child = subprocess.Popen(
            [sys.executable, "-P", "-c", start],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # signals to the group are for the parent: it tells when to end
            env=environment(),
        )
        self._thread = threading.Thread(
            target=self._serve, args=(waiting, told), name="compiler", daemon=True
        )
        self._thread.start()

    def _serve(self, waiting: deque[str], told: _Told) -> None:
        try:
            while True:
                try:
                    name = waiting.popleft()
                except IndexError:
                    return
                told.put(name)
                built = self._compile(name)
                if built is None:
                    break
                told.put(built)
        except BrokenPipeError:
            pass
        except (OSError, ValueError, KeyError, TypeError):  # its answer is not one of ours
            self._child.kill()
        # Its stream has ended by itself, so it is about to: with its words on stderr.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(_LAST_WORDS_S)
        told.put(_Failed(self._child.returncode))

    def _compile(self, name: str) -> Built | None:
        """None when the child has ended."""
        child = self._child
        assert child.stdin is not None and child.stdout is not None
        child.stdin.write(f"{name}\n".encode())
        child.stdin.flush()
        line = child.stdout.readline()
        if not line.endswith(b"\n"):
            return None
        answer = json.loads(line)
        code = child.stdout.read(answer["size"])
        return Built(name, answer["seconds"], code) if len(code) == answer["size"] else None

    def end(self) -> None:
        """At once, whatever it is doing."""
        self._child.kill()
        self._thread.join()
        with contextlib.suppress(BrokenPipeError), self._child:
            pass


def main() -> None:
    """The child."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: the parent ends this one
    names: SimpleQueue[str] = SimpleQueue()
    threading.Thread(target=_take_names, args=(names,), daemon=True).start()
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)  # nothing that a library prints gets between
        from agent.compiled import mode

        mode.compile_afresh()
        from agent.compiled.object_code import object_code
        from agent.sketch.kernels.compile import KERNELS, WITHOUT_GIL
        from agent.sketch.kernels.warm import import_all

        import_all()
        while True:
            name = names.get()
            began = time.perf_counter()
            dispatcher, signature = KERNELS[name]
            code = object_code(name, dispatcher, signature, nogil=name in WITHOUT_GIL)
            seconds = time.perf_counter() - began
            told = {"name": name, "seconds": round(seconds, 3), "size": len(code)}
            out.write(json.dumps(told).encode() + b"\n" + code)
            out.flush()


def _take_names(names: SimpleQueue[str]) -> None:
    """Until the parent has ended, or wants no more."""
    with os.fdopen(os.dup(0), "rb") as lines:
        for line in lines:
            names.put(line.decode().rstrip("\n"))
        os._exit(1)


if __name__ == "__main__":
    main()

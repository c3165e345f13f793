"""Make or renew the virtual environment: packages from the lock, by hash, then this project itself.

    python3 .ci/make_venv.py FOLDER LOCK STAMP

Called by the Makefile; uses the standard library only. Stderr has one line that moves, or, where it
is not a terminal, a line now and then. On failure the end of pip's own words is shown.
"""

import re
import subprocess
import sys
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_STEP = re.compile(r"(?:Collecting|Requirement already satisfied:) ([A-Za-z0-9_.-]+)|(Installing) ")
_QUIET_S = 5.0


def main(folder: Path, lock: Path, stamp: Path) -> int:
    began = time.monotonic()
    python = f"Python {sys.version_info.major}.{sys.version_info.minor}"
    print(f"Setting up {folder.name} with {python}, packages from {lock.name}", file=sys.stderr)
    venv.create(folder, with_pip=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install"]
    # Python compiles what is imported; compiling everything now takes longer than fetching it.
    pip.append("--no-compile")
    n_locked = sum(re.match(r"[A-Za-z0-9]", line) is not None for line in lock.open())
    if not _run([*pip, "--require-hashes", "-r", str(lock)], n_locked):
        return 1
    if not _run([*pip, "--no-deps", "--no-build-isolation", "-e", str(ROOT)], 1):
        return 1
    stamp.touch()
    print(f"{folder.name} is ready after {time.monotonic() - began:.0f} s", file=sys.stderr)
    return 0


def _run(command: list[str], n_steps: int) -> bool:
    """Run pip; show where it is; True when it succeeded."""
    lines: list[str] = []
    seen: set[str] = set()
    show = _Progress(n_steps)
    with subprocess.Popen(
        [*command, "--progress-bar", "off"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as child:
        assert child.stdout is not None
        for line in child.stdout:
            lines.append(line)
            if step := _STEP.match(line.strip()):
                if step[2]:
                    show("installing", len(seen))
                else:
                    seen.add(step[1])
                    show(step[1], len(seen))
    show.end()
    if child.returncode != 0:
        print("".join(lines[-15:]), file=sys.stderr, end="")
        print("The packages could not be installed; see above.", file=sys.stderr)
    return child.returncode == 0


class _Progress:
    def __init__(self, total: int) -> None:
        self._total = total
        self._terminal = sys.stderr.isatty()
        self._last = time.monotonic()

    def __call__(self, name: str, done: int) -> None:
        text = f"  {min(done, self._total)}/{self._total} {name}"
        if self._terminal:
            print(f"\r\x1b[K{text[:70]}", end="", flush=True, file=sys.stderr)
        elif time.monotonic() - self._last > _QUIET_S:
            self._last = time.monotonic()
            print(text, flush=True, file=sys.stderr)

    def end(self) -> None:
        if self._terminal:
            print("\r\x1b[K", end="", flush=True, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main(*(Path(argument).absolute() for argument in sys.argv[1:])))

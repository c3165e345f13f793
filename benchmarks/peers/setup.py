"""Makes the peers' virtual environments under .cache/peers, each from its pinned requirement file.

    python -m benchmarks.peers.setup [NAME ...]

A name is a file in `requirements/`. An environment is made again when its file or the Python changes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import venv
from pathlib import Path

from tests.support.built import built_folder, built_once

REQUIREMENTS = Path(__file__).parent / "requirements"
_CACHE_NAME = "peers"


def names() -> list[str]:
    return sorted(path.stem for path in REQUIREMENTS.glob("*.txt"))


def python_of(name: str) -> Path | None:
    """The interpreter of a peer's environment; None when it has not been made."""
    python = built_folder(_CACHE_NAME, _inputs(name)) / "bin" / "python"
    return python if python.exists() else None


def make(name: str) -> Path:
    """Make the environment unless it is there; returns its interpreter. Raises RuntimeError."""
    return (
        built_once(_CACHE_NAME, _inputs(name), lambda folder: _install(name, folder)) / "bin/python"
    )


def _inputs(name: str) -> list[Path | str]:
    return [REQUIREMENTS / f"{name}.txt", sys.version, name]


def _install(name: str, folder: Path) -> None:
    venv.create(folder, with_pip=True, symlinks=True)
    # The folder is renamed afterwards: only `bin/python` is used, and it holds no path of its own.
    command = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--no-deps"]
    done = subprocess.run(
        [*command, "--disable-pip-version-check", "-r", REQUIREMENTS / f"{name}.txt"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{name} cannot be installed:\n{(done.stdout + done.stderr)[-2000:]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names())}")
    wanted = parser.parse_args().names or names()
    if unknown := sorted(set(wanted) - set(names())):
        parser.error(f"no such environment: {', '.join(unknown)}; there are {', '.join(names())}")
    for name in wanted:
        print(f"{name} ...", file=sys.stderr, flush=True)
        print(f"{name}: {make(name)}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()

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


def names(requirements: Path = REQUIREMENTS) -> list[str]:
    return sorted(path.stem for path in requirements.glob("*.txt"))


def python_of(name: str, requirements: Path = REQUIREMENTS) -> Path | None:
    """The interpreter of a peer's environment; None when it has not been made."""
    inputs = _inputs(requirements / f"{name}.txt")
    python = built_folder(_CACHE_NAME, inputs) / "bin" / "python"
    return python if python.exists() else None


def make(name: str, requirements: Path = REQUIREMENTS) -> Path:
    """Make the environment unless it is there; returns its interpreter. Raises RuntimeError."""
    path = requirements / f"{name}.txt"
    return built_once(_CACHE_NAME, _inputs(path), lambda folder: _install(path, folder)) / (
        "bin/python"
    )


def _inputs(path: Path) -> list[Path | str]:
    return [path, sys.version, path.stem]


def _install(path: Path, folder: Path) -> None:
    venv.create(folder, with_pip=True, symlinks=True)
    # The folder is renamed afterwards: only `bin/python` is used, and it holds no path of its own.
    command = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--no-deps"]
    done = subprocess.run(
        [*command, "--disable-pip-version-check", "-r", path],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(
            f"{path.stem} cannot be installed:\n{(done.stdout + done.stderr)[-2000:]}"
        )


def main(doc: str | None = __doc__, requirements: Path = REQUIREMENTS) -> None:
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    known = names(requirements)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(known)}")
    wanted = parser.parse_args().names or known
    if unknown := sorted(set(wanted) - set(known)):
        parser.error(f"no such environment: {', '.join(unknown)}; there are {', '.join(known)}")
    for name in wanted:
        print(f"{name} ...", file=sys.stderr, flush=True)
        print(f"{name}: {make(name, requirements)}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()

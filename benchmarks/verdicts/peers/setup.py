"""Makes the environments of the tools that verdicts are compared with, under .cache.

    python -m benchmarks.verdicts.peers.setup [NAME ...]

A name is a file in `requirements/`; see `benchmarks.peers.setup`.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.peers import setup

REQUIREMENTS = Path(__file__).parent / "requirements"


def python_of(name: str) -> Path | None:
    """The interpreter of a tool's environment; None when it has not been made."""
    return setup.python_of(name, REQUIREMENTS)


if __name__ == "__main__":
    setup.main(__doc__, REQUIREMENTS)

"""Finding every process that a test's program started: a mark in the environment, which is inherited."""

import os
import secrets
from pathlib import Path

NAME = "TEST_PROCESS_MARK"


def mark() -> dict[str, str]:
    """An environment with a mark of its own."""
    return {**os.environ, NAME: secrets.token_hex(8)}


def processes(environment: dict[str, str]) -> dict[int, str]:
    """Living processes with that mark: id -> command line. Linux only: /proc is read."""
    wanted = f"{NAME}={environment[NAME]}".encode()
    found = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            marked = wanted in (folder / "environ").read_bytes().split(b"\0")
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        except OSError:
            continue  # ended meanwhile, or another user's
        if marked and line:  # a zombie has no command line
            found[int(folder.name)] = line
    return found

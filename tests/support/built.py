"""Things that tests build once and keep: `.cache/<name>/<hash of the inputs>/`.

Invariants
1. A folder with its final name is complete: it is built beside it and renamed.
2. One builder at a time for all processes that share the checkout (an advisory file lock).
3. The name holds a hash of the inputs, so a changed input is a new folder.
"""

import fcntl
import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
CACHE = REPOSITORY / ".cache"


def built_folder(name: str, inputs: Iterable[Path | str]) -> Path:
    """Where `built_once` puts what it builds of these inputs; whole when it exists."""
    digest = hashlib.sha256()
    for item in inputs:
        content = item.read_bytes() if isinstance(item, Path) else item.encode()
        digest.update(len(content).to_bytes(8, "big") + content)
    return CACHE / name / digest.hexdigest()[:16]


def built_once(name: str, inputs: Iterable[Path | str], build: Callable[[Path], None]) -> Path:
    """Return the folder that `build(folder)` filled for these inputs; build it when it is not there.

    `inputs` are files (their bytes count) or plain strings (a version, a platform). What `build`
    raises goes to the caller, and nothing is kept then.
    """
    folder = built_folder(name, inputs)
    parent = folder.parent
    if folder.is_dir():
        return folder
    parent.mkdir(parents=True, exist_ok=True)
    with (parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.is_dir():  # another process built it while this one waited
            return folder
        work = Path(tempfile.mkdtemp(prefix="build-", dir=parent))
        try:
            build(work)
            work.rename(folder)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return folder

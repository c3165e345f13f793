"""Sizes: bytes that what judging keeps takes in memory, by estimate.

A function of what is kept and goes through `dump` and `load`, not of how an allocator laid it out or of what was worked
out on the way: so what fits does not depend on where a process began. `tests/unit/test_judge_memory.py` holds
the estimates against what is allocated.
"""

from __future__ import annotations

from typing import Final

from agent.fold.profile import Profile

#: A profile, and each of its columns beside its sketch: objects of Python.
PROFILE: Final = 600
COLUMN: Final = 450


def profile_bytes(profile: Profile) -> int:
    """A profile whose sketches are bytes."""
    sketches = sum(len(column.sketch) for column in profile.columns.values())
    return PROFILE + COLUMN * len(profile.columns) + sketches + len(profile.pairs)

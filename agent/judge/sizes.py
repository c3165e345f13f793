"""Sizes: bytes that what judging keeps takes in memory, by estimate.

A function of what is kept and goes through `dump` and `load`, not of how an allocator laid it out or of what was worked
out on the way: so what fits does not depend on where a process began. `tests/unit/test_judge_memory.py` holds
the estimates against what is allocated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agent.fold.profile import Profile

if TYPE_CHECKING:
    from agent.judge.standing import Standing

#: A profile, and each of its columns beside its sketch: objects of Python.
PROFILE: Final = 600
COLUMN: Final = 450


def profile_bytes(profile: Profile) -> int:
    """A profile whose sketches are bytes."""
    sketches = sum(len(column.sketch) for column in profile.columns.values())
    return PROFILE + COLUMN * len(profile.columns) + sketches + len(profile.pairs)


#: What is worked out of a column of a baseline, beside some six times its sketch: counts, ranks, cells.
_PREPARED, _TIMES = 1_500, 6
#: A cell of the change detector: its noise by size, its evidence in each judge.
_NOISE, _EVIDENCE = 900, 700
#: A model without anything learned, and one monitor of a value on one stream of it.
MODEL, BOUND = 12_000, 2_000
#: A learner at its largest, of each column: panes, hours, windows that wait, and what it stands on meanwhile.
LEARNING_COLUMN, LEARNING_SEGMENT = 80_000, 25_000


def prepared_bytes(profile: Profile) -> int:
    """What comparing windows with a baseline works out of it, at two scales."""
    sketches = sum(len(column.sketch) for column in profile.columns.values())
    return _PREPARED * len(profile.columns) + _TIMES * sketches


def standing_bytes(standing: Standing, n_judges: int) -> int:
    """What a model is judged against by so many rules. Of a baseline that was given the profiles are the file's."""
    total = 0
    for against in (standing.whole, *standing.segments.values()):
        known = against.reference
        for profile in (known.profile, *known.hours.values()):
            total += prepared_bytes(profile)
            total += profile_bytes(profile) if standing.is_learned else 0
    if standing.is_swinging:  # each rule follows the last windows, too
        total += n_judges * prepared_bytes(standing.whole.reference.profile)
    cells = len(standing.calibration.cells) * (1 + len(standing.segments))
    return total + cells * (_NOISE + _EVIDENCE * n_judges)


def learning_bytes(n_columns: int, n_segments: int) -> int:
    """What a model without a baseline will need until it has learned, of so many columns (of all segments together)."""
    return MODEL + n_columns * (LEARNING_COLUMN + LEARNING_SEGMENT * n_segments)

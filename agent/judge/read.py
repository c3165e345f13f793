"""What files had beside the rows that are judged: said in a note, and in documents by its count."""

from __future__ import annotations

from typing import Final

from agent.types import Irregular, Json, Tally

#: Late and future rows have notes of their own, which say what to do.
_SAID: Final = (Irregular.LATE, Irregular.FUTURE)


def read_json(tally: Tally) -> Json:
    """Rows that were counted; records and events that were not, by reason; rows that were odd, by how."""
    return {
        "rows": tally.rows,
        "dropped": {str(why): n for why, n in sorted(tally.dropped.items()) if n},
        "irregular": {str(how): n for how, n in sorted(tally.irregular.items()) if n},
    }


def read_notes(tally: Tally) -> list[str]:
    """A sentence for what was dropped, and one for what was odd; none where there is nothing to say."""
    notes = []
    dropped = {why: n for why, n in tally.dropped.items() if n}
    if dropped:
        notes.append(
            f"{sum(dropped.values()):,} of {tally.records:,} records could not be used ({_listed(dropped)})"
        )
    odd = {how: n for how, n in tally.irregular.items() if n and how not in _SAID}
    if odd:
        notes.append(f"odd in {tally.rows:,} rows: {_listed(odd)}; they are counted")
    return notes


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {n:,}" for name, n in sorted(counts.items()))

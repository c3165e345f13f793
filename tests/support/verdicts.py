"""Verdicts for tests, told apart by what a test changes."""

import math
from typing import Any

from agent.types import StreamKey
from agent.verdict import Cause, Severity, State, Verdict

HOUR_MS = 3_600_000
#: 2026-01-05T10:00:00Z
START_MS = 1_767_607_200_000
STREAM = StreamKey("flight-delay", "7", (("region", "eu"),))


def verdict(state: State = State.FIRING, **changes: Any) -> Verdict:
    """The verdict of a page about a feed that turned null, in one hour of one stream."""
    fields: dict[str, Any] = {
        "monitor": "drift",
        "stream": STREAM,
        "window_start_ms": START_MS,
        "window_end_ms": START_MS + HOUR_MS,
        "state": state,
        "previous": State.PENDING,
        "severity": Severity.PAGE,
        "value": 2500.0,
        "threshold": 2016.0,
        "metric": "change",
        "feature": "distance",
        "source": "weather",
        "alarm": "a-1",
        "why": "distance is missing in 100 % of rows; it was 0.2 %.",
        "rows": 10_000,
        "baseline": "january",
        "minimum_effect": 0.02,
        "attribution": (
            Cause(
                statistic="missing",
                score=math.inf,
                feature="distance",
                source="weather",
                segment=(("region", "eu"),),
                share=0.9,
                trace_ids=("0af7651916cd43dd8448eb211c80319c",),
            ),
            Cause(statistic="loc", score=4.5, feature="dep_hour", detail="bins 3 to 5"),
        ),
    }
    return Verdict(**{**fields, **changes})

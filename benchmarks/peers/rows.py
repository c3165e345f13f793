"""An event as peers see it: one level of names."""

from __future__ import annotations

from typing import Any

N_FEATURES = 10
NUMBERS = (*(f"f{j}" for j in range(N_FEATURES)), "latency_ms", "prediction")
TEXTS = ("session", "country")
#: Of each number: an answer has its values at these.
QUANTILES = (0.05, 0.5, 0.95)


def flat(event: dict[str, Any]) -> dict[str, Any]:
    """The columns of the job, and the model."""
    row = event["features"]
    row["latency_ms"] = event["latency_ms"]
    row["prediction"] = event["prediction"]
    row["model"] = event["model"]
    return row

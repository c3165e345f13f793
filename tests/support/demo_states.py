"""States as `/v1/state` gives them, made from arrays by definition: one stream or more, one day each. And CloudEvents
as actions send them.
"""

import datetime as dt
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from agent.demo.flights import CATEGORICAL, DAY_MS, NUMERIC, YEAR_START_MS

SCALE = 6


def numeric_column(values: np.ndarray, scale: int = SCALE) -> dict[str, Any]:
    """NaN is a missing value."""
    present = values[~np.isnan(values)]

    def side(part: np.ndarray) -> dict[str, Any]:
        if not len(part):
            return {"offset": 0, "counts": []}
        indices = [math.ceil(math.log2(v) * 2**scale) - 1 for v in part]
        counts = np.bincount(np.array(indices) - min(indices))
        return {"offset": min(indices), "counts": counts.tolist()}

    return {
        "kind": "numeric",
        "count": len(present),
        "missing": len(values) - len(present),
        "distinct": len(np.unique(present)),
        "top": [],
        "histogram": {
            "scale": scale,
            "zero": int((present == 0).sum()),
            "positive": side(present[present > 0]),
            "negative": side(-present[present < 0]),
        },
    }


def text_column(values: Sequence[str]) -> dict[str, Any]:
    names, counts = np.unique(np.array(values), return_counts=True)
    top = sorted(zip(names.tolist(), counts.tolist(), strict=True), key=lambda pair: -pair[1])
    return {
        "kind": "categorical",
        "count": len(values),
        "missing": 0,
        "distinct": len(names),
        "top": [list(pair) for pair in top],
        "histogram": None,
    }


def stream(
    origin: str, day: int, features: Mapping[str, dict[str, Any]], rows: int, *, late: int = 0
) -> dict[str, Any]:
    """One stream with one sealed window: day `day` of the year."""
    start_ms = YEAR_START_MS + day * DAY_MS
    seconds = np.full(rows, 0.002)
    predictions = {
        "label": {"kind": "categorical", "top": [["on_time", rows - late], ["late", late]]},
        "score": numeric_column(np.linspace(0.05, 0.9, rows)),
    }
    window = {
        "start_ms": start_ms,
        "end_ms": start_ms + DAY_MS,
        "rows": rows,
        "errors": 0,
        "partial": False,
        "coverage": 1.0,
        "features": dict(features),
        "predictions": predictions,
        "latency": numeric_column(seconds),
    }
    return {
        "model": "flight-delay",
        "version": "1",
        "segment": {"origin": origin},
        "rows": rows * (day + 1),
        "errors": 0,
        "totals": {
            "features": dict(features),
            "predictions": predictions,
            "latency": window["latency"],
            "usage": {},
        },
        "windows": [window],
    }


def event(
    monitor: str,
    day: int,
    *,
    state: str = "firing",
    version: str = "1",
    source: str | None = None,
    features: Sequence[str] = ("prediction.score",),
    origin: str | None = None,
    severity: str = "page",
    detail: str = "32.6% of rows have no value",
) -> dict[str, Any]:
    """What a webhook hears of one alarm whose window is day `day`; `origin` explains it."""
    start = dt.datetime.fromtimestamp((YEAR_START_MS + day * DAY_MS) / 1000, dt.UTC)
    segment = None if origin is None else {"origin": origin}
    causes = [
        {"feature": name, "source": source, "segment": segment, "share": 0.9, "detail": detail}
        for name in features
    ]
    if source is not None:
        causes.insert(
            0, {"feature": None, "source": source, "segment": None, "share": 1.0, "detail": "86%"}
        )
    return {
        "id": f"{monitor}-{version}-{state}",
        "type": f"inference.verdict.{state}",
        "subject": f"flight-delay/{version}",
        "data": {
            "monitor": monitor,
            "stream": {"model": "flight-delay", "version": version, "segment": {}},
            "state": state,
            "severity": severity,
            "alarm": f"{monitor}:flight-delay/{version}",
            "why": "flight-delay has changed",
            "window_start": start.isoformat(),
            "source": source,
            "feature": features[0] if source is None else None,
            "attribution": causes,
        },
    }


def ordinary_day(rng: np.random.Generator, origin: str, rows: int = 300) -> dict[str, Any]:
    """Features of a day without any fault; steady, unlike weather."""
    columns: dict[str, Any] = {
        name: numeric_column(rng.choice([100.0, 200.0, 400.0, 800.0, 1600.0], rows))
        for name in NUMERIC
    }
    for name in CATEGORICAL:
        values = [origin] * rows if name == "origin" else rng.choice(["UA", "B6", "DL"], rows)
        columns[name] = text_column(list(values))
    return columns

"""What a plain Python consumer does with an event: orjson, a list per row, one numpy array per 2000 rows.

Two ways to write it. `discovered` is the one that ratios are against: as the agent does, it takes
whatever features an event has, numbers and texts apart. `known` has all names written into the
program and takes nothing else: a little faster, and blind to anything new. Texts are kept until the batch ends. Nothing is sketched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import orjson

BATCH_ROWS = 2000
Row = tuple[list[Any], list[str]]


def loads(values: Sequence[bytes]) -> None:
    """Parse, keep nothing."""
    parse = orjson.loads
    for value in values:
        parse(value)


def discovered(values: Sequence[bytes], read: Callable[[Any], Row]) -> int:
    """All rows into arrays; returns how many there were. Events that are none are counted and left out."""
    n = 0
    for low in range(0, len(values), BATCH_ROWS):
        rows, texts = [], []
        for value in values[low : low + BATCH_ROWS]:
            try:
                numbers, strings = read(orjson.loads(value))
            except (ValueError, KeyError):
                continue
            rows.append(numbers)
            texts.append(strings)
        n += len(rows)
        try:
            np.array(rows, np.float64)
        except ValueError:  # optional features: rows of different lengths
            np.array([number for row in rows for number in row], np.float64)
    return n


def discovered_flat(values: Sequence[bytes]) -> None:
    """`discovered` for sound events of one level, without a call per event: the baseline of the bars."""
    for low in range(0, len(values), BATCH_ROWS):
        rows, texts = [], []
        for value in values[low : low + BATCH_ROWS]:
            event = orjson.loads(value)
            numbers = [event["ts"], event["latency_ms"], event["prediction"]]
            strings = [event["id"], event["model"], event["version"]]
            for feature in event["features"].values():
                (strings if isinstance(feature, str) else numbers).append(feature)
            rows.append(numbers)
            texts.append(strings)
        np.array(rows, np.float64)


def known(values: Sequence[bytes], names: Sequence[str], text: str) -> None:
    """The same for flat events whose columns are known beforehand."""
    for low in range(0, len(values), BATCH_ROWS):
        rows, texts = [], []
        for value in values[low : low + BATCH_ROWS]:
            event = orjson.loads(value)
            features = event["features"]
            rows.append(
                (
                    event["ts"],
                    event["latency_ms"],
                    event["prediction"],
                    *[features[name] for name in names],
                )
            )
            texts.append((event["id"], event["model"], event["version"], features[text]))
        np.array(rows, np.float64)


def flat(event: Any) -> Row:
    """Events of one level of features, with a number or text as prediction."""
    numbers = [event["ts"]]
    texts = [event["id"], event["model"], event["version"]]
    if "latency_ms" in event:
        numbers.append(event["latency_ms"])
    for value in event["features"].values():
        (texts if isinstance(value, str) else numbers).append(value)
    value = event["prediction"]
    (texts if isinstance(value, str) else numbers).append(value)
    return numbers, texts


def deep(event: Any) -> Row:
    """Events with objects inside features and prediction."""
    numbers: list[Any] = [event["ts"], event["latency_ms"]]
    texts: list[str] = [event["id"], event["model"], event["version"]]
    _walk(event["features"], numbers, texts)
    _walk(event["prediction"], numbers, texts)
    return numbers, texts


def _walk(tree: Any, numbers: list[Any], texts: list[str]) -> None:
    for value in tree.values():
        if isinstance(value, dict):
            _walk(value, numbers, texts)
        else:
            (texts if isinstance(value, str) else numbers).append(value)


def tensors(event: Any) -> Row:
    """Open Inference Protocol: the first element of every tensor."""
    numbers: list[Any] = []
    texts: list[str] = [event["id"], event["model_name"], event["model_version"]]
    for part in (event["inputs"], event["outputs"]):
        for tensor in part:
            value = tensor["data"][0]
            (texts if isinstance(value, str) else numbers).append(value)
    return numbers, texts


def reader(shape: str) -> Callable[[Any], Row]:
    """How rows of a shape of `benchmarks.events` are read."""
    return {"nested": deep, "kserve_v2": tensors, "kserve_v2_off_5": tensors}.get(shape, flat)

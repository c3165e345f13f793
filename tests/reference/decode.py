"""What an event means, written for reading: recursive, one value at a time, over `json.loads`.

The oracle of the decoder's property tests. It knows nothing of lanes, blocks or orjson.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from agent.types import Column, Drop, JsonType, Role, StreamKey

NULL = "<null>"


@dataclass
class Limits:
    max_depth: int = 32
    max_features: int = 2000
    max_name_bytes: int = 200


@dataclass
class Meaning:
    """Of a list of records."""

    rows: list[tuple[StreamKey, int, bool, dict[tuple[Column, JsonType], Any]]] = field(
        default_factory=list
    )
    dropped: Counter[Drop] = field(default_factory=Counter)
    dead: list[int] = field(default_factory=list)
    events: int = 0
    labels: Counter[str] = field(default_factory=Counter)


class Wrong(Exception):
    pass


def meaning(records: list[bytes], timestamp_ms: int, limits: Limits) -> Meaning:
    out = Meaning()
    for n, raw in enumerate(records):
        drops: list[Drop] = []
        try:
            tree = parse(raw)
            if depth(tree) > limits.max_depth:
                raise Wrong(Drop.TOO_DEEP)
            events = tree if isinstance(tree, list) else [tree]
            if not events:
                raise Wrong(Drop.EMPTY)
            if not any(isinstance(event, dict) for event in events):
                raise Wrong(Drop.NOT_AN_EVENT)
        except Wrong as wrong:
            drops = [wrong.args[0]]
            events = []
        for event in events:
            try:
                rows, label = read(event, timestamp_ms, limits)
            except Wrong as wrong:
                drops.append(wrong.args[0])
                continue
            out.events += 1
            out.rows += rows
            out.labels += label
        out.dropped.update(drops)
        if drops:
            out.dead.append(n)
    return out


def parse(raw: bytes) -> Any:
    if not raw:
        raise Wrong(Drop.EMPTY)

    def refuse(text: str) -> None:
        raise ValueError(text)

    def integer(text: str) -> int | float:
        value = int(text)
        return value if -(2**63) <= value < 2**64 else finite(text)

    def finite(text: str) -> float:
        value = float(text)
        if math.isinf(value):
            raise ValueError(text)
        return value

    try:
        return json.loads(
            raw.decode("utf-8", "strict"),
            parse_constant=refuse,
            parse_int=integer,
            parse_float=finite,
        )
    except ValueError:
        raise Wrong(Drop.INVALID_JSON) from None


def depth(tree: Any) -> int:
    if isinstance(tree, dict):
        return 1 + max((depth(value) for value in tree.values()), default=0)
    if isinstance(tree, list):
        return 1 + max((depth(value) for value in tree), default=0)
    return 0


def read(event: Any, timestamp_ms: int, limits: Limits) -> tuple[list[Any], Counter[str]]:
    """Rows and labels of one event; raises Wrong with the reason to drop it."""
    if not isinstance(event, dict):
        raise Wrong(Drop.NOT_AN_EVENT)
    parts = {name: value for name, value in event.items() if value is not None}
    has_rows = bool(parts.keys() & {"features", "prediction", "usage"})
    if not has_rows and "label" not in parts:
        raise Wrong(Drop.NO_CONTENT)
    model = name_of(parts.get("model", ""), limits)
    time_ms = time_of(parts.get("ts"), timestamp_ms)
    if not has_rows:
        return [], Counter([model])
    if not model:
        raise Wrong(Drop.NO_MODEL)
    features = parts.get("features", {})
    prediction, label = parts.get("prediction"), parts.get("label")
    is_batch = isinstance(features, list)
    if not is_batch:
        features = [features]
    if not features:
        raise Wrong(Drop.EMPTY)
    n = len(features)
    predictions = [prediction] + [None] * (n - 1)
    if is_batch and isinstance(prediction, list) and len(prediction) == n:
        predictions = prediction
    n_labels = (
        0 if label is None else n if is_batch and isinstance(label, list) and len(label) == n else 1
    )
    key = StreamKey(model, name_of(parts.get("version", ""), limits), segment_of(parts, limits))
    rows = []
    for i in range(n):
        values = dict(row_of(parts, features[i], predictions[i], is_first=i == 0, limits=limits))
        if len(values) > limits.max_features:
            raise Wrong(Drop.TOO_WIDE)
        rows.append((key, time_ms, is_error(parts.get("status", "ok")), values))
    return rows, Counter({model: n_labels} if n_labels else {})


def row_of(
    parts: dict[str, Any], features: Any, prediction: Any, *, is_first: bool, limits: Limits
) -> Iterator[tuple[tuple[Column, JsonType], Any]]:
    if not isinstance(features, dict):
        raise Wrong(Drop.BAD_FIELD)
    yield from columns(Role.FEATURE, features, limits)
    if prediction is not None:
        if not isinstance(prediction, dict):
            name = {str: "label", list: "vector"}.get(type(prediction), "value")
            prediction = {name: prediction}
        yield from columns(Role.PREDICTION, prediction, limits)
    if is_first and "usage" in parts:
        if not isinstance(parts["usage"], dict):
            raise Wrong(Drop.BAD_FIELD)
        for name, value in leaves(parts["usage"], limits).items():
            if is_number(value):
                column = Column(Role.USAGE, "ttft" if name == "ttft_ms" else name)
                yield (column, JsonType.NUMBER), float(value) / (1000 if name == "ttft_ms" else 1)
    latency = parts.get("latency_ms")
    if is_number(latency) and latency >= 0:
        yield (Column(Role.LATENCY, "latency"), JsonType.NUMBER), float(latency) / 1000


def columns(
    role: Role, tree: dict[str, Any], limits: Limits
) -> Iterator[tuple[tuple[Column, JsonType], Any]]:
    for name, value in leaves(tree, limits).items():
        yield (Column(role, name), type_of(value)), stored(value)


def leaves(tree: dict[str, Any], limits: Limits, prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            found.update(leaves(value, limits, f"{prefix}{key}."))
        else:
            found[cut(f"{prefix}{key}", limits)] = value
    if len(found) > limits.max_features:
        raise Wrong(Drop.TOO_WIDE)
    return found


def type_of(value: Any) -> JsonType:
    if isinstance(value, bool):
        return JsonType.BOOLEAN
    if value is None or is_number(value):
        return JsonType.NUMBER  # a null is checked apart: its lane depends on what came before
    if isinstance(value, str):
        return JsonType.STRING
    return JsonType.VECTOR if all(is_number(item) for item in value) else JsonType.OTHER


def stored(value: Any) -> Any:
    if value is None:
        return NULL
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return norm(value) if type_of(value) is JsonType.VECTOR else math.nan
    return float(value)


def norm(vector: list[float]) -> float:
    """Euclidean, scaled by the largest component so that squares stay in range."""
    largest = max((abs(float(x)) for x in vector), default=0.0)
    if largest == 0.0:
        return 0.0
    return largest * math.sqrt(math.fsum((float(x) / largest) ** 2 for x in vector))


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def cut(name: str, limits: Limits) -> str:
    while len(name.encode()) > limits.max_name_bytes:
        name = name[:-1]
    return name


def name_of(value: Any, limits: Limits) -> str:
    if isinstance(value, str):
        return cut(value, limits)
    if is_number(value):
        return cut(json.dumps(value), limits)
    raise Wrong(Drop.BAD_FIELD)


def segment_of(parts: dict[str, Any], limits: Limits) -> tuple[tuple[str, str], ...]:
    segment = parts.get("segment", {})
    if not isinstance(segment, dict):
        raise Wrong(Drop.BAD_FIELD)
    if len(segment) > limits.max_features:
        raise Wrong(Drop.TOO_WIDE)
    found = {}
    for name, value in segment.items():
        if value is not None:
            is_bool = isinstance(value, bool)
            found[cut(name, limits)] = json.dumps(value) if is_bool else name_of(value, limits)
    return tuple(sorted(found.items()))


def time_of(value: Any, timestamp_ms: int) -> int:
    """Only the forms that the strategies make: epoch milliseconds, or nothing."""
    if value is None:
        return timestamp_ms
    if is_number(value) and 1e11 <= value < 1e14:
        return math.floor(value)
    raise Wrong(Drop.BAD_FIELD)


def is_error(status: Any) -> bool:
    if isinstance(status, bool):
        return not status
    if isinstance(status, str):
        return status.lower() not in ("ok", "success", "0", "") and not (
            len(status) == 3 and status[0] == "2" and all(c in "0123456789" for c in status)
        )
    if is_number(status):
        return not (status == 0 or 200 <= status < 300)
    return True

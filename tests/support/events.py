"""Seeded events of many shapes, with what they hold: counted while they are made, never by reading them.

Each record is first a meaning (streams, values, times), which is added to `Expected`, and then a text:
compact, spaced or indented JSON, keys in any order, escaped or not, times in any of the forms that are
accepted, alone, in batches or in arrays. So the expectation does not depend on any JSON reader.

    values, expected = make_events(10_000, seed=7)
    expected.rows, expected.dropped, expected.streams[StreamKey("churn", "1")].columns[...]
"""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from agent.types import Column, Drop, JsonType, Role, StreamKey

START_MS = 1_767_225_600_000  # 2026-01-01T00:00:00Z

#: Feature name -> JSON type of its ordinary values.
FEATURES: dict[str, JsonType] = {
    "amount": JsonType.NUMBER,  # log-normal over some seven decades
    "delta": JsonType.NUMBER,  # normal about zero
    "hour": JsonType.NUMBER,  # integers 0..23
    "balance": JsonType.NUMBER,  # mostly zero, some negative
    "geo.lat": JsonType.NUMBER,  # nested
    "geo.zone": JsonType.STRING,  # nested
    "carrier": JsonType.STRING,  # few values
    "note": JsonType.STRING,  # every value another, beyond ASCII
    "member": JsonType.BOOLEAN,
    "embedding": JsonType.VECTOR,
}
_CARRIERS = ("UA", "DL", "AA", "B6", "EV")
_WORDS = ("naïve", "straße", "日本", "plain", '"quoted"', "back\\slash", "🙂", "tab\t", "")


@dataclass
class ExpectedColumn:
    """All values of one column of one stream, by JSON type; nulls and absences are missing."""

    numbers: list[float] = field(default_factory=list)
    booleans: list[bool] = field(default_factory=list)
    strings: list[str] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)  # of vectors
    nulls: int = 0

    def present(self) -> int:
        """Values of any type."""
        return len(self.numbers) + len(self.booleans) + len(self.strings) + len(self.norms)

    def count(self, kind: JsonType) -> int:
        return len(self.of(kind))

    def of(self, kind: JsonType) -> Sequence[Any]:
        return {
            JsonType.NUMBER: self.numbers,
            JsonType.BOOLEAN: self.booleans,
            JsonType.STRING: self.strings,
            JsonType.VECTOR: self.norms,
        }[kind]

    @property
    def sum(self) -> float:
        """Of the numbers, correctly rounded."""
        return math.fsum(self.numbers)

    @property
    def min(self) -> float:
        return min(self.numbers)

    @property
    def max(self) -> float:
        return max(self.numbers)

    def texts(self) -> Counter[str]:
        return Counter(self.strings)

    def add(self, value: Any) -> None:
        if value is None:
            self.nulls += 1
        elif isinstance(value, bool):
            self.booleans.append(value)
        elif isinstance(value, str):
            self.strings.append(value)
        elif isinstance(value, list):
            self.norms.append(math.sqrt(math.fsum(x * x for x in value)))
        else:
            self.numbers.append(float(value))


@dataclass
class ExpectedStream:
    """One (model, version, segment)."""

    rows: int = 0
    errors: int = 0
    times_ms: list[int] = field(default_factory=list)  # of each row
    columns: dict[Column, ExpectedColumn] = field(default_factory=dict)

    def column(self, role: Role, name: str) -> ExpectedColumn:
        return self.columns.setdefault(Column(role, name), ExpectedColumn())

    def missing(self, column: Column) -> int:
        return self.rows - self.columns[column].present()


@dataclass
class Expected:
    """What a list of records holds."""

    records: int = 0
    events: int = 0
    rows: int = 0
    labels: int = 0
    size_bytes: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    dead: int = 0  # records with at least one drop
    labels_by_model: Counter[str] = field(default_factory=Counter)
    streams: dict[StreamKey, ExpectedStream] = field(default_factory=dict)
    #: Timestamp that each record must be produced with: some events have no time of their own.
    timestamps_ms: list[int] = field(default_factory=list)

    def rows_by_window(self, width_s: float) -> Counter[int]:
        width_ms = int(width_s * 1000)
        return Counter(t // width_ms for stream in self.streams.values() for t in stream.times_ms)


def make_events(
    n: int,
    seed: int,
    *,
    models: Sequence[str] = ("flight-delay", "churn"),
    versions: Sequence[str] = ("1", "2"),
    segments: Sequence[dict[str, str]] = ({}, {"region": "eu", "tier": "gold"}),
    start_ms: int = START_MS,
    step_ms: int = 20,
    bad_share: float = 0.03,
    null_share: float = 0.04,
    absent_share: float = 0.04,
    violation_share: float = 0.01,
    error_share: float = 0.03,
    label_share: float = 0.05,
    batch_share: float = 0.05,
    array_share: float = 0.03,
) -> tuple[list[bytes | None], Expected]:
    """`n` records, `step_ms` apart in event time and in order, and what they hold.

    Shares are of records (bad, labels, batches, arrays), of rows (errors), or of values (null, absent,
    violations: a text where a number, or a number where a text is due). Two calls with the same
    arguments give the same bytes.
    """
    make = _Maker(
        random.Random(seed),
        [
            StreamKey(m, v, tuple(sorted(s.items())))
            for m in models
            for v in versions
            for s in segments
        ],
        null_share,
        absent_share,
        violation_share,
        error_share,
    )
    rng, expected = make.rng, make.expected
    records: list[bytes | None] = []
    for i in range(n):
        time_ms = start_ms + i * step_ms
        dice = rng.random()
        value: bytes | None
        if dice < bad_share:
            value = make.bad()
        elif dice < bad_share + label_share:
            value = make.text(make.label(time_ms))
        elif dice < bad_share + label_share + array_share:
            value = make.array(time_ms)
        else:
            rows = rng.randrange(2, 6) if rng.random() < batch_share else 0
            value = make.text(make.event(time_ms, rows))
        records.append(value)
        expected.records += 1
        expected.size_bytes += len(value or b"")
        expected.timestamps_ms.append(time_ms)
    return records, expected


class _Maker:
    def __init__(
        self,
        rng: random.Random,
        keys: list[StreamKey],
        null_share: float,
        absent_share: float,
        violation_share: float,
        error_share: float,
    ) -> None:
        self.rng = rng
        self.expected = Expected()
        self._keys = keys
        self._null_share = null_share
        self._absent_share = absent_share
        self._violation_share = violation_share
        self._error_share = error_share
        self._n = 0

    # -- meaning

    def event(self, time_ms: int, batch: int = 0) -> dict[str, Any]:
        """One event with rows; `batch` rows when it is not 0."""
        rng = self.rng
        key = rng.choice(self._keys)
        stream = self.expected.streams.setdefault(key, ExpectedStream())
        n = batch or 1
        self.expected.events += 1
        self.expected.rows += n
        stream.rows += n
        stream.times_ms += [time_ms] * n
        self._n += 1
        event: dict[str, Any] = {"id": f"r-{self._n}", "model": key.model, "version": key.version}
        if key.version.isdigit() and rng.random() < 0.2:
            event["version"] = int(key.version)
        if key.segment or rng.random() < 0.3:
            event["segment"] = dict(key.segment)
        if (time := self._time(time_ms)) is not None:
            event["ts"] = time
        rows = [self._features(stream) for _ in range(n)]
        outputs = [self._prediction(stream) for _ in range(n)]
        event["features"] = rows if batch else rows[0]
        event["prediction"] = outputs if batch else outputs[0]
        latency_ms = rng.choice((rng.randrange(1, 500), round(rng.expovariate(1 / 40), 3)))
        event["latency_ms"] = latency_ms
        for _ in range(n):
            stream.column(Role.LATENCY, "latency").add(latency_ms / 1000)
        if rng.random() < 0.2:
            tokens = rng.randrange(1, 5000)
            event["usage"] = {"input_tokens": tokens, "ttft_ms": 12.5, "tier": "default"}
            stream.column(Role.USAGE, "input_tokens").add(tokens)
            stream.column(Role.USAGE, "ttft").add(0.0125)
        if rng.random() < self._error_share:
            event["status"] = rng.choice(("failed", 500, False, "timeout"))
            stream.errors += n
        elif rng.random() < 0.5:
            event["status"] = rng.choice(("ok", "OK", "success", 200, 0, True, None))
        if rng.random() < 0.1:
            event["tags"] = {"pod": "p-1", "deep": [{"a": [1, 2, {"b": None}]}]}
        if rng.random() < 0.1:
            event["label"] = rng.choice(("late", 1, False))
            self._count_labels(key.model)
        return event

    def label(self, time_ms: int) -> dict[str, Any]:
        """A label that comes on its own."""
        event: dict[str, Any] = {
            "id": f"r-{self.rng.randrange(1000)}",
            "label": self.rng.choice(("late", 0.5)),
        }
        model = ""
        if self.rng.random() < 0.7:
            model = event["model"] = self.rng.choice(self._keys).model
        if self.rng.random() < 0.7:
            event["ts"] = time_ms
        self.expected.events += 1
        self._count_labels(model)
        return event

    def _count_labels(self, model: str) -> None:
        self.expected.labels += 1
        self.expected.labels_by_model[model] += 1

    def _features(self, stream: ExpectedStream) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for name, kind in FEATURES.items():
            dice = self.rng.random()
            if dice < self._absent_share:
                continue
            dice -= self._absent_share
            value = self._value(name)
            if dice < self._null_share:
                value = None
            elif dice < self._null_share + self._violation_share:
                value = 7.25 if kind is JsonType.STRING else "odd"
            stream.column(Role.FEATURE, name).add(value)
            node, _, leaf = name.rpartition(".")
            (made.setdefault(node, {}) if node else made)[leaf] = value
        return made

    def _value(self, name: str) -> Any:
        rng = self.rng
        match name:
            case "amount":
                return rng.lognormvariate(3, 2.5)
            case "delta":
                return rng.gauss(0, 1)
            case "hour":
                return rng.randrange(24)
            case "balance":
                return rng.choice((0, 0.0, -0.0, -rng.random() * 100, rng.random() * 1e-3))
            case "geo.lat":
                return rng.uniform(-90, 90)
            case "geo.zone":
                return f"z{rng.randrange(40)}"
            case "carrier":
                return rng.choice(_CARRIERS)
            case "note":
                return f"{rng.choice(_WORDS)} {rng.randrange(10**9)}"
            case "member":
                return rng.random() < 0.3
        return [rng.gauss(0, 1) for _ in range(8)]

    def _prediction(self, stream: ExpectedStream) -> dict[str, Any]:
        score = self.rng.random()
        label = "late" if score > 0.7 else "on_time"
        for name, value in (
            ("score", score),
            ("label", label),
            ("probabilities.late", score),
            ("probabilities.on_time", 1 - score),
        ):
            stream.column(Role.PREDICTION, name).add(value)
        return {
            "label": label,
            "score": score,
            "probabilities": {"late": score, "on_time": 1 - score},
        }

    # -- text

    def _time(self, time_ms: int) -> Any:
        """One of the accepted forms of this time; None: leave it to the record's timestamp."""
        at = datetime.fromtimestamp(time_ms // 1000, UTC)
        forms = (
            time_ms,
            time_ms,
            time_ms / 1000,
            time_ms * 1000,
            time_ms * 1_000_000,
            str(time_ms),
            f"{at:%Y-%m-%dT%H:%M:%S}.{time_ms % 1000:03}Z",
            f"{at:%Y-%m-%d %H:%M:%S}.{time_ms % 1000:03}000+00:00",
            None,
        )
        return self.rng.choice(forms)

    def text(self, event: Any) -> bytes:
        """JSON in one of the ways producers write it."""
        rng = self.rng
        if isinstance(event, dict) and rng.random() < 0.3:
            items = list(event.items())
            rng.shuffle(items)
            event = dict(items)
        style: dict[str, Any] = rng.choice(
            ({"separators": (",", ":")}, {"separators": (",", ":")}, {}, {"indent": 2})
        )
        raw = json.dumps(event, ensure_ascii=rng.random() < 0.5, **style).encode()
        return b" \n" + raw + b"\r\n" if rng.random() < 0.05 else raw

    def array(self, time_ms: int) -> bytes:
        """Some events in one record, perhaps with one that is none."""
        events: list[Any] = [self.event(time_ms) for _ in range(self.rng.randrange(1, 4))]
        if self.rng.random() < 0.3:
            events.insert(self.rng.randrange(len(events) + 1), 17)
            self._drop(Drop.NOT_AN_EVENT)
        return self.text(events)

    def bad(self) -> bytes | None:
        """A record that gives nothing, for one of many reasons."""
        reason, value = self.rng.choice(BAD_RECORDS)
        self._drop(reason)
        return value

    def _drop(self, reason: Drop) -> None:
        self.expected.dropped[reason] += 1
        self.expected.dead += 1


#: One record for each way to be dropped that a producer has under the default configuration.
BAD_RECORDS: tuple[tuple[Drop, bytes | None], ...] = (
    (Drop.TOMBSTONE, None),
    (Drop.EMPTY, b""),
    (Drop.EMPTY, b"[]"),
    (Drop.INVALID_JSON, b"not json"),
    (Drop.INVALID_JSON, b'{"model":"m","features":{"x":1}'),
    (Drop.INVALID_JSON, b'{"model":"\xc3\x28","features":{"x":1}}'),
    (Drop.INVALID_JSON, b"\x00\x00\x00\x00\x01binary"),
    (Drop.TOO_DEEP, b'{"model":"m","features":{"x":' + b"[" * 40 + b"]" * 40 + b"}}"),
    (Drop.NOT_AN_EVENT, b"5"),
    (Drop.NOT_AN_EVENT, b'"text"'),
    (Drop.NOT_AN_EVENT, b"[1,2]"),
    (Drop.NO_MODEL, b'{"features":{"x":1}}'),
    (Drop.NO_CONTENT, b'{"model":"m"}'),
    (Drop.BAD_FIELD, b'{"model":"m","features":[1,2]}'),
    (Drop.BAD_FIELD, b'{"model":"m","features":{"x":1},"ts":"noon"}'),
    (
        Drop.TOO_WIDE,
        json.dumps({"model": "m", "features": dict.fromkeys(map(str, range(2001)), 1)}).encode(),
    ),
)

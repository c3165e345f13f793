"""Seeded events of the shapes that producers send, as JSON text in the ways producers write it.

Each shape is a function of a random generator; `base_records` draws from all of them. Values are
fresh in every event, so that the numbers and texts of two events hardly ever agree.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

Shape = Callable[[random.Random], Any]

START_MS = 1_767_225_600_000
_WORDS = (
    "naïve",
    "straße",
    "日本語",
    "plain",
    '"quoted"',
    "back\\slash",
    "🙂",
    "tab\t",
    "",
    "x" * 40,
)
_CODES = ("UA", "DL", "AA", "B6", "EV")


def number(rng: random.Random) -> Any:
    """A number of one of the lengths and forms that are met: also big integers and exponents."""
    dice = rng.randrange(12)
    if dice < 4:
        return rng.gauss(0, 1)
    if dice == 4:
        return round(rng.uniform(-1000, 1000), rng.randrange(1, 7))
    if dice == 5:
        return rng.randrange(-100, 1000)
    if dice == 6:
        return rng.getrandbits(rng.randrange(1, 66)) * rng.choice((1, -1))
    if dice == 7:
        return rng.uniform(-1, 1) * 10.0 ** rng.randrange(-320, 308)
    if dice == 8:
        return float(rng.randrange(10**6))
    if dice == 9:
        return rng.choice(
            (0, 0.0, -0.0, 1e22, 1e23, 5e-324, 2.2250738585072014e-308, 1e-5, 2**53 + 1)
        )
    if dice == 10:
        return rng.random() * 1e-3
    return rng.getrandbits(60)


def time(rng: random.Random) -> Any:
    """An event time in one of the accepted forms."""
    ms = START_MS + rng.randrange(3_600_000)
    dice = rng.randrange(12)
    if dice < 7:
        return ms
    second = ms // 1000 % 60
    return (
        ms / 1000,
        ms * 1000 + rng.randrange(1000),
        ms * 1_000_000,
        str(ms),
        f"2026-01-01T00:{ms // 60_000 % 60:02}:{second:02}.{ms % 1000:03}Z",
    )[dice - 7]


def _head(rng: random.Random, model: str) -> dict[str, Any]:
    return {
        "id": f"r-{rng.getrandbits(32):08x}",
        "ts": time(rng),
        "model": model,
        "version": rng.choice(("1", "2", 3)),
    }


def reference(rng: random.Random) -> Any:
    """The event that speed is measured with: about 419 bytes, ten floats."""
    return {
        "id": f"req-{rng.randrange(10**8):08d}",
        "ts": START_MS + rng.randrange(10**6),
        "model": rng.choice(("fraud", "fraud-b")),
        "version": "v3",
        "latency_ms": rng.random() * 40,
        "features": {f"f{i}": rng.gauss(0, 1) for i in range(10)},
        "country": rng.choice(("DE", "FR", "US", "IN")),
        "prediction": rng.random(),
        "label": rng.randint(0, 1),
    }


def nested(rng: random.Random) -> Any:
    score = rng.random()
    return {
        **_head(rng, "nested"),
        "features": {
            "geo": {"lat": rng.uniform(-90, 90), "zone": f"z{rng.randrange(40)}"},
            "user": {"age": rng.randrange(99), "plan": {"tier": rng.choice(_CODES), "paid": True}},
        },
        "prediction": {
            "label": "late" if score > 0.5 else "on_time",
            "score": score,
            "probabilities": {"late": score, "on_time": 1 - score},
        },
        "latency_ms": round(rng.expovariate(0.02), 3),
        "status": rng.choice(("ok", "OK", 200, 500, "failed", "ok", 0, True)),
        "segment": {"region": rng.choice(("eu", "us")), "tier": rng.choice((1, 2, True, None))},
        "tags": {"pod": f"p-{rng.randrange(9)}"},
    }


def strings_only(rng: random.Random) -> Any:
    return {
        **_head(rng, "strings"),
        "features": {
            name: rng.choice(_WORDS) + str(rng.randrange(10 ** rng.randrange(1, 12)))
            for name in ("carrier", "merchant", "user", "text", "größe")
        },
        "prediction": rng.choice(_CODES),
        "traceparent": f"00-{rng.getrandbits(128):032x}-{rng.getrandbits(64):016x}-01",
        "tracestate": rng.choice(("ot=th:8", "", "a=b")),
    }


def vectors(rng: random.Random) -> Any:
    return {
        **_head(rng, "vectors"),
        "features": {
            "embedding": [rng.gauss(0, 1) for _ in range(rng.randrange(12))],
            "zeros": [0] * rng.randrange(3),
            "sizes": [number(rng) for _ in range(rng.randrange(4))],
        },
        "prediction": [rng.random() for _ in range(3)],
    }


def optional(rng: random.Random) -> Any:
    features: dict[str, Any] = {}
    for i in range(12):
        dice = rng.random()
        if dice < 0.7:
            features[f"x{i}"] = number(rng)
        elif dice < 0.8:
            features[f"x{i}"] = None
    if rng.random() < 0.5:
        features["holiday"] = rng.random() < 0.3
    event = {**_head(rng, "optional"), "features": features, "prediction": number(rng)}
    for name in ("version", "ts", "id"):
        if rng.random() < 0.2:
            event[name] = None
        elif rng.random() < 0.2:
            del event[name]
    return event


def mixed(rng: random.Random) -> Any:
    """Values whose JSON type changes from row to row."""
    values = (1, 2.5, "text", True, None, [1, 2], {"b": 1}, [], {}, ["a"], [1, None], 7)
    return {
        "model": rng.choice(("mixed", "mixed", 7, "größe")),
        "features": {name: rng.choice(values) for name in ("a", "code", "c", "a.b")},
        "prediction": rng.choice(values),
        "latency_ms": rng.choice((1, 0, -1, "fast", None, 2.5)),
    }


def usage(rng: random.Random) -> Any:
    return {
        **_head(rng, "llm"),
        "usage": {
            "input_tokens": rng.randrange(5000),
            "output_tokens": rng.randrange(900),
            "ttft_ms": rng.choice((210.0, 12, rng.random() * 900)),
            "tier": "default",
            "details": {"cached": rng.randrange(9), "list": [1, "a"]},
        },
        "latency_ms": rng.random() * 9000,
        "tags": {"tools": [{"name": "a", "n": 1}, {"name": "b"}], "deep": [[1, [2]], {"x": None}]},
    }


def wide(rng: random.Random) -> Any:
    return {
        "model": "wide",
        "ts": START_MS,
        "features": {f"feature_{i:03}": round(rng.gauss(0, 9), 4) for i in range(60)},
        "prediction": {"score": rng.random()},
    }


def batch(rng: random.Random) -> Any:
    n = rng.randrange(1, 4)
    event: dict[str, Any] = {**_head(rng, "batch")}
    event["features"] = [{"x": number(rng), "c": rng.choice(_CODES)} for _ in range(n)]
    event["prediction"] = [rng.random() for _ in range(n)]
    if rng.random() < 0.3:
        event["label"] = rng.choice(("late", [1] * n))
    return [event, reference(rng)] if rng.random() < 0.3 else event


def label(rng: random.Random) -> Any:
    event: dict[str, Any] = {
        "id": f"r-{rng.randrange(1000)}",
        "label": rng.choice((1, "late", 0.5)),
    }
    if rng.random() < 0.7:
        event["model"] = rng.choice(("fraud", "nested"))
    if rng.random() < 0.7:
        event["ts"] = time(rng)
    return event


def mapped(rng: random.Random) -> Any:
    """An event in another form: its fields lie where `configurations.MAPPED` says."""
    event: dict[str, Any] = {
        "meta": {
            "request": f"q{rng.randrange(10**6)}",
            "at": time(rng),
            "name": rng.choice(("other", "another")),
            "release": rng.choice(("7", 8)),
            "where": rng.choice(("eu", "us", 1, True)),
        },
        "in.put": {"x": number(rng), "y": rng.choice(_WORDS), "z": {"w": number(rng)}},
        "out": {"v": rng.choice((rng.random(), "late", {"score": 1, "label": "x"}))},
        "took": rng.random(),
    }
    if rng.random() < 0.2:
        event["rest"] = {"a": rng.choice(([1, {"b": "c"}], [], [2], 3, {"0": 1}))}
    return event


SHAPES: tuple[Shape, ...] = (
    reference,
    reference,
    nested,
    nested,
    strings_only,
    vectors,
    optional,
    optional,
    mixed,
    usage,
    wide,
    batch,
    label,
    mapped,
)
_STYLES: tuple[dict[str, Any], ...] = (
    {"separators": (",", ":")},
    {"separators": (",", ":")},
    {"separators": (",", ":")},
    {},
    {"indent": 2},
    {"separators": (" ,", "\t:\r\n")},
)


def text(rng: random.Random, event: Any, *, plain: bool = False) -> bytes:
    """The event as a producer would write it; `plain`: compact, keys in order."""
    if plain:
        return json.dumps(event, separators=(",", ":"), ensure_ascii=False).encode()
    if isinstance(event, dict) and rng.random() < 0.2:
        items = list(event.items())
        rng.shuffle(items)
        event = dict(items)
    raw = json.dumps(event, ensure_ascii=rng.random() < 0.4, **rng.choice(_STYLES)).encode()
    return b" \n" + raw + b"\r\n" if rng.random() < 0.03 else raw


def base_records(rng: random.Random, n: int, shapes: tuple[Shape, ...] = SHAPES) -> list[bytes]:
    """`n` records of these shapes, in runs of one shape and style as a producer's batches have them."""
    records: list[bytes] = []
    while len(records) < n:
        shape = rng.choice(shapes)
        plain = rng.random() < 0.6
        records += (text(rng, shape(rng), plain=plain) for _ in range(rng.randrange(1, 12)))
    return records[:n]

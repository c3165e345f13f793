"""Seeded inference events in the shapes that producers have, and Kafka record batches of them.

Values are drawn with 17 digits where a producer would not round: the dearest numbers to read. Event
times are 1 ms apart, 5 % of them up to two minutes late, so that several windows are live.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiokafka.record.default_records import DefaultRecordBatchBuilder

Json = dict[str, Any]
Maker = Callable[[random.Random, int, int], Json]  # (random, number of the event, number of models)

START_MS = 1_700_000_000_000
#: Events of one batch that comes from one producer.
RUN = 100
TRACEPARENT = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


# ---------------------------------------------------------------- shapes


@dataclass(frozen=True)
class Shape:
    """One kind of event. `fields` is the agent's `decode.fields` that reads it; {} is the native model.

    `per_run`: a model's events come in runs of RUN, as in batches of several producers; else each
    event has a model of its own drawing, as behind a gateway.
    """

    name: str
    what: str
    make: Maker
    models: int = 16
    fields: Json = field(default_factory=dict)
    per_run: bool = False
    odd: Callable[[random.Random, Json], bytes] | None = None  # rewrites `odd_share` of the events
    odd_share: float = 0.0


def _time(rng: random.Random, i: int) -> int:
    late = int(rng.random() * 120_000) if rng.random() < 0.05 else 0
    return START_MS + i - late


def reference(rng: random.Random, i: int, model: int, n_features: int = 10) -> Json:
    """419 bytes with 10 features: 10 + 2 numbers; texts are id, model, version and one category."""
    features: Json = {f"f{j}": rng.gauss(0, 1) for j in range(n_features)}
    features["country"] = rng.choice(("DE", "FR", "US", "IN"))
    return {
        "id": f"req-{i:08d}",
        "ts": _time(rng, i),
        "model": f"m{model:04d}",
        "version": "v3",
        "latency_ms": rng.random() * 40,
        "features": features,
        "prediction": rng.random(),
        "label": rng.randint(0, 1),
    }


def wide(rng: random.Random, i: int, model: int) -> Json:
    return reference(rng, i, model, 100)


def narrow(rng: random.Random, i: int, model: int) -> Json:
    return reference(rng, i, model, 5)


def nested(rng: random.Random, i: int, model: int) -> Json:
    """Objects in objects, short numbers, booleans, a tenth optional, a twentieth null."""
    features: Json = {
        "trip": {
            "dep_hour": rng.randrange(24),
            "carrier": rng.choice(("UA", "DL", "AA")),
            "route": {"distance": float(rng.randrange(100, 4000)), "stops": rng.randrange(3)},
        },
        "holiday": rng.random() < 0.1,
        "fare": round(rng.lognormvariate(5, 1), 2),
        "weather": {f"w{j}": round(rng.gauss(0, 1), 4) for j in range(5)},
        "note": None if rng.random() < 0.05 else rng.random(),
    }
    if rng.random() < 0.1:
        del features["fare"]
    score = rng.random()
    return {
        "id": f"r-{i:08x}",
        "ts": _time(rng, i),
        "model": f"m{model:04d}",
        "version": "7",
        "features": features,
        "prediction": {
            "label": "late" if score > 0.5 else "on_time",
            "score": round(score, 4),
            "probabilities": {"late": round(score, 4), "on_time": round(1 - score, 4)},
        },
        "latency_ms": round(rng.random() * 40, 2),
        "status": "ok",
        "tags": {"pod": f"p-{rng.randrange(8)}", "zone": "a"},
    }


def categories(rng: random.Random, i: int, model: int) -> Json:
    """12 numbers and 3 texts of 5, about 1,000 and 1,000,000 distinct values."""
    event = reference(rng, i, model)
    features = event["features"]
    del features["country"]
    features["carrier"] = rng.choice(("UA", "DL", "AA", "WN", "B6"))
    features["merchant"] = f"mrc-{min(999, int(rng.paretovariate(0.6)))}"
    features["user"] = f"u{rng.randrange(1_000_000):07d}"
    return event


def strings(rng: random.Random, i: int, model: int) -> Json:
    """Ten texts and no number but the time; two of them not ASCII, one in twenty with an escape."""
    features: Json = {f"c{j}": f"v{int(rng.paretovariate(0.8)) % 5000}" for j in range(7)}
    features["city"] = rng.choice(("Zürich", "København", "São Paulo", "東京", "Oslo"))
    features["agent"] = f"app/{rng.randrange(40)}.{rng.randrange(10)} ({rng.choice('abc')})"
    features["path"] = f"/v1/items/{rng.randrange(100_000)}"
    if rng.random() < 0.05:
        features["agent"] += ' "beta"'
    return {
        "id": f"r-{i:08x}",
        "ts": _time(rng, i),
        "model": f"m{model:04d}",
        "version": "2",
        "features": features,
        "prediction": rng.choice(("approve", "review", "refuse")),
    }


def kserve(rng: random.Random, i: int, model: int) -> Json:
    """The Open Inference Protocol (V2): named tensors of one row, read through `decode.fields`."""

    def tensor(name: str, datatype: str, value: Any) -> Json:
        return {"name": name, "shape": [1, 1], "datatype": datatype, "data": [value]}

    inputs = [tensor(f"f{j}", "FP64", rng.gauss(0, 1)) for j in range(6)]
    inputs.append(tensor("age", "INT64", rng.randrange(18, 90)))
    inputs.append(tensor("country", "BYTES", rng.choice(("DE", "FR", "US", "IN"))))
    return {
        "id": f"r-{i:08x}",
        "model_name": f"m{model:04d}",
        "model_version": "3",
        "inputs": inputs,
        "outputs": [tensor("score", "FP32", rng.random())],
    }


KSERVE_FIELDS: Json = {
    "model": "model_name",
    "version": "model_version",
    "prediction": "outputs.0.data.0",
    "features": {
        **{f"f{j}": f"inputs.{j}.data.0" for j in range(6)},
        "age": "inputs.6.data.0",
        "country": "inputs.7.data.0",
    },
}


def own_columns(rng: random.Random, i: int, model: int) -> Json:
    """Each model has columns of its own: as many as the reference, other names, other order."""
    event = reference(rng, i, model)
    features = event["features"]
    names = [f"{'abcdefghij'[j]}{model}_{j}" for j in range(10)]
    turn = model % 10
    event["features"] = dict(
        zip([*names[turn:], *names[:turn], f"country_{model}"], features.values(), strict=True)
    )
    return event


def off_template(rng: random.Random, event: Json) -> bytes:
    """An event that is well formed and that no template foresees: a shuffled order of keys, an escape,
    other whitespace, or a key of its own."""
    kind = rng.randrange(4)
    if kind == 0:
        items = list(event.items())
        rng.shuffle(items)
        features = list(event["features"].items())
        rng.shuffle(features)
        return orjson.dumps({**dict(items), "features": dict(features)})
    if kind == 1:
        return orjson.dumps({**event, "id": 'q"\n' + event["id"]})
    if kind == 2:
        blank = " " * rng.randrange(1, 5)
        return json.dumps(event, separators=("," + blank, ":")).encode()
    return orjson.dumps({f"extra_{rng.randrange(10_000)}": rng.random(), **event})


def escaped_id(rng: random.Random, event: Json) -> bytes:
    """The event with an escape in its id: well formed, and what no template takes."""
    return orjson.dumps({**event, "id": 'q"' + event["id"]})


def broken(rng: random.Random, event: Json) -> bytes:
    """Half off the template as above, half no event at all: cut short, not UTF-8, or without a model."""
    kind = rng.randrange(6)
    text = orjson.dumps(event)
    if kind == 0:
        return text[: rng.randrange(1, len(text))]
    if kind == 1:
        return text.replace(b'"m', b'"\xff', 1)
    if kind == 2:
        return orjson.dumps({k: v for k, v in event.items() if k != "model"})
    return off_template(rng, event)


_SHAPES = (
    Shape("reference", "419 B, 10 features and a category", reference),
    Shape("categories", "12 numbers, texts of 5 / 1,000 / 1,000,000 values", categories),
    Shape("features_100", "100 features", wide),
    Shape("features_5", "5 features", narrow),
    Shape("nested", "nested objects, null, optional, short numbers", nested),
    Shape("strings", "10 texts, some not ASCII or escaped", strings),
    Shape("kserve_v2", "tensors, read through decode.fields", kserve, fields=KSERVE_FIELDS),
    Shape(
        "kserve_v2_off_5",
        "tensors, 5 % with an escape in the id",
        kserve,
        fields=KSERVE_FIELDS,
        odd=escaped_id,
        odd_share=0.05,
    ),
    Shape("models_50", "50 models with the same columns", reference, models=50),
    Shape(
        "columns_50",
        "50 models with columns of their own, batch by batch",
        own_columns,
        50,
        {},
        True,
    ),
    Shape("columns_50_mixed", "the same, row by row", own_columns, 50),
    Shape(
        "off_template_5",
        "5 % off the template, well formed",
        reference,
        odd=off_template,
        odd_share=0.05,
    ),
    Shape("broken_5", "5 % off the template or broken", reference, odd=broken, odd_share=0.05),
)
SHAPES = {shape.name: shape for shape in _SHAPES}


def values(shape: Shape, n: int, seed: int, models: int | None = None) -> list[bytes]:
    """`n` record values; the same arguments give the same bytes. `models` instead of the shape's."""
    rng = random.Random(seed)
    dice = random.Random(seed + 1)
    n_models = shape.models if models is None else models
    made = []
    for i in range(n):
        model = (i // RUN) % n_models if shape.per_run else rng.randrange(n_models)
        event = shape.make(rng, i, model)
        if shape.odd is not None and dice.random() < shape.odd_share:
            made.append(shape.odd(dice, event))
        else:
            made.append(orjson.dumps(event))
    return made


# ---------------------------------------------------------------- record batches

CODECS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}


@dataclass(frozen=True)
class Batch:
    """One whole v2 batch as a broker keeps it."""

    data: bytes
    base_offset: int
    n_records: int
    first_timestamp_ms: int
    max_timestamp_ms: int
    attributes: int


def batches(
    events: Sequence[bytes], per_batch: int, codec: str = "lz4", headers: bool = True
) -> list[Batch]:
    """`events` as v2 batches of `per_batch` records with a key and, if asked, a trace context."""
    made = []
    pairs = [("traceparent", TRACEPARENT), ("src", b"ms")] if headers else []
    for low in range(0, len(events), per_batch):
        part = events[low : low + per_batch]
        builder = DefaultRecordBatchBuilder(
            magic=2,
            compression_type=CODECS[codec],
            is_transactional=0,
            producer_id=-1,
            producer_epoch=-1,
            base_sequence=-1,
            batch_size=1 << 30,
        )
        for j, value in enumerate(part):
            builder.append(j, START_MS + low + j, b"k%07d" % (j % 1000), value, pairs)
        data = bytearray(builder.build())
        data[0:8] = low.to_bytes(8, "big")  # the base offset is not covered by the checksum
        attributes = int.from_bytes(data[21:23], "big")
        last = START_MS + low + len(part) - 1
        made.append(Batch(bytes(data), low, len(part), START_MS + low, last, attributes))
    return made

"""A plain consumer: aiokafka, orjson, numpy, as one writes it in an afternoon, with some care.

Distributions are counts in logarithmic buckets (32 to a doubling, 1.1 % relative error), for all columns
of a batch at once. Distinct sessions are a set: exact, quick, and without a bound on its memory.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import orjson
import uvloop
from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition

from benchmarks.peers.meter import Answer, Meter, Task, task_from_arguments
from benchmarks.peers.rows import N_FEATURES, NUMBERS, QUANTILES

_PER_DOUBLING = 32
#: Buckets of magnitudes from 2^-64 to 2^64, for negative and for positive values.
_HALF = 128 * _PER_DOUBLING
_FEATURES = [f"f{j}" for j in range(N_FEATURES)]


class Sketches:
    def __init__(self) -> None:
        self.rows = 0
        self.models: Counter[str] = Counter()
        self.sessions: set[str] = set()
        self.countries: set[str] = set()
        self._counts = np.zeros(len(NUMBERS) * 2 * _HALF, np.int64)
        self._first = np.arange(len(NUMBERS)) * (2 * _HALF)

    def add(self, values: list[bytes]) -> None:
        loads = orjson.loads
        rows, models, sessions, countries = [], [], [], []
        for value in values:
            event = loads(value)
            features = event["features"]
            rows.append(
                [*[features[name] for name in _FEATURES], event["latency_ms"], event["prediction"]]
            )
            models.append(event["model"])
            sessions.append(features["session"])
            countries.append(features["country"])
        self.rows += len(values)
        self.models.update(models)
        self.sessions.update(sessions)
        self.countries.update(countries)
        numbers = np.array(rows)
        with np.errstate(divide="ignore"):
            buckets = np.log2(np.abs(numbers))
        np.clip(buckets, -63.9, 63.9, out=buckets)
        at = (buckets * _PER_DOUBLING).astype(np.int64)
        at += _HALF // 2 + _HALF * (numbers >= 0) + self._first
        self._counts += np.bincount(at.ravel(), minlength=len(self._counts))

    def answer(self) -> Answer:
        return Answer(
            self.rows,
            self.models,
            {name: self._quantiles(at) for at, name in enumerate(NUMBERS)},
            {"session": len(self.sessions), "country": len(self.countries)},
        )

    def _quantiles(self, column: int) -> tuple[int, list[float]]:
        counts = self._counts[self._first[column] :][: 2 * _HALF]
        # From the most negative to the most positive.
        ordered = np.concatenate([counts[:_HALF][::-1], counts[_HALF:]])
        n = int(ordered.sum())
        reached = np.cumsum(ordered)
        values = []
        for q in QUANTILES:
            at = int(np.searchsorted(reached, q * n))
            magnitude = at - _HALF if at >= _HALF else _HALF - 1 - at
            value = 2.0 ** ((magnitude - _HALF // 2 + 0.5) / _PER_DOUBLING)
            values.append(value if at >= _HALF else -value)
        return n, values


async def consume(task: Task, meter: Meter) -> Answer:
    partitions = [TopicPartition(task.topic, number) for number in range(task.partitions)]
    consumer = AIOKafkaConsumer(
        bootstrap_servers=task.bootstrap, enable_auto_commit=False, auto_offset_reset="none"
    )
    await consumer.start()
    try:
        consumer.assign(partitions)
        ends = await consumer.end_offsets(partitions)
        for at in partitions:
            consumer.seek(at, ends[at] - task.rows_each)
        sketches = Sketches()
        while sketches.rows < task.rows:
            fetched = await consumer.getmany(timeout_ms=1000, max_records=4000)
            for records in fetched.values():
                meter.first()
                sketches.add([record.value for record in records])
        return sketches.answer()
    finally:
        await consumer.stop()


def main() -> None:
    task = task_from_arguments()
    meter = Meter()
    answer = uvloop.run(consume(task, meter))
    meter.end(answer, "aiokafka", "cramjam", "orjson", "numpy", "uvloop")


if __name__ == "__main__":
    main()

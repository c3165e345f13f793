"""confluent-kafka and Apache DataSketches: the quick parts that exist, put together by hand."""

from __future__ import annotations

import orjson

from benchmarks.peers.confluent_source import read
from benchmarks.peers.datasketches_answer import Sketches
from benchmarks.peers.meter import Meter, task_from_arguments


def main() -> None:
    task = task_from_arguments()
    sketches = Sketches()
    meter = Meter()
    for values in read(task, 5_000):
        meter.first()
        sketches.add([orjson.loads(value) for value in values])
    meter.end(sketches.answer(), "confluent-kafka", "datasketches", "orjson", "numpy")


if __name__ == "__main__":
    main()

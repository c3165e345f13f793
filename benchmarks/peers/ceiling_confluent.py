"""No decode at all: confluent-kafka hands over every value, and its length is added up."""

from __future__ import annotations

from benchmarks.peers.confluent_source import read
from benchmarks.peers.meter import Answer, Meter, task_from_arguments


def main() -> None:
    task = task_from_arguments()
    rows = size_bytes = 0
    meter = Meter()
    for values in read(task, 5_000):
        meter.first()
        rows += len(values)
        size_bytes += sum(map(len, values))
    meter.end(Answer(rows), "confluent-kafka")


if __name__ == "__main__":
    main()

"""whylogs, row by row: one profile that tracks every event as a dict.

This is the quickest way in that takes rows, and the one that a bar is set on. `why.log(row)`, the
documented call, makes a profile for each row: `whylogs_log.py`.
"""

from __future__ import annotations

import orjson

from benchmarks.peers.confluent_source import read
from benchmarks.peers.meter import Meter, task_from_arguments
from benchmarks.peers.rows import flat
from benchmarks.peers.whylogs_answer import DatasetProfile, answer_of


def main() -> None:
    task = task_from_arguments()
    profile = DatasetProfile()
    meter = Meter()
    for values in read(task, 2000):
        meter.first()
        for value in values:
            profile.track(flat(orjson.loads(value)))
    meter.end(answer_of(profile), "whylogs", "pandas", "numpy", "confluent-kafka", "orjson")


if __name__ == "__main__":
    main()

"""whylogs, batch by batch: pandas frames of 5,000 rows, its quickest way (20,000 are no faster)."""

from __future__ import annotations

import orjson
import pandas as pd

from benchmarks.peers.confluent_source import read
from benchmarks.peers.meter import Meter, task_from_arguments
from benchmarks.peers.rows import flat
from benchmarks.peers.whylogs_answer import DatasetProfile, answer_of

BATCH = 5_000


def main() -> None:
    task = task_from_arguments()
    profile = DatasetProfile()
    meter = Meter()
    rows: list[dict[str, object]] = []
    for values in read(task, BATCH):
        meter.first()
        rows += [flat(orjson.loads(value)) for value in values]
        if len(rows) >= BATCH:
            profile.track(pd.DataFrame(rows))
            rows = []
    if rows:
        profile.track(pd.DataFrame(rows))
    meter.end(answer_of(profile), "whylogs", "pandas", "numpy", "confluent-kafka", "orjson")


if __name__ == "__main__":
    main()

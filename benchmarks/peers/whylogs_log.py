"""whylogs, row by row, by the call that its documentation shows: `why.log(row)`.

Each call makes a profile of its own and takes milliseconds; the profiles are merged into one, or there
would be no answer. What whylogs can do with rows at its best is in `whylogs_rows.py`.
"""

from __future__ import annotations

import orjson

from benchmarks.peers.confluent_source import read
from benchmarks.peers.meter import Meter, task_from_arguments
from benchmarks.peers.rows import flat
from benchmarks.peers.whylogs_answer import answer_of_view, why


def main() -> None:
    task = task_from_arguments()
    merged = None
    meter = Meter()
    for values in read(task, 2000):
        meter.first()
        for value in values:
            view = why.log(row=flat(orjson.loads(value))).view()
            merged = view if merged is None else merged.merge(view)
    answer = answer_of_view(merged)
    meter.end(answer, "whylogs", "pandas", "numpy", "confluent-kafka", "orjson")


if __name__ == "__main__":
    main()

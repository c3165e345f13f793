"""Quix Streams and Apache DataSketches: a streaming framework's way, with its own JSON and commits.

The framework hands over one event at a time; the sketches take 5,000 at once. Bytewax, the other
candidate, has had no release since November 2024.
"""

from __future__ import annotations

import tempfile
import uuid
from typing import Any

from quixstreams import Application

from benchmarks.peers.confluent_source import consumer_for, starts
from benchmarks.peers.datasketches_answer import Sketches
from benchmarks.peers.meter import Meter, Task, task_from_arguments

BATCH = 5_000


def main() -> None:
    task = task_from_arguments()
    group = f"quix-{uuid.uuid4().hex[:12]}"
    _begin_at_the_rows(task, group)
    sketches = Sketches()
    waiting: list[Any] = []
    with tempfile.TemporaryDirectory() as folder:
        application = Application(
            broker_address=task.bootstrap,
            consumer_group=group,
            auto_offset_reset="earliest",
            auto_create_topics=False,
            use_changelog_topics=False,
            state_dir=folder,
            loglevel="WARNING",
            consumer_extra_config={"fetch.wait.max.ms": 10},
        )
        meter = Meter()

        def take(event: Any) -> None:
            meter.first()
            waiting.append(event)
            if len(waiting) == BATCH:
                sketches.add(waiting)
                waiting.clear()

        application.dataframe(application.topic(task.topic, value_deserializer="json")).update(take)
        application.run(count=task.rows, timeout=30)
        if waiting:
            sketches.add(waiting)
        meter.end(sketches.answer(), "quixstreams", "confluent-kafka", "datasketches", "orjson")


def _begin_at_the_rows(task: Task, group: str) -> None:
    consumer = consumer_for(task, group)
    try:
        consumer.commit(offsets=starts(consumer, task), asynchronous=False)
    finally:
        consumer.close()


if __name__ == "__main__":
    main()

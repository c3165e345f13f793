"""No decode at all: the agent's own consumer hands over whole record batches, checksums checked.

Runs in the project's environment. What lies between this and the agent is opening, decoding, sketching
and exporting.
"""

from __future__ import annotations

import uvloop
from aiokafka.structs import TopicPartition

from agent.ingest.raw import RawConsumer
from agent.sketch.kernels.warm import warm
from benchmarks.peers.meter import Answer, Meter, Task, task_from_arguments


async def consume(task: Task, meter: Meter) -> int:
    partitions = [TopicPartition(task.topic, number) for number in range(task.partitions)]
    consumer = RawConsumer(
        bootstrap_servers=task.bootstrap,
        enable_auto_commit=False,
        auto_offset_reset="none",
        fetch_max_bytes=8 << 20,
    )
    await consumer.start()
    try:
        consumer.assign(partitions)
        ends = await consumer.end_offsets(partitions)
        for at in partitions:
            consumer.seek(at, ends[at] - task.rows_each)
        rows = 0
        while rows < task.rows:
            for batches in (await consumer.getmany(timeout_ms=1000, max_records=4000)).values():
                meter.first()
                rows += sum(table.n_records for table in batches)
        return rows
    finally:
        await consumer.stop()


def main() -> None:
    task = task_from_arguments()
    warm()
    meter = Meter()
    rows = uvloop.run(consume(task, meter))
    meter.end(Answer(rows), "aiokafka", "uvloop")


if __name__ == "__main__":
    main()

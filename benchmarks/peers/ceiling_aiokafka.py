"""No decode at all: stock aiokafka hands over every record."""

from __future__ import annotations

import uvloop
from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition

from benchmarks.peers.meter import Answer, Meter, Task, task_from_arguments


async def consume(task: Task, meter: Meter) -> int:
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
        rows = 0
        while rows < task.rows:
            for records in (await consumer.getmany(timeout_ms=1000, max_records=4000)).values():
                meter.first()
                rows += len(records)
        return rows
    finally:
        await consumer.stop()


def main() -> None:
    task = task_from_arguments()
    meter = Meter()
    rows = uvloop.run(consume(task, meter))
    meter.end(Answer(rows), "aiokafka", "cramjam", "uvloop")


if __name__ == "__main__":
    main()

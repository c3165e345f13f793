"""A group member in a process of its own, to be stopped and continued by signals.

    python -m tests.support.kafka_member BOOTSTRAP TOPIC GROUP SESSION_S

Says what happens on stdout, one JSON object a line: `assigned`, `read` (how many so far), `commit`.
A line on stdin asks for a commit of what was read; the end of stdin ends the process.
"""

import asyncio
import json
import sys
from typing import Any

from tests.support.kafka_source import Member, kafka_config


def say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


async def main(bootstrap: str, topic: str, group: str, session_s: str) -> None:
    config = kafka_config(
        bootstrap,
        [topic],
        group_id=group,
        session_timeout_s=float(session_s),
        heartbeat_interval_s=float(session_s) / 5,
    )
    member = Member(config)
    loop = asyncio.get_running_loop()
    commands = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    async with member.running(commit_at_end=False), asyncio.TaskGroup() as tasks:
        report = tasks.create_task(report_progress(member))
        while await commands.readline():
            counted = sum(member.ledger.counted.values())
            await member.commit()
            say(
                commit=sum(member.ledger.counted.values()) - counted,
                forgotten=member.ledger.forgotten,
            )
        report.cancel()


async def report_progress(member: Member) -> None:
    epochs = read = 0
    while True:
        if len(member.assigned) > epochs:
            epochs = len(member.assigned)
            say(assigned=member.source.epoch)
        if len(member.records) > read:
            read = len(member.records)
            say(read=read)
        await asyncio.sleep(0.02)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

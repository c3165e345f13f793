"""A pipeline that takes nothing: what the source holds is bounded, and it stays in its group."""

from __future__ import annotations

import asyncio
import time

from agent.types import Partition
from tests.support.kafka_embedded import FaultyBroker
from tests.support.kafka_source import Member, kafka_config, produce
from tests.support.wait import eventually

TOPIC = "events"
#: The mock broker keeps 5 MiB of a partition.
N, SIZE = 8_000, 1000
SESSION_S, BUDGET, FETCH = 2.0, 1 << 20, 200_000


async def test_a_pipeline_that_takes_nothing_is_given_a_budget_and_keeps_its_place_in_the_group(
    embedded_kafka: FaultyBroker,
) -> None:
    embedded_kafka.create_topic(TOPIC, 2)
    values = [b"%06d" % i + b"." * SIZE for i in range(N)]
    await produce(embedded_kafka.bootstrap, TOPIC, values, partitions=2, linger_ms=50)
    config = kafka_config(
        embedded_kafka.bootstrap,
        [TOPIC],
        session_timeout_s=SESSION_S,
        rebalance_timeout_s=3.0,
        buffer_max_bytes=BUDGET,
        fetch_max_bytes=2 * FETCH,
        fetch_max_partition_bytes=FETCH,
    )
    member = Member(config, release_at_once=False)
    async with member.running():
        await eventually(
            lambda: (
                all(p["paused"] == "buffer" for p in member.source.positions())
                and bool(member.fetches)
            )
        )
        full_at = time.monotonic()
        while time.monotonic() - full_at < 2 * SESSION_S:  # the group would miss it by now
            held = sum(fetch.size_bytes for fetch in member.fetches)
            assert held < 2 * BUDGET
            await asyncio.sleep(0.05)
        n_held = len(member.fetches)
        assert member.telemetry.value("inferometer.paused", reason="buffer") == 2
        assert (len(member.assigned), member.revoked) == (1, [])
        await member.commit()  # its fence is still good
        assert len(member.ledger.counted) == len(member.records)
        for fetch in member.fetches[:n_held]:
            member.source.release(fetch.size_bytes)
        member.release_at_once = True
        await eventually(lambda: len(member.records) == N, timeout_s=30)
        for number in range(2):
            assert member.offsets(Partition(TOPIC, number)) == list(range(N // 2))

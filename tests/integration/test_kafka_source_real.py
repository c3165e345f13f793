"""The source against a real Apache Kafka: starts, resets, rebalances, evictions, back-pressure."""

import asyncio
import dataclasses
import json
import logging
import random
import signal
import sys
from collections import Counter
from typing import Any

import msgspec
import pytest
from aiokafka import AIOKafkaProducer
from confluent_kafka import ConsumerGroupTopicPartitions, Producer, TopicPartition

from agent.errors import FencedError, SourceError
from agent.types import Partition
from tests.support.kafka_real import RealKafka, unique
from tests.support.kafka_source import QUICK, Ledger, Member, kafka_config, produce
from tests.support.wait import eventually


def numbers(count: int, begin: int = 0) -> list[bytes]:
    return [b"%d" % i for i in range(begin, begin + count)]


def committed(kafka: RealKafka, group: str) -> dict[Partition, int]:
    """What the broker says the group has committed."""
    answer = kafka.admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)])
    return {
        Partition(tp.topic, tp.partition): tp.offset
        for tp in answer[group].result(10).topic_partitions
    }


# ---------------------------------------------------------------- where reading begins


async def test_restart_resumes_at_the_committed_offsets(real_kafka: RealKafka) -> None:
    topic, group = real_kafka.fresh_topic(partitions=2), unique("group")
    config = kafka_config(real_kafka.bootstrap, [topic], group_id=group)
    await produce(real_kafka.bootstrap, topic, numbers(200), partitions=2)
    async with Member(config).running() as first:
        await eventually(lambda: len(first.records) == 200)
        await eventually(lambda: all(p["lag"] == 0 for p in first.source.positions()))
    assert committed(real_kafka, group) == {Partition(topic, 0): 100, Partition(topic, 1): 100}
    await produce(real_kafka.bootstrap, topic, numbers(50, 200), partitions=2)
    async with Member(config).running() as second:
        await eventually(lambda: len(second.records) == 50)
        assert sorted(second.values) == sorted(numbers(50, 200))
        assert second.assigned[0][1] == {Partition(topic, 0): 100, Partition(topic, 1): 100}


async def test_new_group_starts_at_the_end_or_at_the_beginning_as_configured(
    real_kafka: RealKafka,
) -> None:
    topic = real_kafka.fresh_topic()
    await produce(real_kafka.bootstrap, topic, numbers(10))
    latest = kafka_config(
        real_kafka.bootstrap, [topic], group_id=unique("group"), auto_offset_reset="latest"
    )
    earliest = kafka_config(real_kafka.bootstrap, [topic], group_id=unique("group"))
    async with Member(latest).running() as late, Member(earliest).running() as early:
        await eventually(lambda: late.assigned and early.assigned)
        await produce(real_kafka.bootstrap, topic, numbers(5, 10))
        await eventually(lambda: late.records and len(early.records) == 15)
        assert late.values == numbers(5, 10)
        assert early.values == numbers(15)


async def test_start_is_committed_before_anything_is_read(real_kafka: RealKafka) -> None:
    """A crash before the first commit finds the same start: with `latest` nothing is skipped."""
    topic, group = real_kafka.fresh_topic(), unique("group")
    config = kafka_config(real_kafka.bootstrap, [topic], group_id=group, auto_offset_reset="latest")
    await produce(real_kafka.bootstrap, topic, numbers(10))
    async with Member(config).running(commit_at_end=False) as crashed:
        await eventually(lambda: crashed.assigned)
        assert committed(real_kafka, group) == {Partition(topic, 0): 10}
        await produce(real_kafka.bootstrap, topic, numbers(5, 10))
        await eventually(lambda: len(crashed.records) == 5)
    async with Member(config).running() as again:
        await eventually(lambda: len(again.records) == 5)
        assert again.values == numbers(5, 10)


async def test_members_that_form_a_group_together_all_follow_the_start_policy(
    real_kafka: RealKafka,
) -> None:
    topic, group = real_kafka.fresh_topic(partitions=4), unique("group")
    await produce(real_kafka.bootstrap, topic, numbers(40), partitions=4)
    config = kafka_config(real_kafka.bootstrap, [topic], group_id=group, auto_offset_reset="latest")
    async with Member(config).running() as one, Member(config).running() as two:
        await eventually(lambda: len(one.owned()) == len(two.owned()) == 2)
        await produce(real_kafka.bootstrap, topic, numbers(40, 40), partitions=4)
        await eventually(lambda: len(one.records) + len(two.records) >= 40)
        assert sorted(one.values + two.values) == sorted(numbers(40, 40))


async def test_new_partition_of_a_known_group_is_read_from_its_beginning(
    real_kafka: RealKafka,
) -> None:
    topic, group = real_kafka.fresh_topic(), unique("group")
    config = kafka_config(real_kafka.bootstrap, [topic], group_id=group, auto_offset_reset="latest")
    async with Member(config).running() as member:
        await eventually(lambda: member.assigned)
        await asyncio.to_thread(real_kafka.add_partitions, topic, 2)
        # In the partition before any member can know it.
        await produce(real_kafka.bootstrap, topic, numbers(10), partitions=2)
        await eventually(lambda: len(member.records) == 10)
        assert member.assigned[-1][1][Partition(topic, 1)] == 0
        assert member.offsets(Partition(topic, 1)) == list(range(5))


async def test_offsets_deleted_by_a_tool_are_read_as_new_partition_or_new_group(
    real_kafka: RealKafka,
) -> None:
    topic, group = real_kafka.fresh_topic(partitions=2), unique("group")
    p0, p1 = Partition(topic, 0), Partition(topic, 1)
    await produce(real_kafka.bootstrap, topic, numbers(20), partitions=2)
    config = kafka_config(real_kafka.bootstrap, [topic], group_id=group, auto_offset_reset="latest")
    for _ in range(2):  # twice, so that the commits are not of the group's first generation
        async with Member(config).running() as member:
            await eventually(lambda m=member: m.assigned)
        assert committed(real_kafka, group) == {p0: 10, p1: 10}
    # The admin client cannot delete single offsets: another group gets only one of them.
    other = unique("group")
    real_kafka.admin.alter_consumer_group_offsets(
        [ConsumerGroupTopicPartitions(other, [TopicPartition(topic, 0, 10)])]
    )[other].result(10)
    config = kafka_config(real_kafka.bootstrap, [topic], group_id=other, auto_offset_reset="latest")
    async with Member(config).running() as member:
        await eventually(lambda: member.assigned)
        assert member.assigned[0][1] == {p0: 10, p1: 0}
    real_kafka.admin.delete_consumer_groups([group])[group].result(10)
    config = kafka_config(real_kafka.bootstrap, [topic], group_id=group, auto_offset_reset="latest")
    async with Member(config).running() as member:
        await eventually(lambda: member.assigned)
        assert member.assigned[0][1] == {p0: 10, p1: 10}


async def test_records_deleted_before_they_were_read_are_counted_and_announced(
    real_kafka: RealKafka, caplog: pytest.LogCaptureFixture
) -> None:
    topic, group = real_kafka.fresh_topic(partitions=2), unique("group")
    p0, p1 = Partition(topic, 0), Partition(topic, 1)
    config = kafka_config(real_kafka.bootstrap, [topic], group_id=group)
    await produce(real_kafka.bootstrap, topic, numbers(20), partitions=2)
    async with Member(config).running() as first:
        await eventually(lambda: len(first.records) == 20)
    await produce(real_kafka.bootstrap, topic, numbers(80, 20), partitions=2)
    gone = TopicPartition(topic, 0, 35)
    real_kafka.admin.delete_records([gone])[gone].result(10)
    async with Member(config).running() as second:
        await eventually(lambda: len(second.records) >= 40 + 15)
        assert second.offsets(p0) == list(range(35, 50))
        assert Counter(second.offsets(p1)) == Counter(range(10, 50))
        assert second.assigned[-1][1][p0] == 35
        assert second.telemetry.value("inferometer.offset.lost") == 25
        assert second.telemetry.value("inferometer.offset.resets") == 1
    assert committed(real_kafka, group) == {p0: 50, p1: 50}
    assert f"{topic}/0: offset 10 is out of range; reading goes on at 35" in caplog.text
    assert "at most 25 records were deleted before they were read" in caplog.text


async def test_log_that_became_shorter_is_read_again_from_its_beginning(
    real_kafka: RealKafka, caplog: pytest.LogCaptureFixture
) -> None:
    topic, group = real_kafka.fresh_topic(), unique("group")
    await produce(real_kafka.bootstrap, topic, numbers(20))
    real_kafka.admin.alter_consumer_group_offsets(
        [ConsumerGroupTopicPartitions(group, [TopicPartition(topic, 0, 500)])]
    )[group].result(10)
    config = kafka_config(real_kafka.bootstrap, [topic], group_id=group)
    async with Member(config).running() as member:
        await eventually(lambda: len(member.records) == 20)
        assert member.telemetry.value("inferometer.offset.resets") == 1
        assert member.telemetry.value("inferometer.offset.lost") == 0
    assert committed(real_kafka, group) == {Partition(topic, 0): 20}
    assert "the log is shorter than it was: its records are counted again" in caplog.text


# ---------------------------------------------------------------- rebalances


async def test_every_offset_counts_exactly_once_while_members_come_and_go(
    real_kafka: RealKafka,
) -> None:
    topic, group = real_kafka.fresh_topic(partitions=6), unique("group")
    config = kafka_config(real_kafka.bootstrap, [topic], group_id=group)
    ledger = Ledger()
    chance = random.Random(7)
    sent = Counter[int]()
    done = asyncio.Event()

    async def keep_producing() -> None:
        async with AIOKafkaProducer(bootstrap_servers=real_kafka.bootstrap, acks="all") as producer:
            while not done.is_set():
                for _ in range(50):
                    partition = chance.randrange(6)
                    await producer.send(topic, b"x" * chance.randrange(1, 200), partition=partition)
                    sent[partition] += 1
                await producer.flush()
                await asyncio.sleep(0.01)

    async def commit_now_and_then(member: Member) -> None:
        while not done.is_set():
            await asyncio.sleep(0.1)
            if member.source.epoch and member.reached:
                await member.commit()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(keep_producing())
        async with Member(config, ledger=ledger).running() as first:
            tasks.create_task(commit_now_and_then(first))
            await eventually(lambda: len(first.records) > 200)
            for _ in range(3):
                async with Member(config, ledger=ledger).running() as other:
                    await eventually(lambda: len(other.records) > 100)
                    assert len(other.owned()) == 3
                await eventually(lambda: len(first.owned()) == 6)
            done.set()
            await eventually(lambda: all(p["lag"] == 0 for p in first.source.positions()))
            total = sum(sent.values())
            await eventually(lambda: sum(p["position"] for p in first.source.positions()) == total)
        assert len(first.revoked) >= 6
    expected = {(Partition(topic, p), offset): 1 for p in range(6) for offset in range(sent[p])}
    assert ledger.counted == expected
    assert ledger.forgotten == 0, "polite hand-overs lose nothing"
    assert committed(real_kafka, group) == {Partition(topic, p): n for p, n in sent.items()}


async def test_member_beyond_the_partitions_is_on_standby(real_kafka: RealKafka) -> None:
    topic, group = real_kafka.fresh_topic(), unique("group")
    config = kafka_config(real_kafka.bootstrap, [topic], group_id=group)
    async with Member(config).running() as one:
        await eventually(lambda: one.source.joined)
        async with Member(config).running() as two:
            await eventually(lambda: two.source.joined and one.source.epoch >= 2)
            await eventually(lambda: [one.source.standby, two.source.standby].count(True) == 1)
            idle = one if one.source.standby else two
            assert idle.source.joined
            assert idle.source.positions() == []


async def test_evicted_member_commits_nothing_and_its_rows_are_counted_by_the_next(
    real_kafka: RealKafka,
) -> None:
    """What a process stopped beyond its session looks like to the group, and wakes up to."""
    topic, group = real_kafka.fresh_topic(), unique("group")
    p0 = Partition(topic, 0)
    config = kafka_config(
        real_kafka.bootstrap,
        [topic],
        group_id=group,
        session_timeout_s=1.0,
        heartbeat_interval_s=0.2,
    )
    ledger = Ledger()
    await produce(real_kafka.bootstrap, topic, numbers(30))
    async with Member(config, ledger=ledger).running(commit_at_end=False) as asleep:
        await eventually(lambda: len(asleep.records) == 30)
        coordinator = asleep.source._member.consumer._coordinator
        awake = asyncio.Event()
        heartbeat = coordinator._do_heartbeat

        async def no_heartbeat() -> bool:
            await awake.wait()
            return await heartbeat()

        coordinator._do_heartbeat = no_heartbeat
        epoch = asleep.source.epoch
        async with Member(config, ledger=ledger).running() as next_one:
            await eventually(lambda: len(next_one.records) == 30)
            await next_one.commit()
            with pytest.raises(FencedError, match=r"illegal generation|unknown member"):
                await asleep.source.commit(epoch, {p0: 29})
            assert committed(real_kafka, group) == {p0: 30}
            awake.set()
            await eventually(lambda: asleep.source.epoch > epoch)
        await eventually(lambda: asleep.owned() == {p0})
        await produce(real_kafka.bootstrap, topic, numbers(5, 30))
        await eventually(lambda: asleep.offsets(p0)[30:] == list(range(30, 35)))
        await asleep.commit()
    assert ledger.counted == {(p0, offset): 1 for offset in range(35)}


async def test_process_stopped_beyond_its_session_wakes_up_and_is_refused(
    real_kafka: RealKafka,
) -> None:
    topic, group = real_kafka.fresh_topic(), unique("group")
    p0 = Partition(topic, 0)
    await produce(real_kafka.bootstrap, topic, numbers(30))
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.support.kafka_member"),
        *(real_kafka.bootstrap, topic, group, "1.0"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert child.stdin is not None
    assert child.stdout is not None

    async def heard(key: str) -> dict[str, Any]:
        """The next line with this key."""
        assert child.stdout is not None
        while True:
            line: dict[str, Any] = json.loads(await child.stdout.readline())
            if key in line:
                return line

    try:
        async with asyncio.timeout(60):
            while (await heard("read"))["read"] < 30:
                pass
            child.send_signal(signal.SIGSTOP)
            config = kafka_config(real_kafka.bootstrap, [topic], group_id=group)
            async with Member(config).running() as next_one:
                await eventually(lambda: len(next_one.records) == 30)
            assert committed(real_kafka, group) == {p0: 30}
            await produce(real_kafka.bootstrap, topic, numbers(5, 30))
            # Asked for while it sleeps, so that a commit is among the first things it does.
            child.stdin.write(b"\n")
            child.send_signal(signal.SIGCONT)
            counted = 0
            while counted < 5:
                answer = await heard("commit")
                counted += answer["commit"]
                assert committed(real_kafka, group) in ({p0: 30}, {p0: 35}), "never back"
                child.stdin.write(b"\n")
            assert counted == 5
            # The new ones too, when it had read them before it learned that it was evicted.
            assert answer["forgotten"] in (30, 35)
            assert committed(real_kafka, group) == {p0: 35}
    finally:
        child.send_signal(signal.SIGCONT)
        child.stdin.close()
        try:
            await asyncio.wait_for(child.wait(), 10)
        except TimeoutError:
            child.kill()
            await child.wait()


async def test_hand_over_that_takes_too_long_is_cut_off_and_the_rows_are_read_again(
    real_kafka: RealKafka, caplog: pytest.LogCaptureFixture
) -> None:
    topic, group = real_kafka.fresh_topic(), unique("group")
    config = kafka_config(real_kafka.bootstrap, [topic], group_id=group, rebalance_timeout_s=1.5)
    ledger = Ledger()
    await produce(real_kafka.bootstrap, topic, numbers(30))
    slow = Member(config, ledger=ledger)
    slow.hold_revoke = asyncio.Event()
    async with slow.running(commit_at_end=False):
        await eventually(lambda: len(slow.records) == 30)
        async with Member(config, ledger=ledger).running():
            await eventually(lambda: sum(ledger.counted.values()) or slow.revoked)
            await eventually(lambda: slow.source.epoch >= 2)
    assert "took more than 0.5 s" in caplog.text
    async with Member(config, ledger=ledger).running() as last:
        await eventually(lambda: last.assigned)
        await eventually(lambda: all(p["lag"] == 0 for p in last.source.positions()))
    assert ledger.counted == {(Partition(topic, 0), offset): 1 for offset in range(30)}


async def test_static_member_comes_back_without_a_rebalance(real_kafka: RealKafka) -> None:
    topic, group = real_kafka.fresh_topic(partitions=2), unique("group")

    def named(name: str) -> Any:
        return kafka_config(real_kafka.bootstrap, [topic], group_id=group, group_instance_id=name)

    async with Member(named("a")).running() as a:
        async with Member(named("b")).running() as b:
            await eventually(lambda: len(a.owned()) == len(b.owned()) == 1)
            epoch, share = a.source.epoch, b.owned()
        async with Member(named("b")).running() as again:
            await eventually(lambda: again.owned() == share)
            assert a.source.epoch == epoch


async def test_second_agent_with_the_same_instance_id_ends_the_first_with_a_clear_error(
    real_kafka: RealKafka,
) -> None:
    topic, group = real_kafka.fresh_topic(), unique("group")
    config = kafka_config(real_kafka.bootstrap, [topic], group_id=group, group_instance_id="pod-0")
    with pytest.raises(ExceptionGroup) as caught:
        async with Member(config).running() as first:
            await eventually(lambda: first.source.joined)
            async with Member(config).running() as second:
                await eventually(lambda: second.source.joined)
                await first.commit()
                await asyncio.sleep(5)  # ended by the error of `first`
    error = caught.value.exceptions[0]
    assert isinstance(error, SourceError)
    assert "kafka.group_instance_id 'pod-0' is used by another agent" in str(error)


# ---------------------------------------------------------------- back-pressure


async def test_heavy_pausing_skips_and_repeats_nothing(real_kafka: RealKafka) -> None:
    topic = real_kafka.fresh_topic(partitions=3)
    count = 21_000
    values = [b"%06d" % i + b"." * 1000 for i in range(count)]
    await produce(real_kafka.bootstrap, topic, values, partitions=3)
    config = kafka_config(
        real_kafka.bootstrap,
        [topic],
        group_id=unique("group"),
        buffer_max_bytes=1 << 20,
        fetch_max_partition_bytes=200_000,
    )
    member = Member(config, release_at_once=False)
    async with member.running():
        released = pauses = most_held = 0

        def paused_or_done() -> bool:
            paused = [p["paused"] == "buffer" for p in member.source.positions()]
            return (bool(paused) and all(paused)) or len(member.records) == count

        while len(member.records) < count:
            await eventually(paused_or_done, every_s=0.001)
            held = member.fetches[released:]
            most_held = max(most_held, sum(fetch.size_bytes for fetch in held))
            for fetch in held:
                member.source.release(fetch.size_bytes)
            released += len(held)
            pauses += 1
        for p in range(3):
            assert member.offsets(Partition(topic, p)) == list(range(count // 3))
        assert sorted(member.values) == values
        assert pauses >= 15
        assert most_held < 2 << 20


async def test_partitions_that_are_ahead_wait_and_the_others_go_on(real_kafka: RealKafka) -> None:
    topic = real_kafka.fresh_topic(partitions=2)
    p0, p1 = Partition(topic, 0), Partition(topic, 1)
    config = kafka_config(real_kafka.bootstrap, [topic], group_id=unique("group"))
    async with Member(config).running() as member:
        await eventually(lambda: member.assigned)
        member.source.set_ahead({p0})
        await produce(real_kafka.bootstrap, topic, numbers(100), partitions=2)
        await eventually(lambda: len(member.offsets(p1)) == 50)
        paused = {p["partition"]: p["paused"] for p in member.source.positions()}
        assert paused == {0: "ahead", 1: None}
        assert member.offsets(p0) == []
        member.source.set_ahead(set())
        await eventually(lambda: member.offsets(p0) == list(range(50)))


# ---------------------------------------------------------------- what records look like


@pytest.mark.parametrize("fetch", ["raw", "stock"])
@pytest.mark.parametrize("codec", [None, "gzip", "snappy", "lz4", "zstd"])
async def test_codec_keys_headers_and_nulls_arrive_unaltered(
    real_kafka: RealKafka, codec: str | None, fetch: str
) -> None:
    topic = real_kafka.fresh_topic()
    values = [b"", None, b"\xff\x00", "ä".encode() * 5000, b"plain"]
    keys = [None, b"k", b"", b"\x00", b"k2"]
    headers = [[], [("traceparent", b"00-ab")], [("a", b""), ("a", b"2")], [("n", None)], []]
    await produce(
        real_kafka.bootstrap, topic, values, keys=keys, headers=headers, compression_type=codec
    )
    config = kafka_config(real_kafka.bootstrap, [topic], group_id=unique("group"), fetch=fetch)
    async with Member(config).running() as member:
        await eventually(lambda: len(member.records) == 5)
        got = [record for _, record in member.records]
        assert [r.value for r in got] == values
        assert [r.key for r in got] == keys
        assert [list(r.headers) for r in got] == headers
        values_bytes = sum(len(value or b"") for value in values)
        assert member.telemetry.value("inferometer.fetch.bytes") == (
            member.raw_bytes if fetch == "raw" else values_bytes
        )
        assert member.telemetry.total("messaging.client.consumed.messages") == 5


async def test_timestamps_are_the_producers_or_the_logs(real_kafka: RealKafka) -> None:
    created = real_kafka.fresh_topic("created")
    appended = real_kafka.fresh_topic("appended", message_timestamp_type="LogAppendTime")
    for topic in (created, appended):
        async with AIOKafkaProducer(bootstrap_servers=real_kafka.bootstrap) as producer:
            await producer.send_and_wait(topic, b"x", timestamp_ms=1_600_000_000_000)
    config = kafka_config(real_kafka.bootstrap, [created, appended], group_id=unique("group"))
    async with Member(config).running() as member:
        await eventually(lambda: len(member.records) == 2)
        stamps = {where.topic: record.timestamp_ms for where, record in member.records}
        assert stamps[created] == 1_600_000_000_000
        assert stamps[appended] > 1_700_000_000_000


async def test_aborted_transactions_are_skipped_and_the_end_is_reached(
    real_kafka: RealKafka,
) -> None:
    topic, group = real_kafka.fresh_topic(), unique("group")
    await asyncio.to_thread(_transactions, real_kafka.bootstrap, topic)
    strict = kafka_config(
        real_kafka.bootstrap, [topic], group_id=group, isolation_level="read_committed"
    )
    loose = kafka_config(real_kafka.bootstrap, [topic], group_id=unique("group"))
    async with Member(strict).running() as committed_only, Member(loose).running() as all_of_it:
        await eventually(lambda: len(committed_only.records) == 6 and len(all_of_it.records) == 9)
        assert committed_only.values == [b"a0", b"a1", b"a2", b"c0", b"c1", b"c2"]
        # The markers at the end of the log hold no records, and the position passes them.
        for member in (committed_only, all_of_it):
            await eventually(lambda m=member: m.source.positions()[0]["lag"] == 0)
    end = 9 + 3  # three records and one marker for each transaction
    assert committed(real_kafka, group) == {Partition(topic, 0): end}


def _transactions(bootstrap: str, topic: str) -> None:
    producer = Producer({"bootstrap.servers": bootstrap, "transactional.id": unique("tx")})
    producer.init_transactions(20)
    for name, end in (("a", "commit"), ("b", "abort"), ("c", "commit")):
        producer.begin_transaction()
        for i in range(3):
            producer.produce(topic, f"{name}{i}".encode())
        producer.flush(10)  # an abort would purge what is still queued
        getattr(producer, f"{end}_transaction")(20)


async def test_compacted_offsets_lie_inside_the_ranges(real_kafka: RealKafka) -> None:
    topic, group = real_kafka.fresh_topic(), unique("group")
    # A compacted log cannot be forced in a test's time: a deleted head is the same gap at the start.
    await produce(real_kafka.bootstrap, topic, numbers(10))
    gone = TopicPartition(topic, 0, 4)
    real_kafka.admin.delete_records([gone])[gone].result(10)
    config = kafka_config(real_kafka.bootstrap, [topic], group_id=group)
    async with Member(config).running() as member:
        await eventually(lambda: len(member.records) == 6)
        assert member.assigned[0][1] == {Partition(topic, 0): 4}
        assert member.telemetry.value("inferometer.offset.resets") == 0


# ---------------------------------------------------------------- topics


async def test_topic_that_does_not_exist_is_waited_for(
    real_kafka: RealKafka, caplog: pytest.LogCaptureFixture
) -> None:
    topic, group = unique("later"), unique("group")
    config = kafka_config(real_kafka.bootstrap, [topic], group_id=group)
    async with Member(config).running() as member:
        await eventually(lambda: "waiting for topics that do not exist" in caplog.text)
        assert f"{topic}; create them, or correct kafka.topics" in caplog.text
        assert member.source.joined
        assert member.source.standby
        await asyncio.to_thread(real_kafka.create_topic, topic)
        await produce(real_kafka.bootstrap, topic, numbers(3))
        await eventually(lambda: len(member.records) == 3)


async def test_pattern_matches_whole_names_and_takes_label_topics_but_not_dead_letters(
    real_kafka: RealKafka,
) -> None:
    stem = unique("flights")
    names = [f"{stem}-a", f"{stem}-b", f"{stem}-dead", f"x-{stem}-a"]
    labels = unique("labels")
    for name in [*names, labels]:
        await asyncio.to_thread(real_kafka.create_topic, name)
        await produce(real_kafka.bootstrap, name, [name.encode()])
    config = kafka_config(
        real_kafka.bootstrap,
        topic_pattern=f"{stem}-.*",
        label_topics=[labels],
        group_id=unique("group"),
    )
    decode = msgspec.structs.replace(config.decode, dead_letter_topic=f"{stem}-dead")
    config = msgspec.structs.replace(config, decode=decode)
    async with Member(config).running() as member:
        await eventually(lambda: len(member.records) == 3)
        got = {fetch.partition.topic: fetch.is_label_topic for fetch in member.fetches}
        assert got == {f"{stem}-a": False, f"{stem}-b": False, labels: True}
        later = f"{stem}-later"
        await asyncio.to_thread(real_kafka.create_topic, later)
        await produce(real_kafka.bootstrap, later, [b"new"])
        await eventually(lambda: b"new" in member.values)


# ---------------------------------------------------------------- brokers that go away


async def test_broker_that_is_not_there_yet_is_waited_for(
    real_kafka: RealKafka, caplog: pytest.LogCaptureFixture
) -> None:
    topic = real_kafka.fresh_topic()
    await produce(real_kafka.bootstrap, topic, numbers(3))
    config = kafka_config(real_kafka.bootstrap, [topic], group_id=unique("group"))
    await asyncio.to_thread(real_kafka.stop)
    member = Member(config)
    start = asyncio.ensure_future(_run_until_read(member, 3))
    try:
        await eventually(lambda: "waiting for Kafka: nothing listens at" in caplog.text)
    finally:
        await asyncio.to_thread(real_kafka.start)
    await asyncio.wait_for(start, 60)


async def _run_until_read(member: Member, count: int) -> None:
    async with member.running():
        await eventually(lambda: len(member.records) == count)


async def test_source_that_waits_for_a_broker_can_be_stopped(real_kafka: RealKafka) -> None:
    config = kafka_config("127.0.0.1:1", ["events"])
    member = Member(config)
    start = asyncio.ensure_future(member.source.start())
    await asyncio.sleep(0.3)
    assert not start.done()
    member.source.stop_fetching()
    await asyncio.wait_for(start, 5)
    await asyncio.wait_for(member.source.run(), 5)
    await asyncio.wait_for(member.source.stop(1.0), 5)


async def test_restart_of_the_broker_loses_and_repeats_nothing(real_kafka: RealKafka) -> None:
    topic, group = real_kafka.fresh_topic(partitions=2), unique("group")
    config = kafka_config(real_kafka.bootstrap, [topic], group_id=group, session_timeout_s=20.0)
    ledger = Ledger()
    await produce(real_kafka.bootstrap, topic, numbers(100), partitions=2)
    async with Member(config, ledger=ledger).running() as member:
        await eventually(lambda: len(member.records) == 100)
        await asyncio.to_thread(real_kafka.restart)
        await produce(real_kafka.bootstrap, topic, numbers(100, 100), partitions=2)
        await member.commit()
        done = lambda: sum(p["position"] for p in member.source.positions()) == 200  # noqa: E731
        await eventually(done, timeout_s=60)
    expected = {(Partition(topic, p), offset): 1 for p in range(2) for offset in range(100)}
    assert ledger.counted == expected


async def test_idle_partition_is_not_told_while_the_broker_is_frozen(
    real_kafka: RealKafka,
) -> None:
    """Connections stay open, and the high watermark stays what it was: only the answers are missing."""
    topic = real_kafka.fresh_topic()
    config = kafka_config(
        real_kafka.bootstrap, [topic], group_id=unique("group"), session_timeout_s=20.0
    )
    await produce(real_kafka.bootstrap, topic, numbers(5))
    async with Member(config).running() as member:
        await eventually(lambda: len(member.records) == 5 and len(member.fetches) >= 4)
        last = member.fetches[-1]
        assert (last.from_offset, last.to_offset, last.high_watermark) == (5, 5, 5)
        real_kafka.pause()
        try:
            await asyncio.sleep(QUICK.heartbeat_s * 2)  # an answer may have been on its way
            told = len(member.fetches)
            await asyncio.sleep(QUICK.heartbeat_s * 5)  # the state under test: a silent broker
            assert len(member.fetches) == told
        finally:
            real_kafka.resume()
        await eventually(lambda: len(member.fetches) > told, timeout_s=40)


async def test_stop_is_bounded_while_the_broker_is_frozen(
    real_kafka: RealKafka, caplog: pytest.LogCaptureFixture
) -> None:
    topic = real_kafka.fresh_topic()
    config = kafka_config(real_kafka.bootstrap, [topic], group_id=unique("group"))
    member = Member(config)
    await member.source.start()
    run = asyncio.ensure_future(member.source.run())
    await eventually(lambda: member.assigned)
    real_kafka.pause()
    try:
        member.source.stop_fetching()
        await asyncio.wait_for(run, 2)
        begun = asyncio.get_running_loop().time()
        await member.source.stop(1.0)
        assert asyncio.get_running_loop().time() - begun < 4
    finally:
        real_kafka.resume()
    assert "the consumer did not stop in 1.0 s" in caplog.text


# ---------------------------------------------------------------- the watchdog


async def test_consumer_whose_fetch_task_died_is_replaced(
    real_kafka: RealKafka, caplog: pytest.LogCaptureFixture
) -> None:
    topic, group = real_kafka.fresh_topic(), unique("group")
    config = kafka_config(real_kafka.bootstrap, [topic], group_id=group)
    ledger = Ledger()
    await produce(real_kafka.bootstrap, topic, numbers(10))
    async with Member(config, ledger=ledger).running() as member:
        await eventually(lambda: len(member.records) == 10)
        member.source._member.consumer._fetcher._fetch_task.cancel()
        await produce(real_kafka.bootstrap, topic, numbers(10, 10))
        await eventually(lambda: member.telemetry.value("inferometer.consumer.restarts") == 1)
        await eventually(lambda: len(member.records) == 20)
    assert ledger.counted == {(Partition(topic, 0), offset): 1 for offset in range(20)}
    assert "restarted: its fetch task has ended" in caplog.text


async def test_consumer_that_stays_behind_without_moving_is_replaced(
    real_kafka: RealKafka, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    topic, group = real_kafka.fresh_topic(), unique("group")
    config = kafka_config(real_kafka.bootstrap, [topic], group_id=group)
    ledger = Ledger()
    await produce(real_kafka.bootstrap, topic, numbers(10))
    member = Member(config, ledger=ledger, pace=dataclasses.replace(QUICK, stalled_s=1.0))
    async with member.running():
        await eventually(lambda: len(member.records) == 10)
        hangs = asyncio.Event()

        async def never(*_: Any) -> bool:
            hangs.set()
            await asyncio.sleep(3600)
            return False

        # A fetch that hangs, as in the reports of stuck consumers.
        member.source._member.consumer._fetcher._proc_fetch_request = never
        await asyncio.wait_for(hangs.wait(), 10)
        await produce(real_kafka.bootstrap, topic, numbers(10, 10))
        await eventually(lambda: len(member.records) == 20)
        assert member.telemetry.value("inferometer.consumer.restarts") == 1
    assert ledger.counted == {(Partition(topic, 0), offset): 1 for offset in range(20)}
    assert "no progress for 1 s although the brokers answer" in caplog.text

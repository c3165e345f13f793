"""Epochs that meet a rebalance in the wrong moment: aiokafka's own subscription state, no broker."""

import asyncio
import re
import time
from collections.abc import Callable, Collection, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.structs import TopicPartition

from agent.config import Kafka
from agent.ingest import membership, starts
from agent.ingest.announcer import Announcer
from agent.ingest.assignment import Epoch, Owned
from agent.ingest.batches import CorruptRange
from agent.ingest.fence import Committed, Fence
from agent.ingest.kafka import KafkaSource
from agent.ingest.membership import Membership
from agent.telemetry import Telemetry
from agent.types import Fetch, Partition
from tests.support.kafka_source import QUICK, kafka_config

TP = TopicPartition("t", 0)
P0 = Partition("t", 0)
LOG_BEGINS_AT = 100


class Consumer:
    """The calls that are made of an AIOKafkaConsumer, on its real subscription state."""

    def __init__(self) -> None:
        self._coordinator = SimpleNamespace(generation=1, member_id="m")
        self._client = SimpleNamespace(
            cluster=SimpleNamespace(partitions_for_topic=lambda topic: {0})
        )
        self._subscription = SubscriptionState()
        self._subscription.subscribe_pattern(re.compile("t.*"))
        self._subscription.subscribe_from_pattern({"t"})
        self.seeks: list[tuple[TopicPartition, int]] = []

    def assign(self, *tps: TopicPartition) -> None:
        self._subscription.assign_from_subscribed(list(tps))

    def meet_topics(self, *topics: str) -> None:
        """What aiokafka does at once when its metadata has other topics; the listener hears later."""
        self._subscription.subscribe_from_pattern(set(topics))

    async def getmany(self, *tps: TopicPartition, **_: Any) -> dict[TopicPartition, list[Any]]:
        self.meet_topics("t", "t2")
        return {TP: [CorruptRange(5, 9, "damaged")]}

    def subscription(self) -> Collection[str]:
        return frozenset(self._subscription.topics)

    def assignment(self) -> set[TopicPartition]:
        return set(self._subscription.assigned_partitions())

    def pause(self, *tps: TopicPartition) -> None:
        for tp in tps:
            self._subscription.pause(tp)

    def seek(self, tp: TopicPartition, offset: int) -> None:
        self._subscription.seek(tp, offset)
        self.seeks.append((tp, offset))

    async def beginning_offsets(self, tps: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(tps, LOG_BEGINS_AT)


class Group:
    """Offsets of a group, and one member of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.committed = {P0: Committed(500, "")}
        self.n_fetches = 0
        self.on_fetch: Callable[[], None] | None = None
        self.consumer = Consumer()
        self.assigned: list[dict[Partition, int]] = []
        monkeypatch.setattr(starts, "CoordinatorLink", lambda coordinator: None)
        monkeypatch.setattr(membership, "CoordinatorLink", lambda coordinator: None)
        monkeypatch.setattr(starts, "fetch_offsets", self._fetch)
        monkeypatch.setattr(membership, "commit_offsets", self._commit)
        self.telemetry = Telemetry()
        self.member = Membership(
            Kafka(bootstrap_servers=["h:1"], topic_pattern="t.*", group_id="g"),
            pattern="t.*",
            pace=QUICK,
            announcer=Announcer(10.0),
            telemetry=self.telemetry,
            stopping=asyncio.Event(),
            on_assigned=lambda epoch, offsets: self.assigned.append(offsets),
            on_revoked=self._revoked,
            on_change=lambda: None,
            on_failure=self._failed,
        )
        self.member.consumer = self.consumer

    async def begin(self, *tps: TopicPartition) -> None:
        """A new assignment under a new generation, and its starts."""
        if self.member.epoch is not None:
            await self.member.close(self.member.epoch)
        self.consumer._coordinator.generation += 1
        self.consumer.assign(*tps)
        self.member._begin(tps)
        await self.position()

    async def position(self) -> None:
        assert self.member.epoch is not None
        await self.member.position(self.member.epoch)

    async def _fetch(
        self, link: Any, group: str, partitions: Collection[Partition] | None, **_: Any
    ) -> dict[Partition, Committed]:
        self.n_fetches += 1
        if self.on_fetch is not None:
            self.on_fetch()
        return dict(self.committed)

    async def _commit(
        self, link: Any, fence: Any, offsets: Mapping[Partition, Committed], **_: Any
    ) -> dict[Partition, str]:
        self.committed.update(offsets)
        return {}

    async def _revoked(self, epoch: int, budget_s: float) -> None:
        pass

    def _failed(self, error: Exception) -> None:
        raise AssertionError(error)


@pytest.fixture
async def group(monkeypatch: pytest.MonkeyPatch) -> Group:
    return Group(monkeypatch)


async def test_offset_out_of_range_is_replaced_by_the_beginning_of_the_log(group: Group) -> None:
    await group.begin(TP)
    await group.member.start_anew({TP: 500})
    await group.position()
    assert group.assigned == [{P0: 500}, {P0: LOG_BEGINS_AT}]
    assert group.committed[P0].offset == LOG_BEGINS_AT
    assert group.telemetry.value("inferometer.offset.resets") == 1


@pytest.mark.parametrize("is_away", [True, False])
async def test_out_of_range_of_an_old_offset_does_not_rewind_a_newer_one(
    group: Group, is_away: bool
) -> None:
    """A rebalance comes before the new start is found, and another member reads on."""
    await group.begin(TP)
    group.consumer._subscription.begin_reassignment()
    await group.member.start_anew({TP: 500})
    assert group.member.epoch is None, "the rebalance begins the next one"
    if is_away:
        await group.begin()
    group.committed[P0] = Committed(1_000_000, "")
    await group.begin(TP)
    assert group.assigned[-1] == {P0: 1_000_000}
    assert group.committed[P0].offset == 1_000_000
    assert group.telemetry.value("inferometer.offset.resets") == 0


async def test_partition_that_comes_back_is_asked_for_its_offset_anew(group: Group) -> None:
    await group.begin(TP)
    group.consumer._subscription.begin_reassignment()
    await group.member.start_anew({TP: 500})
    await group.begin()
    await group.begin(TP)
    assert group.assigned[-1] == {P0: 500}, "the log may be another one by now"


async def test_answer_about_an_offset_that_is_no_longer_asked_for_ends_no_epoch(
    group: Group,
) -> None:
    await group.begin(TP)
    await group.member.start_anew({TP: 499})
    assert group.member.epoch is not None
    assert group.member.number == 1


@pytest.mark.parametrize("topics", [("t", "t2"), ()])
async def test_topics_that_change_while_starts_are_looked_up_leave_the_epoch_to_the_rebalance(
    group: Group, topics: tuple[str, ...]
) -> None:
    group.on_fetch = lambda: group.consumer.meet_topics(*topics)
    await group.begin(TP)
    epoch = group.member.epoch
    assert epoch is not None
    assert not epoch.positioned
    assert group.assigned == []

    # Until the rebalance comes, the source comes back here: it must neither spin nor ask.
    assert group.n_fetches == 1
    began_at = time.monotonic()
    await group.position()
    assert time.monotonic() - began_at >= QUICK.poll_s * 0.9
    assert group.n_fetches == 1
    closing = asyncio.ensure_future(group.member.close(epoch))
    await asyncio.wait_for(group.member.position(epoch), 1.0)
    await closing

    group.on_fetch = None
    group.consumer.meet_topics("t", "t2", "t3")
    await group.begin(TP)
    assert group.assigned == [{P0: 500}]


async def test_assignment_that_goes_during_the_hand_over_is_not_begun_again(group: Group) -> None:
    await group.begin(TP)

    async def revoked(epoch: int, budget_s: float) -> None:
        group.consumer.meet_topics("t", "t2")

    group.member._on_revoked = revoked
    await group.member.start_anew({TP: 500})
    assert group.member.epoch is None


async def test_records_that_arrive_as_the_assignment_goes_are_left_to_the_next_epoch() -> None:
    """A damaged batch would be sought again, which cannot be done any more."""
    fetches: list[Fetch] = []

    async def revoked(epoch: int, budget_s: float) -> None:
        pass

    source = KafkaSource(
        kafka_config("h:1", ["t"]),
        on_assigned=lambda epoch, offsets: None,
        on_fetch=fetches.append,
        on_revoked=revoked,
        telemetry=Telemetry(),
        pace=QUICK,
    )
    consumer = Consumer()
    consumer.assign(TP)
    consumer.seek(TP, 9)
    state = consumer._subscription.subscription.assignment.state_value(TP)
    owned = Owned(P0, TP, state, 5, 5, "", is_label_topic=False, progressed_at=0.0)
    epoch = Epoch(1, Fence("g", 1, "m"), frozenset({TP}), {P0: owned}, positioned=True)
    source._member.consumer, source._member.epoch = consumer, epoch
    await source._poll()
    assert fetches == []
    assert owned.next_offset == 5

"""Epochs that meet a rebalance in the wrong moment: aiokafka's own subscription state, no broker."""

import asyncio
import contextlib
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
from agent.ingest.fence import UNKNOWN_PARTITION, Committed, Fence
from agent.ingest.kafka import KafkaSource
from agent.ingest.membership import Membership
from agent.ingest.watch import held_up, why_restart
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
        self.n_metadata_updates = 0
        self._client = SimpleNamespace(
            cluster=SimpleNamespace(partitions_for_topic=lambda topic: {0}),
            force_metadata_update=self._update_metadata,
        )
        self._subscription = SubscriptionState()
        self._subscription.subscribe_pattern(re.compile("t.*"))
        self._subscription.subscribe_from_pattern({"t"})
        self.seeks: list[tuple[TopicPartition, int]] = []

    def _update_metadata(self) -> None:
        self.n_metadata_updates += 1

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
        self.refusals: list[dict[Partition, str]] = []  # one a commit
        self.n_commits = 0
        self.answers = asyncio.Event()  # to commits
        self.answers.set()
        self.on_refused: Callable[[], None] = lambda: None
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
        self.n_commits += 1
        await self.answers.wait()
        refused = self.refusals.pop(0) if self.refusals else {}
        self.committed.update({p: at for p, at in offsets.items() if p not in refused})
        if refused:
            self.on_refused()
        return refused

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


async def test_fence_of_an_unclear_hand_over_begins_no_other_epoch(group: Group) -> None:
    """Its last commit may still be on its way, and would be accepted under the same fence."""
    await group.begin(TP)
    group.answers.clear()

    async def hand_over(epoch: int, budget_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.01):
                await group.member.commit(epoch, {P0: 500})

    group.member._on_revoked = hand_over
    assert not await group.member.start_anew({TP: 500})
    assert (group.member.epoch, group.assigned) == (None, [{P0: 500}])
    group.answers.set()
    await group.begin(TP)  # a member again, and the log is asked for the partition as before
    assert group.assigned == [{P0: 500}, {P0: LOG_BEGINS_AT}]
    assert await group.member.start_anew({TP: LOG_BEGINS_AT}), "this hand-over was answered"
    assert group.member.epoch is not None


async def test_nothing_is_read_before_the_group_has_taken_the_first_offset(group: Group) -> None:
    group.committed = {Partition("t", 1): Committed(7, "")}
    group.refusals = [{P0: UNKNOWN_PARTITION}, {P0: "TOPIC_AUTHORIZATION_FAILED"}]
    reasons: list[str] = []

    async def begin() -> None:
        await group.begin(TP)

    beginning = asyncio.ensure_future(begin())
    while not beginning.done():
        assert group.assigned == [] or P0 in group.committed
        if group.member.waits_for not in ("", *reasons[-1:]):
            reasons.append(group.member.waits_for)
        await asyncio.sleep(0)
    await beginning
    assert group.n_commits == 3
    assert group.assigned == [{P0: LOG_BEGINS_AT}]
    assert group.committed[P0].offset == LOG_BEGINS_AT
    assert [reason.rpartition(" ")[2] for reason in reasons] == [
        UNKNOWN_PARTITION,
        "TOPIC_AUTHORIZATION_FAILED",
    ]
    assert group.member.waits_for == ""
    assert group.consumer.n_metadata_updates == 1, "whether it was deleted"


async def test_first_offset_that_is_refused_until_the_epoch_ends_begins_nothing(
    group: Group,
) -> None:
    group.committed = {Partition("t", 1): Committed(7, "")}
    group.refusals = [{P0: UNKNOWN_PARTITION}] * 1000

    def end() -> None:
        assert group.member.epoch is not None
        group.member.epoch.ended.set()

    group.on_refused = end
    await asyncio.wait_for(group.begin(TP), 5.0)
    assert (group.assigned, group.n_commits) == ([], 1)
    assert group.member.waits_for == ""


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


def owned_at(progressed_at: float, paused: str) -> Owned:
    state = SimpleNamespace(timestamp=None)
    return Owned(P0, TP, state, 5, 5, "", False, progressed_at, high_watermark=9, paused=paused)


def test_partitions_that_stay_paused_because_nothing_is_cut_are_a_reason_not_to_be_ready() -> None:
    now = time.monotonic()
    assert held_up([], 60.0) == ""
    assert held_up([owned_at(now - 100, ""), owned_at(now - 100, "ahead")], 60.0) == ""
    assert held_up([owned_at(now - 50, "buffer"), owned_at(now - 100, "buffer")], 60.0) == ""
    assert held_up([owned_at(now - 99, "buffer")] * 2, 60.0).startswith("2 partitions are paused")


@pytest.mark.parametrize(("ago_s", "is_due"), [(None, False), (30.0, False), (61.0, True)])
async def test_refused_epoch_that_the_group_does_not_end_is_ended_here(
    ago_s: float | None, is_due: bool
) -> None:
    fetcher = SimpleNamespace(error_future=asyncio.get_running_loop().create_future())
    consumer = SimpleNamespace(_fetcher=fetcher, _client=SimpleNamespace(cluster=None))
    now = time.monotonic()
    epoch = Epoch(1, Fence("g", 1, "m"), frozenset({TP}), {P0: owned_at(now - 100, "buffer")})
    epoch.refused_at = None if ago_s is None else now - ago_s
    kafka = Kafka(bootstrap_servers=["h:1"], topics=["t"], group_id="g")
    why = await why_restart(kafka, consumer, epoch, 60.0)
    assert (why is not None) == is_due

"""Starts, budget, patterns and messages: what needs no broker."""

import asyncio
import logging
import re
import socket
import ssl
from typing import Any

import aiokafka.errors as kafka_errors
import pytest

from agent.config import Kafka
from agent.errors import ConfigError, SourceError
from agent.ingest.announcer import Announcer
from agent.ingest.assignment import RECORD_OVERHEAD_BYTES, ByteBudget, size_of
from agent.ingest.connection import Outlook, explain, find_trouble, silence_secrets
from agent.ingest.consumer import connect, hopeless, pause, topics_of, whole_pattern
from agent.ingest.fence import Committed, Fence
from agent.ingest.kafka import KafkaSource
from agent.ingest.starts import End, Why, choose_starts, genesis_mark
from agent.telemetry import Telemetry
from agent.types import Partition, Record
from tests.support.kafka_source import QUICK, Member, kafka_config

P0, P1, P2 = Partition("t", 0), Partition("t", 1), Partition("t", 2)
FENCE = Fence("group", 4, "member")


# ---------------------------------------------------------------- where to start


def starts(
    committed: dict[Partition, Committed], elsewhere: list[Committed], **options: Any
) -> Any:
    return choose_starts(
        [P0, P1],
        committed,
        elsewhere,
        fence=FENCE,
        policy=options.pop("policy", End.LATEST),
        out_of_range=options.pop("out_of_range", {}),
        **options,
    )


def test_group_without_any_offset_follows_the_policy() -> None:
    for policy in End:
        chosen = starts({}, [], policy=policy)
        assert {start.end for start in chosen.values()} == {policy}
        assert {start.why for start in chosen.values()} == {Why.NEW_GROUP}
        assert {start.genesis for start in chosen.values()} == {"genesis;4"}


def test_partition_that_a_known_group_has_not_met_starts_at_its_beginning() -> None:
    known = {P0: Committed(9, "")}
    chosen = starts(known, [*known.values(), Committed(3, "other topic")])
    assert (chosen[P0].why, chosen[P0].offset, chosen[P0].end) == (Why.COMMITTED, 9, None)
    assert (chosen[P1].why, chosen[P1].end) == (Why.NEW_PARTITION, End.EARLIEST)


def test_genesis_of_our_own_generation_leaves_the_group_a_new_one() -> None:
    mark = genesis_mark(FENCE)
    chosen = starts({P0: Committed(9, mark)}, [Committed(9, mark), Committed(2, mark)])
    assert chosen[P0].genesis == mark, "later commits of this generation keep it"
    assert (chosen[P1].why, chosen[P1].end) == (Why.NEW_GROUP, End.LATEST)


def test_genesis_of_a_former_generation_makes_it_a_known_group() -> None:
    former = genesis_mark(Fence("group", 3, "member"))
    chosen = starts({P0: Committed(9, former)}, [Committed(9, former)])
    assert chosen[P0].genesis == ""
    assert chosen[P1].why is Why.NEW_PARTITION


def test_committed_offset_that_is_out_of_range_starts_at_the_beginning() -> None:
    known = {P0: Committed(9, ""), P1: Committed(5, "")}
    chosen = starts(known, list(known.values()), out_of_range={P1: 5, P2: 5})
    assert chosen[P0].why is Why.COMMITTED
    assert (chosen[P1].why, chosen[P1].end, chosen[P1].genesis) == (
        Why.OUT_OF_RANGE,
        End.EARLIEST,
        "",
    )
    assert set(chosen) == {P0, P1}


def test_group_that_has_committed_another_offset_since_starts_there() -> None:
    known = {P0: Committed(9, ""), P1: Committed(1_000_000, "")}
    chosen = starts(known, list(known.values()), out_of_range={P1: 5})
    assert (chosen[P1].why, chosen[P1].offset) == (Why.COMMITTED, 1_000_000)


# ---------------------------------------------------------------- budget


def test_budget_is_full_past_its_limit_until_less_than_half_is_used() -> None:
    budget = ByteBudget(100)
    budget.reserve(100)
    assert not budget.full
    budget.reserve(1)
    assert budget.full
    budget.release(51)
    assert budget.full, "50 of 100 are used: not yet less than half"
    budget.release(1)
    assert not budget.full
    budget.release(49)
    assert budget.used == 0


def test_size_counts_values_apart_and_everything_with_its_overhead() -> None:
    records = [
        Record(0, 0, b"key", b"value", (("name", b"header"), ("none", None))),
        Record(1, 0, None, None, ()),
        Record(2, 0, b"", b"", ()),
    ]
    values, whole = size_of(records)
    assert values == 5
    assert whole == 5 + 3 + len("name" + "header" + "none") + 3 * RECORD_OVERHEAD_BYTES
    assert size_of([]) == (0, 0)


# ---------------------------------------------------------------- topics


def test_label_topics_come_last() -> None:
    assert topics_of(Kafka(topics=["b", "c"], label_topics=["a"])) == ["b", "c", "a"]


def test_pattern_takes_whole_names_label_topics_and_no_dead_letters() -> None:
    kafka = Kafka(topic_pattern="flights|rides-.*", label_topics=["labels.v1"])
    pattern = re.compile(whole_pattern(kafka, "rides-dead"))
    matches = {
        name
        for name in (
            *("flights", "flights2", "rides-1", "rides-dead", "rides-dead2"),
            *("labels.v1", "labelsxv1", "old-flights"),
        )
        if pattern.match(name)
    }
    assert matches == {"flights", "rides-1", "rides-dead2", "labels.v1"}
    assert whole_pattern(Kafka(topics=["a"]), None) == ""


async def test_source_without_topics_is_refused() -> None:
    member = Member(kafka_config("127.0.0.1:1"))
    with pytest.raises(ConfigError, match=r"kafka\.topics is empty; name the topics"):
        await member.source.start()


# ---------------------------------------------------------------- messages


def trouble(
    error: BaseException, *, connected: bool = False, **options: Any
) -> tuple[str, Outlook]:
    found = explain(Kafka(**options), "h:1", error, connected=connected)
    return found.message, found.outlook


def test_what_may_pass_is_waited_for() -> None:
    for error in (
        ConnectionRefusedError(),
        TimeoutError(),
        kafka_errors.RequestTimedOutError(),
    ):
        assert trouble(error)[1] is Outlook.WAIT
    message, outlook = trouble(socket.gaierror(-2, "Name or service not known"))
    assert "the host name of h:1 is not known" in message
    assert outlook is Outlook.WAIT


def test_what_hangs_up_is_suspected_and_its_options_named() -> None:
    closed = kafka_errors.KafkaConnectionError("closed")
    message, outlook = trouble(closed)
    assert outlook is Outlook.SUSPECT
    assert "kafka.security_protocol (now PLAINTEXT)" in message
    message, outlook = trouble(ConnectionResetError(), security_protocol="SSL")
    assert outlook is Outlook.SUSPECT
    assert "this listener may speak plaintext" in message
    message, outlook = trouble(closed, connected=True)
    assert "may want authentication" in message


def test_tls_alert_in_answer_to_plaintext_is_recognised() -> None:
    error = kafka_errors.KafkaConnectionError("closed")
    error.__cause__ = asyncio.IncompleteReadError(b"\x02\x02P", 0x15030300)
    message, outlook = trouble(error)
    assert outlook is Outlook.HOPELESS
    assert "speaks TLS; kafka.security_protocol is PLAINTEXT: use SSL" in message
    error.__cause__ = asyncio.IncompleteReadError(b"", 4)
    assert trouble(error)[1] is Outlook.SUSPECT


def test_wrong_settings_are_hopeless() -> None:
    for error in (
        ssl.SSLError(1, "WRONG_VERSION_NUMBER"),
        kafka_errors.SaslAuthenticationFailed("no"),
        kafka_errors.UnsupportedSaslMechanismError("no"),
        kafka_errors.IllegalSaslStateError("no"),
    ):
        assert trouble(error)[1] is Outlook.HOPELESS, error


def test_errors_of_the_group_name_the_option() -> None:
    kafka = Kafka(group_id="g", session_timeout_s=7.0, heartbeat_interval_s=1.0)
    cases = {
        kafka_errors.GroupAuthorizationFailedError("g"): "kafka.group_id 'g' is not authorised",
        kafka_errors.InconsistentGroupProtocolError(): "used by consumers of another kind",
        kafka_errors.InvalidSessionTimeoutError(): "kafka.session_timeout_s is 7.0; the broker",
        kafka_errors.InvalidGroupIdError(): "kafka.group_id 'g' is not valid",
    }
    for error, text in cases.items():
        assert text in str(hopeless(kafka, error))
    shards = hopeless(
        kafka, kafka_errors.InvalidGroupIdError(), group_option="aggregate.group_id: group"
    )
    assert str(shards) == "aggregate.group_id: group 'g' is not valid; choose another"
    assert hopeless(kafka, kafka_errors.RequestTimedOutError()) is None


async def test_most_telling_of_several_servers_is_reported() -> None:
    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        kafka = Kafka(bootstrap_servers=["127.0.0.1:1", f"127.0.0.1:{port}"])
        found = await find_trouble(kafka, {"security_protocol": "PLAINTEXT"}, timeout_s=2)
    assert found is not None
    assert found.outlook is Outlook.SUSPECT
    assert f"127.0.0.1:{port} (kafka.bootstrap_servers) hangs up at once" in found.message


async def test_server_that_keeps_hanging_up_ends_the_attempts() -> None:
    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        kafka = Kafka(bootstrap_servers=[f"127.0.0.1:{port}"], topics=["t"])
        with pytest.raises(SourceError, match=r"hangs up at once.*\(5 attempts\)"):
            async with asyncio.timeout(20):
                await connect(kafka, QUICK, Announcer(10.0), asyncio.Event())


async def test_pause_ends_with_the_stop() -> None:
    stopping = asyncio.Event()
    stopping.set()
    await asyncio.wait_for(pause(stopping, 60.0), 1.0)


def test_announcer_says_a_thing_again_after_its_time_or_when_it_was_over() -> None:
    now = 0.0
    announcer = Announcer(10.0, clock=lambda: now)
    assert announcer.may_say("a")
    assert announcer.may_say("b")
    assert not announcer.may_say("a")
    now = 9.9
    assert not announcer.may_say("a")
    now = 10.0
    assert announcer.may_say("a")
    announcer.forget("a")
    assert announcer.may_say("a")
    for i in range(500):
        assert announcer.may_say(f"thing {i}")


def test_requests_are_not_logged_at_debug(caplog: pytest.LogCaptureFixture) -> None:
    root, library, logger = (logging.getLogger(n) for n in (None, "aiokafka", "aiokafka.conn"))
    before = {one: one.level for one in (root, library, logger)}
    try:
        root.setLevel(logging.DEBUG)
        library.setLevel(logging.NOTSET)
        logger.setLevel(logging.NOTSET)
        silence_secrets()
        assert not logger.isEnabledFor(logging.DEBUG)
        assert logger.isEnabledFor(logging.INFO)
    finally:
        for one, level in before.items():
            one.setLevel(level)


async def test_source_before_its_start_is_neither_joined_nor_on_standby() -> None:
    async def revoked(epoch: int, budget_s: float) -> None:
        raise AssertionError

    source = KafkaSource(
        kafka_config("127.0.0.1:1", ["t"]),
        on_assigned=lambda epoch, offsets: None,
        on_fetch=lambda fetch: None,
        on_revoked=revoked,
        telemetry=Telemetry(),
    )
    assert not source.joined
    assert not source.standby
    assert source.epoch == 0
    assert source.positions() == []
    source.release(10)
    source.set_ahead({P0})
    await source.stop(1.0)

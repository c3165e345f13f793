"""What of aiokafka's insides the consumers rest on. When an upgrade breaks one of these, its message says
what has changed and where to look; `kafka.fetch: stock` rests on all but the last three."""

from __future__ import annotations

import inspect
from typing import Any

import aiokafka
from aiokafka import AIOKafkaConsumer, client, conn
from aiokafka.consumer import fetcher
from aiokafka.record.default_records import DefaultRecordBatch
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.record.util import calc_crc32c

from agent.ingest.batches import FramedRecords, ToleratedRecords, ToleratingConsumer
from agent.ingest.direct import DirectConnection
from agent.ingest.raw import RawConsumer, RawFetcher, RawFrames, RawRecords
from tests.support.raw_batches import TRANSACTIONAL, built, control, record

LOOK = "agent/ingest/batches.py and raw.py replace it: read aiokafka's new source before moving on"


def parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_version_is_the_one_that_was_read() -> None:
    assert aiokafka.__version__ == "0.14.0", (
        f"aiokafka is {aiokafka.__version__}: run this file and tests/integration/test_kafka_raw_real.py, "
        "read the diff of aiokafka/consumer/fetcher.py, then change the pin in pyproject.toml and here"
    )


def test_consumer_makes_its_fetcher_by_that_name() -> None:
    names = AIOKafkaConsumer.start.__code__.co_names
    assert "Fetcher" in names, f"AIOKafkaConsumer.start no longer makes a Fetcher. {LOOK}"
    for consumer in (RawConsumer, ToleratingConsumer):
        assert consumer.start.__code__ is AIOKafkaConsumer.start.__code__
        assert consumer.start.__globals__["Fetcher"] is not fetcher.Fetcher
    assert AIOKafkaConsumer.start.__globals__["Fetcher"] is fetcher.Fetcher, "others keep theirs"


def test_fetcher_makes_both_readers_by_name_in_the_one_place_that_is_replaced() -> None:
    users = [
        name
        for name, method in inspect.getmembers(fetcher.Fetcher, inspect.isfunction)
        if {"MemoryRecords", "PartitionRecords"} & set(method.__code__.co_names)
    ]
    assert users == ["_proc_fetch_request"], f"Fetcher makes its readers in {users}. {LOOK}"
    replaced = RawFetcher._proc_fetch_request.__globals__
    assert replaced["MemoryRecords"] is RawFrames
    assert replaced["PartitionRecords"] is RawRecords


def test_reader_of_a_partition_is_made_and_asked_as_before() -> None:
    assert parameters(fetcher.PartitionRecords.__init__) == [
        "self",
        "tp",
        "records",
        "aborted_transactions",
        "fetch_offset",
        "key_deserializer",
        "value_deserializer",
        "check_crcs",
        "isolation_level",
    ], f"PartitionRecords takes other arguments. {LOOK}"
    for name in (
        "__iter__",
        "__next__",
        "_unpack_records",
        "_consumer_record",
        "_consume_aborted_up_to",
        "_contains_abort_marker",
    ):
        assert hasattr(fetcher.PartitionRecords, name), f"PartitionRecords.{name} is gone. {LOOK}"
    stock = set(vars(fetcher.PartitionRecords))
    ours = {
        name
        for kind in (ToleratedRecords, RawRecords)
        for name, value in vars(kind).items()
        if inspect.isfunction(value)
    }
    assert ours & stock == {"__iter__", "_unpack_records", "_consumer_record"}, (
        f"a method of ours now hides one of aiokafka's, or no longer does. {LOOK}"
    )


def test_what_the_fetcher_asks_of_a_buffer_is_answered() -> None:
    """The names it uses of `records`, and of a reader: nothing else may be asked of ours."""
    source = inspect.getsource(fetcher.Fetcher._proc_fetch_request)
    asked = {
        part.split("(")[0].strip()
        for part in source.replace("\n", " ").split("records.")[1:]
        if part[:1].isalpha()
    }
    assert asked == {"has_next", "size_in_bytes"}, f"MemoryRecords is asked for {asked}. {LOOK}"
    for name in asked:
        assert callable(getattr(FramedRecords, name))
    position = inspect.getsource(fetcher.FetchResult)
    assert position.count("next_fetch_offset") == 3, f"FetchResult reads the position anew. {LOOK}"


def test_drained_items_are_counted_and_not_looked_at() -> None:
    source = inspect.getsource(fetcher.FetchResult.getall)
    assert "ret_list.append(msg)" in source, f"FetchResult.getall looks into records. {LOOK}"
    assert "max_records -= len(drained[tp])" in inspect.getsource(fetcher.Fetcher.fetched_records)


def test_stock_reader_still_takes_one_framed_batch() -> None:
    records = MemoryRecords(bytes(built([record(7, b"x")])))
    assert records.has_next()
    batch = records.next_batch()
    assert batch.validate_crc()
    assert [one.offset for one in batch] == [7]
    assert not records.has_next()


def test_header_fields_lie_where_the_raw_reader_takes_them_from() -> None:
    data = built([record(5), record(6)], codec=3, attributes=TRANSACTIONAL, producer=12345)
    batch = DefaultRecordBatch(bytes(data))
    assert (batch.base_offset, batch.next_offset, batch.attributes & 7) == (5, 7, 3)
    assert batch.producer_id == 12345
    assert batch.is_transactional
    assert not batch.is_control_batch
    assert batch.crc == calc_crc32c(memoryview(bytes(data))[21:]), "takes views, too"


def test_abort_markers_are_told_from_commits() -> None:
    reader = RawRecords(("t", 0), RawFrames(b""), None, 0, None, None, True, 1)
    for commit in (True, False):
        batch = DefaultRecordBatch(bytes(control(0, 1, commit=commit)))
        assert reader._contains_abort_marker(iter(batch)) is not commit


LOOK_DIRECT = (
    "agent/ingest/direct.py replaces it: read aiokafka's conn.py and client.py before moving on"
)


def test_consumer_makes_its_client_and_the_client_its_connections_by_these_names() -> None:
    names = AIOKafkaConsumer.__init__.__code__.co_names
    assert "AIOKafkaClient" in names, f"AIOKafkaConsumer makes another client. {LOOK_DIRECT}"
    users = {
        name
        for name, method in inspect.getmembers(client.AIOKafkaClient, inspect.isfunction)
        if "create_conn" in method.__code__.co_names
    }
    assert users == {"bootstrap", "_get_conn"}, f"{users} open connections. {LOOK_DIRECT}"
    assert "AIOKafkaConnection" in conn.create_conn.__code__.co_names, LOOK_DIRECT


def test_connection_reads_and_closes_by_the_parts_that_are_replaced() -> None:
    stock = conn.AIOKafkaConnection
    assert set(vars(DirectConnection)) & set(vars(stock)) >= {
        "_create_reader_task",
        "_read",
        "_handle_frame",
    }, LOOK_DIRECT
    readers = {
        name
        for name, method in inspect.getmembers(stock)
        if "_reader" in getattr(getattr(method, "__code__", None), "co_names", ())
    }
    assert readers == {"__init__", "_read", "close", "connect", "connected"}, (
        f"{readers} use the reader. {LOOK_DIRECT}"
    )
    assert {"_read_task", "cancel"} <= set(stock.close.__code__.co_names), LOOK_DIRECT
    order = stock.connect.__code__.co_names
    assert order.index("_create_reader_task") < order.index("_do_version_lookup"), (
        f"Something is asked before the reader is there. {LOOK_DIRECT}"
    )
    assert parameters(stock._handle_frame) == ["self", "resp"], LOOK_DIRECT

"""What was produced and acknowledged, row by row, and the account that the totals must equal.

Independent of the agent: nothing here reads its code. Every number of a row is a small multiple of 1/4,
so that sums are exact in any order. `amount` is above zero and `balance` below: a column that turns
negative later begins its histogram anew, and the sum of its first period is in no last point. A row carries a slot, a power of two: its histogram tells blocks of
40 rows apart, so that a lost row does not hide behind a repeated one.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple, Self

from confluent_kafka import KafkaException, Producer

N_STREAMS = 6
ROWS_A_SLOT = 40
SLOTS = range(-50, 51)
FEATURES = ("amount", "balance")

#: (model, version) -> what is counted of it
Stream = tuple[str, str]
Key = tuple[Stream, str]


class Row(NamedTuple):
    """One event as it was produced; values in quarters, None when missing."""

    stream: Stream
    amount: int | None
    balance: int | None
    slot: int
    failed: bool

    def value(self, number: int, ts_ms: int) -> bytes:
        features: dict[str, object] = {"slot": 2.0**self.slot}
        features |= {n: q if q is None else q / 4 for n, q in zip(FEATURES, self[1:3], strict=True)}
        event = {
            "id": f"r-{number}",
            "ts": ts_ms,
            "model": self.stream[0],
            "version": self.stream[1],
            "features": features,
            "status": "timeout" if self.failed else "ok",
        }
        return json.dumps(event).encode()


class Account:
    """Counts and sums by (stream, what): rows, errors, and of each feature values, missing, the sum."""

    def __init__(self, of: Mapping[Key, int] | None = None) -> None:
        self.of: Counter[Key] = Counter(of or {})

    def add(self, row: Row, times: int = 1) -> None:
        at = row.stream
        self.of[at, "rows"] += times
        self.of[at, "errors"] += times * row.failed
        self.of[at, f"slot {row.slot}"] += times
        for name, quarters in zip(FEATURES, row[1:3], strict=True):
            if quarters is None:
                self.of[at, f"{name} missing"] += times
            else:
                self.of[at, f"{name} values"] += times
                self.of[at, f"{name} sum"] += times * quarters

    @property
    def rows(self) -> int:
        return sum(n for (_, what), n in self.of.items() if what == "rows")

    def copy(self) -> Account:
        return Account(self.of)

    def minus(self, other: Account) -> Account:
        out = self.copy()
        out.of.subtract(other.of)
        return out


class Ledger:
    """Produces at a steady rate in a thread of its own between `go` and `hold`; every row acknowledged.

    An idempotent producer with no limit of time: a row that a broker's crash hides is sent again, once.
    """

    def __init__(
        self, bootstrap: str, topic: str, partitions: int, *, seed: int, rate: int
    ) -> None:
        self.topic = topic
        self.partitions = partitions
        self.account = Account()
        self.rows: dict[int, dict[int, Row]] = {}  # by partition and offset
        self.first: dict[int, int] = {}  # where logs begin whose first records were deleted
        self.troubles: list[str] = []
        self._rnd = random.Random(seed)
        self._rate = rate
        self._number = 0
        self._sent: Counter[int] = Counter()  # by partition: the next row's offset
        self._lock = threading.Lock()
        self._busy = threading.Lock()
        self._going = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="ledger", daemon=True)
        self._bootstrap = bootstrap
        self._of_topics_before = 0
        self._producer = self._new_producer()

    def _new_producer(self) -> Producer:
        return Producer(
            {
                "bootstrap.servers": self._bootstrap,
                "enable.idempotence": True,
                "message.timeout.ms": 0,
                "compression.type": "lz4",
                "linger.ms": 5,
                "reconnect.backoff.max.ms": 200,
                "topic.metadata.refresh.interval.ms": 1000,  # new partitions
                "log_level": 0,
            }
        )

    @property
    def produced(self) -> int:
        """Rows acknowledged."""
        with self._lock:
            return self._of_topics_before + sum(len(rows) for rows in self.rows.values())

    def ends(self) -> dict[int, int]:
        """Behind the last acknowledged row of each partition."""
        with self._lock:
            return {n: len(self.rows.get(n, ())) for n in range(self.partitions)}

    def sent(self) -> dict[int, int]:
        """Behind the last row of each partition that may have been read, acknowledged or not."""
        return {n: self._sent[n] for n in range(self.partitions)}

    def add_rows(self, n: int) -> None:
        """Some more, now, from the calling thread; `go` must not have been called, or `hold` since."""
        for _ in range(n):
            self._one()
        self._flush()

    def begin_topic(self) -> None:
        """The topic was deleted and made anew: offsets begin at 0. Behind `hold`."""
        with self._busy, self._lock:
            self._of_topics_before += sum(len(rows) for rows in self.rows.values())
            self.rows.clear()
            self.first.clear()
            self._sent.clear()
            self._producer = self._new_producer()  # sequence numbers are of the topic that is gone

    def go(self) -> None:
        self._going.set()

    def hold(self) -> None:
        """Stop, and return when every row is acknowledged."""
        self._going.clear()
        with self._busy:  # a burst that has begun is part of it
            self._flush()

    def again(self, ranges: Iterable[tuple[int, int, int]], times: int) -> None:
        """A tool made the group count these (partition, from, to) again (1), or leave them out (-1)."""
        with self._lock:
            for partition, at, to in ranges:
                rows = self.rows.get(partition, {})
                for offset in range(at, to):
                    self.account.add(rows[offset], times)

    def between(self, start: Mapping[int, int], ends: Mapping[int, int]) -> Account:
        """The account of the rows from `start` to `ends`, of those that were acknowledged."""
        out = Account()
        with self._lock:
            for partition, end in ends.items():
                rows = self.rows.get(partition, {})
                for offset in range(start.get(partition, 0), end):
                    if offset in rows:
                        out.add(rows[offset])
        return out

    def copy_account(self) -> Account:
        with self._lock:
            return self.account.copy()

    def _flush(self) -> None:
        deadline = time.monotonic() + 60
        while self._producer.flush(1):
            if time.monotonic() > deadline:
                self.troubles.append("rows were not acknowledged in 60 s")
                return

    def _work(self) -> None:
        owed, before = 0.0, time.monotonic()
        while not self._closing.wait(0.02):
            now = time.monotonic()
            with self._busy:
                if self._going.is_set():
                    owed = min(owed + (now - before) * self._rate, self._rate / 4)
                    for _ in range(int(owed)):
                        self._one()
                    owed -= int(owed)
            self._producer.poll(0)
            before = now

    def _one(self) -> None:
        rnd, number = self._rnd, self._number
        self._number += 1
        stream = (f"m{rnd.randrange(N_STREAMS // 2)}", str(rnd.randrange(1, 3)))
        row = Row(
            stream,
            None if rnd.random() < 0.1 else rnd.randrange(1, 1 << 16),
            None if rnd.random() < 0.02 else -rnd.randrange(1, 1 << 12),
            SLOTS[number // ROWS_A_SLOT % len(SLOTS)],
            rnd.random() < 0.02,
        )

        partition = number % self.partitions
        offset = self._sent[partition]
        self._sent[partition] += 1

        def delivered(error: object, message: object) -> None:
            if error is not None:
                self.troubles.append(f"not acknowledged: {error}")
                return
            with self._lock:
                # In any order after a crash of the broker; unknown when a retry found it there.
                at = message.offset()  # type: ignore[attr-defined]
                if at is not None and at >= 0 and at != offset:
                    self.troubles.append(f"row {number} at offset {at}, not {offset}")
                self.rows.setdefault(partition, {})[offset] = row
                self.account.add(row)

        value = row.value(number, time.time_ns() // 1_000_000)
        deadline = time.monotonic() + 30
        while True:
            try:
                self._producer.produce(
                    self.topic, value, partition=partition, on_delivery=delivered
                )
                return
            except (KafkaException, BufferError) as error:  # a partition it has not heard of yet
                if time.monotonic() > deadline:
                    self.troubles.append(f"not produced: {error}")
                    return
                self._producer.poll(0.1)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._thread.join(10)
        self._producer.purge()
        self._producer.flush(5)

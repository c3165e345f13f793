"""When windows seal, and what never seals them."""

from __future__ import annotations

import pytest

from agent.config import Config, Kafka, Windows
from agent.fold.base import Fold
from agent.fold.effects import Effects
from agent.fold.watermarks import NEVER
from agent.state.chunk import merge_digest
from agent.types import Partition, StreamKey
from tests.support.blocks import Row, chunk_of, range_of

S = 1_000_000_000
W = 10_000  # ms
#: 10 s windows, 5 s lateness, idle after 30 s, unowned after 60 s, waits of 100 s.
WINDOWS = Windows(
    width_s=10,
    out_of_orderness_s=5,
    idle_timeout_s=30,
    owner_timeout_s=60,
    max_wait_s=100,
    max_open=4,
    keep=100,
)
FIRST = 170_000_000
T0 = FIRST * W
KEY = StreamKey("m", "1")


class Driver:
    """A fold, a wall clock, and partitions that read on."""

    def __init__(self, windows: Windows = WINDOWS, kafka: Kafka | None = None) -> None:
        self.config = Config(windows=windows, kafka=kafka or Kafka())
        self.fold = Fold(self.config, start_ns=1)
        self.now_s = 1000
        self.offsets: dict[Partition, int] = {}
        self.sealed: list[tuple[int, int, float]] = []  # window from FIRST, rows, coverage

    def take(self, effects: Effects) -> list[tuple[int, int, float]]:
        new = [(p.window - FIRST, p.rows, p.coverage) for p in effects.sealed]
        assert effects.sealed_until == self.fold.sealed_until
        self.sealed += new
        return new

    def read(
        self,
        *times_ms: int,
        partition: int | Partition = 0,
        caught_up: bool = False,
        others: dict[int, bool] | None = None,
    ) -> list[tuple[int, int, float]]:
        """A chunk with a row at each of these times (from T0) in one partition.

        `others`: further partitions the chunk names, without rows, and whether they are caught up.
        """
        if isinstance(partition, int):
            partition = Partition("events", partition)
        rows = [Row(KEY, T0 + t) for t in times_ms]
        first = self.offsets.get(partition, 0)
        self.offsets[partition] = first + len(rows)
        ranges = [
            range_of(
                partition,
                rows,
                from_offset=first,
                caught_up=caught_up,
                last_row_ns=self.now_s * S if rows else 0,
            )
        ]
        for other, is_caught_up in (others or {}).items():
            ranges.append(range_of(other, caught_up=is_caught_up, to_offset=0))
        chunk = chunk_of([[rows]], digest=merge_digest(self.config), ranges=ranges, width_ms=W)
        return self.take(self.fold.apply(chunk, self.now_s * S))

    def tick(self, after_s: int) -> list[tuple[int, int, float]]:
        self.now_s += after_s
        return self.take(self.fold.tick(self.now_s * S))

    def forget(self, *partitions: int) -> None:
        self.fold.forget(Partition("events", p) for p in partitions)

    @property
    def late(self) -> int:
        return self.fold.streams[KEY].late


def test_a_window_seals_when_the_watermark_reaches_its_end() -> None:
    d = Driver()
    assert d.read(1_000, 9_999) == []
    assert d.read(14_999) == [], "the clock is at 9,999: one millisecond short"
    assert d.read(15_000) == [(0, 2, 1.0)]
    assert d.fold.sealed_until == FIRST + 1


def test_the_slowest_partition_holds_the_watermark() -> None:
    d = Driver()
    d.read(1_000, partition=0)
    d.read(2_000, partition=1)
    assert d.read(30_000, partition=0) == []
    assert d.read(16_000, partition=1) == [(0, 2, 1.0)]


def test_a_partition_that_has_said_nothing_holds_from_when_it_is_named() -> None:
    d = Driver()
    assert d.read(1_000, others={1: False}) == []
    assert d.read(40_000) == []
    assert d.fold.sealed_until == NEVER


def test_a_partition_that_was_caught_up_when_its_agent_fell_silent_is_not_idle() -> None:
    """Rows may have come since: it is waited for, and missing in the coverage."""
    d = Driver()
    d.read(1_000, caught_up=True)
    assert d.tick(61) == []
    assert d.tick(99) == []
    assert d.tick(1) == [(0, 1, 0.0)]


def test_rows_of_a_sealed_window_are_late_and_in_the_totals_only() -> None:
    d = Driver()
    d.read(1_000)
    assert d.read(24_999) == [(0, 1, 1.0)]
    assert d.read(9_999, 10_000) == []
    assert d.late == 1, "its window is sealed; the window of 10,000 is not, though it lies back"
    assert d.fold.streams[KEY].rows == 4
    assert d.fold.tally.irregular["late"] == 1
    assert d.read(60_000) == [(1, 1, 1.0), (2, 1, 1.0)]


def test_a_window_nobody_had_rows_in_seals_with_the_others() -> None:
    d = Driver()
    d.read(1_000)
    d.read(45_000)
    assert d.fold.sealed_until == FIRST + 4
    d.read(20_000)
    assert d.late == 1


def test_an_old_row_that_is_not_late_opens_its_window() -> None:
    d = Driver()
    d.read(30_000)
    assert d.fold.sealed_until == FIRST + 2
    d.read(20_000)
    assert (d.late, d.read(60_000)) == (0, [(2, 1, 1.0), (3, 1, 1.0)])


def test_future_rows_are_in_the_totals_only_and_move_nothing() -> None:
    d = Driver()
    rows = [Row(KEY, T0, {}), Row(KEY, T0 + 10**9, {}, future=True)]
    chunk = chunk_of(
        [[rows]], digest=merge_digest(d.config), ranges=[range_of(0, rows)], width_ms=W
    )
    assert d.take(d.fold.apply(chunk, d.now_s * S)) == []
    stream = d.fold.streams[KEY]
    assert (stream.rows, stream.future, stream.late) == (2, 1, 0)
    assert d.fold.tally.irregular["future"] == 1
    assert stream.last_event_ms == T0
    assert d.take(d.fold.seal_all(d.now_s * S)) == [(0, 1, 1.0)]


# ---------------------------------------------------------------- idle


def test_an_idle_partition_does_not_hold() -> None:
    d = Driver()
    d.read(1_000, partition=1, caught_up=True)
    d.read(1_000, partition=0)
    d.now_s += 29
    assert d.read(30_000, partition=0) == []
    d.now_s += 1
    assert d.read(30_000, partition=0) == [(0, 2, 1.0)], "idle counts as having reached the end"


def test_a_partition_that_is_behind_is_never_idle() -> None:
    d = Driver()
    d.read(1_000, partition=1, caught_up=False)
    d.read(1_000, partition=0)
    d.now_s += 31
    assert d.read(30_000, partition=0) == []


def test_an_idle_partition_that_wakes_holds_again_and_seals_nothing_back() -> None:
    d = Driver()
    d.read(1_000, partition=1, caught_up=True)
    d.read(1_000, partition=0)
    d.now_s += 31
    assert d.read(30_000, partition=0) == [(0, 2, 1.0)]
    sealed_until = d.fold.sealed_until
    assert d.read(25_000, partition=1) == []
    assert d.read(90_000, partition=0) == []
    assert d.fold.sealed_until >= sealed_until


def test_when_all_are_idle_a_tick_seals_and_a_chunk_does_not() -> None:
    d = Driver()
    d.read(1_000, caught_up=True)
    assert d.tick(29) == []
    d.now_s += 5
    assert d.read(caught_up=True) == []
    assert d.tick(0) == [(0, 1, 1.0)]
    d.read(2_000, caught_up=True)
    assert d.late == 1


def test_wall_time_alone_seals_nothing_that_is_waited_for() -> None:
    d = Driver()
    d.read(1_000, 12_000)
    d.read(1_000, partition=1)
    for _ in range(50):
        d.now_s += 20
        assert d.read(1_500, partition=1) == [], "still reading, so it is waited for"


# ---------------------------------------------------------------- silence


def test_silent_partitions_are_waited_for_and_then_the_window_seals_as_partial() -> None:
    d = Driver()
    d.read(1_000, partition=0)
    d.read(2_000, partition=1)  # and never again
    d.now_s += 60
    assert d.read(30_000, partition=0) == []  # partition 1 is silent from here: the wait begins
    for _ in range(9):
        assert d.tick(10) == []
        assert d.read(30_000, partition=0) == []
    d.now_s += 10
    assert d.read(30_000, partition=0) == [], "only a tick may end a wait"
    assert d.tick(0) == [(0, 2, 0.5)]


def test_a_wait_begins_anew_when_somebody_reads_on() -> None:
    d = Driver()
    d.read(1_000, partition=0)
    d.read(2_000, partition=1)
    d.now_s += 60
    d.read(30_000, partition=0)
    assert d.tick(90) == []
    d.read(3_000, partition=1)  # reads on: it is waited for without a limit
    d.read(30_000, partition=0)
    assert d.tick(20) == []
    d.now_s += 60
    d.read(31_000, partition=0)  # silent again
    assert d.tick(90) == []
    assert d.tick(10) == [(0, 3, 0.5)]


def test_windows_that_waited_together_seal_together() -> None:
    d = Driver()
    d.read(1_000, 11_000, partition=0)
    d.read(2_000, partition=1)
    d.now_s += 60
    d.read(40_000, partition=0)
    assert d.tick(99) == []
    assert d.tick(1) == [(0, 2, 0.5), (1, 1, 0.5)]


# ---------------------------------------------------------------- ownership


def test_revoking_seals_nothing_and_a_return_goes_on() -> None:
    d = Driver()
    d.read(1_000, partition=0)
    d.read(1_000, partition=1)
    d.forget(0, 1)
    assert d.sealed == []
    assert d.tick(59) == []
    assert d.read(2_000, partition=0) == []
    d.read(2_000, partition=1)
    assert d.read(30_000, partition=0) == []
    assert d.read(30_000, partition=1) == [(0, 4, 1.0)]


def test_a_revoked_partition_holds_until_the_owner_timeout_and_leaves_a_partial_window() -> None:
    d = Driver()
    d.read(1_000, partition=0)
    d.read(2_000, partition=1)
    d.forget(1)
    d.now_s += 59
    assert d.read(30_000, partition=0) == []
    d.now_s += 1
    assert d.read(30_000, partition=0) == [(0, 2, 0.5)]


def test_a_partition_that_left_before_a_window_began_does_not_make_it_partial() -> None:
    d = Driver()
    d.read(1_000, partition=0)
    d.read(2_000, partition=1)
    d.forget(1)
    d.now_s += 60
    d.read(30_000, partition=0)
    assert d.read(50_000, partition=0) == [(3, 1, 1.0)]


def test_with_nothing_left_to_own_windows_seal_as_partial_after_the_owner_timeout() -> None:
    d = Driver()
    d.read(1_000)
    d.forget(0)
    assert d.tick(59) == []
    assert d.tick(1) == [(0, 1, 0.0)]
    assert d.fold.covers == {}


def test_a_return_under_a_lower_clock_does_not_turn_it_back() -> None:
    d = Driver()
    d.read(30_000, partition=0)
    d.forget(0)
    d.read(1_000, partition=0)  # rows since the last commit are read again
    assert d.fold.sealed_until == FIRST + 2
    assert d.late == 1


# ---------------------------------------------------------------- limits, ends, labels


def test_past_max_open_the_oldest_seal_in_order() -> None:
    d = Driver()
    d.read(1_000, partition=1)  # holds everything
    sealed = d.read(*(10_000 * i for i in range(7)), partition=0)
    assert [window for window, _, _ in sealed] == [0, 1, 2]
    # Partition 0 was past all of them; partition 1 had reached none.
    assert [coverage for _, _, coverage in sealed] == [0.5, 0.5, 0.5]
    assert sealed[0][1] == 2
    assert d.fold.state(0)["windows"]["open"] == [T0 + W * i for i in (3, 4, 5, 6)]


def test_an_ancient_row_past_max_open_is_sealed_at_once_with_its_window() -> None:
    d = Driver()
    d.read(1_000, 10_000, 20_000, 30_000, partition=0, others={1: False})
    assert d.read(-50_000, partition=0) == [(-5, 1, 0.5)]
    assert d.late == 0


def test_one_chunk_over_many_windows_seals_them_all_with_all_their_rows() -> None:
    d = Driver()
    times = [i * 2_500 for i in range(80)]  # 20 windows of 4 rows
    sealed = d.read(*times)
    assert sealed == [(window, 4, 1.0) for window in range(19)]


def test_a_finished_file_holds_nothing() -> None:
    d = Driver()
    d.read(1_000, partition=0)
    d.fold.finish([Partition("events", 0)])
    assert d.read(12_000, 16_000, partition=1) == [(0, 1, 1.0)]


def test_the_end_of_all_input_seals_everything_as_complete() -> None:
    d = Driver()
    d.read(1_000, 11_000, partition=0)
    d.read(2_000, partition=1)
    assert d.take(d.fold.seal_all(d.now_s * S)) == [(0, 2, 1.0), (1, 1, 1.0)]
    assert d.fold.state(0)["windows"]["open"] == []


def test_label_topics_neither_hold_nor_move_the_watermark() -> None:
    d = Driver(kafka=Kafka(label_topics=["labels"]))
    labels = Partition("labels", 0)
    d.read(partition=labels)
    d.read(1_000, partition=0)
    assert d.read(16_000, partition=0) == [(0, 1, 1.0)]
    assert labels in d.fold.covers, "their offsets are committed all the same"


def test_time_that_goes_back_is_taken_as_standing_still() -> None:
    d = Driver()
    d.read(1_000, caught_up=True)
    d.now_s -= 500
    assert d.tick(0) == []
    d.now_s += 500
    assert d.tick(30) == [(0, 1, 1.0)]


def test_the_same_inputs_give_the_same_base() -> None:
    documents = []
    for _ in range(2):
        d = Driver()
        d.read(1_000, 12_000, partition=0)
        d.read(3_000, partition=1, caught_up=True)
        d.tick(40)
        d.read(30_000, 31_000, partition=0)
        d.tick(100)
        documents.append((d.sealed, d.fold.state(0)))
    assert documents[0] == documents[1]


@pytest.mark.parametrize("width_s", [1.0, 86_400.0])
def test_windows_of_the_narrowest_and_widest_width(width_s: float) -> None:
    width_ms = int(width_s * 1000)
    config = Config(windows=Windows(width_s=width_s, out_of_orderness_s=0))
    fold = Fold(config, start_ns=1)
    start = T0 // width_ms * width_ms
    rows = [Row(KEY, start), Row(KEY, start + width_ms - 1), Row(KEY, start + width_ms)]
    chunk = chunk_of(
        [[rows]], digest=merge_digest(config), ranges=[range_of(0, rows)], width_ms=width_ms
    )
    (profile,) = fold.apply(chunk, 1).sealed
    assert (profile.rows, profile.start_ms, profile.end_ms) == (2, start, start + width_ms)

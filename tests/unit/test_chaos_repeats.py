"""The bound of memory mode in the chaos suite: what may be counted again, and not a row more."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest

from tests.chaos.faults import TABLE
from tests.chaos.faults_agents import kill, terminate
from tests.chaos.ledger import Account, Ledger, Row
from tests.chaos.life import Life
from tests.chaos.repeats import Repeats
from tests.chaos.verdict import Verdict, judge

STREAM = ("m", "1")
N = 100


def row(number: int) -> Row:
    return Row(STREAM, number + 1, -number - 1, number // 40, failed=False)


@pytest.fixture
def ledger() -> Ledger:
    """100 acknowledged rows of one partition; nothing is produced."""
    made = Ledger("127.0.0.1:1", "t", 1, seed=0, rate=0)
    made.rows[0] = {n: row(n) for n in range(N)}
    made._sent[0] = N
    return made


def account(*rows: range) -> Account:
    out = Account()
    for numbers in rows:
        for number in numbers:
            out.add(row(number))
    return out


def judged(allowed: Account, *again: range) -> Verdict:
    """All rows counted, and some of them again."""
    return judge(account(range(N)), account(range(N), *again), allowed)


def test_rows_that_were_committed_at_the_crash_may_not_be_counted_again(ledger: Ledger) -> None:
    repeats = Repeats(ledger)
    repeats.allow({0: 95}, {0: N})
    allowed = repeats.take()
    assert judged(allowed, range(95, N)).good
    assert judged(allowed, range(97, N)).good
    assert judged(allowed, range(94, N)).double == 1
    assert judged(allowed, range(N)).double == 95


def test_rows_that_came_behind_the_crash_may_not_be_counted_again(ledger: Ledger) -> None:
    repeats = Repeats(ledger)
    repeats.allow({0: 50}, {0: 60})
    allowed = repeats.take()
    assert judged(allowed, range(50, 60)).good
    assert judged(allowed, range(50, 61)).double == 1


def test_each_crash_allows_its_own_rows_once(ledger: Ledger) -> None:
    repeats = Repeats(ledger)
    repeats.allow({0: 50}, {0: 60})
    repeats.allow({0: 55}, {0: 70})
    allowed = repeats.take()
    assert judged(allowed, range(50, 60), range(55, 70)).good
    assert judged(allowed, range(50, 60), range(50, 70)).double == 5
    assert repeats.take().rows == 0, "of one round"


def test_without_a_crash_nothing_may_be_counted_again(ledger: Ledger) -> None:
    assert judged(Repeats(ledger).take(), range(1)).double == 1


def test_an_assignment_that_ends_some_time_in_the_round_allows_its_rows_to_the_end(
    ledger: Ledger,
) -> None:
    repeats = Repeats(ledger)
    repeats.allow({0: 90})
    ledger.rows[0][N] = row(N)
    assert repeats.take().rows == 11


def test_rows_of_a_topic_that_goes_are_looked_up_before(ledger: Ledger) -> None:
    repeats = Repeats(ledger)
    repeats.allow({0: 90}, {0: N})
    repeats.settle()
    ledger.begin_topic()
    assert repeats.take().rows == 10


def test_a_sum_is_wrong_beyond_what_repeated_rows_can_give(ledger: Ledger) -> None:
    repeats = Repeats(ledger)
    repeats.allow({0: 98}, {0: N})
    allowed = repeats.take()
    for what, sign in (("amount sum", 1), ("balance sum", -1)):
        for more, good in ((0, True), (199, True), (200, False), (-1, False)):
            found = account(range(N))
            found.of[STREAM, what] += sign * more
            assert judge(account(range(N)), found, allowed).good == good, (what, more)


def test_a_sum_may_lack_what_missing_rows_have_and_no_more() -> None:
    wanted = account(range(N))
    for more, good in ((0, True), (-100, True), (-101, False), (1, False)):
        found = wanted.copy()
        found.of[STREAM, "amount sum"] += more
        assert judge(wanted, found, Account(), account(range(99, N))).good == good, more


class Stub:
    """An agent that dies and begins as it is told."""

    folder = SimpleNamespace(name="agent")

    def kill(self, _: object) -> None:
        pass

    def start(self) -> None:
        pass

    recover = start

    def stop(self) -> int:
        return 0


def life_of(ledger: Ledger, mode: str, committed: int) -> Any:
    """What faults need of a life, without processes."""
    life = object.__new__(Life)
    life.mode, life.ledger, life.repeats = mode, ledger, Repeats(ledger)
    life.agents, life.recoveries, life.rnd = [Stub()], [], None  # type: ignore[list-item, assignment]
    life.group = SimpleNamespace(committed=lambda _: {0: committed})  # type: ignore[assignment]
    return life


def test_a_kill_allows_what_was_not_committed_just_before_it(ledger: Ledger) -> None:
    life = life_of(ledger, "memory", 95)
    kill(life, random.Random(1))
    assert life.repeats.take().rows == 5


def test_a_clean_stop_allows_nothing(ledger: Ledger) -> None:
    life = life_of(ledger, "memory", 95)
    terminate(life, random.Random(1))
    assert life.repeats.take().rows == 0


def test_other_modes_may_never_count_again(ledger: Ledger) -> None:
    life = life_of(ledger, "volume", 95)
    kill(life, random.Random(1))
    assert life.repeats.take().rows == 0


def test_only_faults_that_take_the_coordinator_or_the_member_away_have_unclean_ends() -> None:
    """docs/guarantees.md: nothing is repeated by SIGTERM, a clean rebalance, or a collector that is away."""
    clean = {fault.name for fault in TABLE if not fault.unclean}
    assert {"SIGTERM", "group churn", "partitions added", "clock jumps"} <= clean
    assert {name for name in clean if name.startswith("collector")} == {
        fault.name for fault in TABLE if fault.name.startswith("collector")
    }

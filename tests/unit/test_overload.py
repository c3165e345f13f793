"""When load is shed: only behind, only while the lag grows, only where it helps; by one bit a step."""

from __future__ import annotations

import pytest

from agent.config import Overload
from agent.delivery.overload import HOLD_S, STEP_S, Shedding
from agent.telemetry import Telemetry


class Run:
    """An agent looked at once a second. It reads `rate` records a second, and `helps` times as many for
    each level of shedding; `arrive` come a second."""

    def __init__(self, **options: object) -> None:
        self.telemetry = Telemetry()
        config = Overload(**{"mode": "shed", "behind_s": 60.0, **options})  # type: ignore[arg-type]
        self.shedding = Shedding(config, self.telemetry)
        self.lag = 0.0
        self._now, self._records = 100.0, 0

    def steps(
        self, n: int, *, rate: int, arrive: int, lag: int | None = None, helps: float = 1.6
    ) -> list[int]:
        """Levels after each step, as cuts in between make them take effect."""
        self.lag = self.lag if lag is None else lag
        out = []
        for _ in range(n):
            for _ in range(int(STEP_S)):
                self._now += 1
                read = int(rate * helps**self.shedding.bits)
                self._records += read
                self.lag = max(0.0, self.lag + arrive - read)
                self.shedding.look(self._now, self._records, int(self.lag))
                self.shedding.turn()
            out.append(self.shedding.bits)
        return out

    def gauge(self, name: str) -> float:
        (metric,) = [m for m in self.telemetry.metrics(1) if m.name == name]
        return metric.points[0].value  # type: ignore[union-attr]


def test_an_agent_that_falls_behind_leaves_out_more_step_by_step_up_to_the_bound() -> None:
    run = Run(max_halvings=3)
    assert run.steps(6, rate=1000, arrive=100_000, lag=100_000)[-4:] == [2, 3, 3, 3]


def test_it_leaves_out_no_more_than_it_takes_to_catch_up() -> None:
    run = Run()
    levels = run.steps(8, rate=1000, arrive=1500, lag=100_000)
    assert max(levels) == 1


def test_what_is_left_out_is_said_in_metric_readiness_and_state() -> None:
    run = Run()
    run.steps(4, rate=1000, arrive=100_000, lag=100_000)
    bits = run.shedding.bits
    assert bits >= 2
    run.shedding.look(0.0, 0, 0)  # at no time: tells, decides nothing
    assert run.gauge("inferometer.overload.ratio") == 0.5**bits
    assert run.gauge("inferometer.overload.behind") > 60
    assert run.shedding.notes() == [f"shedding load: one of {1 << bits} records is decoded"]
    assert run.shedding.describe()["ratio"] == 0.5**bits


@pytest.mark.parametrize(
    "why",
    [
        {"lag": 10_000, "arrive": 1500},  # not behind enough: a minute is allowed
        {"lag": 500_000, "arrive": 500},  # catching up
        {"lag": 500_000, "rate": 0, "arrive": 500},  # nothing comes at all
    ],
)
def test_it_leaves_nothing_out_without_need(why: dict[str, int]) -> None:
    assert not any(Run().steps(8, **{"rate": 1000, **why}))  # type: ignore[arg-type]


def test_where_it_does_not_help_it_is_taken_back_and_not_tried_for_a_while() -> None:
    """A broker or a network that is slow: records would be given up for nothing."""
    levels = Run().steps(28, rate=1000, arrive=2000, lag=100_000, helps=1.0)
    assert max(levels) == 1
    assert sum(levels) <= 1 + 28 * STEP_S / HOLD_S
    assert levels[:4].count(1) == 1


def test_it_reads_everything_again_when_it_has_caught_up() -> None:
    run = Run(max_halvings=3)
    assert run.steps(6, rate=1000, arrive=100_000, lag=100_000)[-1] == 3
    # Half the limit: the level stays. A sixth: back, one bit a step.
    level = run.shedding.bits
    assert run.steps(3, rate=4096, arrive=4096, lag=120_000, helps=1.0) == [level] * 3
    after = run.steps(6, rate=4096, arrive=4096, lag=40_000, helps=1.0)
    assert after == [max(level - 1 - i, 0) for i in range(6)]
    assert run.shedding.notes() == []


def test_off_it_never_leaves_anything_out() -> None:
    run = Run(mode="off")
    assert not any(run.steps(8, rate=1000, arrive=5000, lag=10_000_000))
    assert run.gauge("inferometer.overload.ratio") == 1.0


def test_a_cut_has_the_level_of_before_it_and_the_next_one_the_one_that_was_wanted() -> None:
    run = Run()
    shedding = run.shedding
    shedding.look(0.0, 0, 10**6)
    shedding.look(STEP_S, 1000, 10**6)
    assert shedding.bits == 0  # until a cut
    assert [shedding.turn() for _ in range(3)] == [0, 1, 1]

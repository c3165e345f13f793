"""When load is shed: only behind, only while it grows, only where this process is the bottleneck; by one bit a step."""

from __future__ import annotations

import pytest

from agent.config import Overload
from agent.delivery.overload import STEP_S, Shedding
from agent.telemetry import Telemetry


class Run:
    """An agent that reads `rate` records a second and has `lag` waiting, looked at once a second."""

    def __init__(self, **options: object) -> None:
        self.telemetry = Telemetry()
        config = Overload(**{"mode": "shed", "behind_s": 60.0, **options})  # type: ignore[arg-type]
        self.shedding = Shedding(config, self.telemetry)
        self._now, self._records = 100.0, 0

    def steps(
        self, n: int, *, rate: int, lag: int, grows: int = 0, is_pressed: bool = True
    ) -> list[int]:
        """Levels after each step, as cuts in between make them take effect."""
        out = []
        for _ in range(n):
            for _ in range(int(STEP_S)):
                self._now += 1
                self._records += rate
                lag += grows
                self.shedding.look(self._now, self._records, lag, is_pressed)
            self.shedding.turn()
            out.append(self.shedding.bits)
        return out

    def gauge(self, name: str) -> float:
        (metric,) = [m for m in self.telemetry.metrics(1) if m.name == name]
        return metric.points[0].value  # type: ignore[union-attr]


def test_an_agent_that_falls_behind_leaves_out_more_step_by_step_up_to_the_bound() -> None:
    run = Run(max_halvings=3)
    assert run.steps(6, rate=1000, lag=100_000, grows=500)[-5:] == [1, 2, 3, 3, 3]


def test_what_is_left_out_is_said_in_metric_readiness_and_state() -> None:
    run = Run()
    run.steps(4, rate=1000, lag=100_000, grows=500)
    bits = run.shedding.bits
    run.steps(1, rate=1000, lag=200_000)
    assert bits >= 2
    assert run.gauge("inferometer.overload.ratio") == 0.5**bits
    assert run.gauge("inferometer.overload.behind") == pytest.approx(200.0)
    assert run.shedding.notes() == [
        f"shedding load: one of {1 << run.shedding.bits} records is decoded"
    ]
    assert run.shedding.describe()["ratio"] == 0.5**run.shedding.bits


@pytest.mark.parametrize(
    "why",
    [
        {"lag": 10_000, "grows": 500},  # not behind enough: at most a minute
        {"lag": 500_000, "grows": -1000},  # catching up
        {"lag": 500_000, "grows": 500, "is_pressed": False},  # the broker is slow, not this process
        {"lag": 500_000, "rate": 0, "grows": 500},  # nothing comes at all
    ],
)
def test_it_leaves_nothing_out_without_need(why: dict[str, int]) -> None:
    assert not any(Run().steps(8, **{"rate": 1000, **why}))  # type: ignore[arg-type]


def test_it_reads_everything_again_when_it_has_caught_up() -> None:
    run = Run()
    assert run.steps(4, rate=1000, lag=100_000, grows=500)[-1] == 3
    # Half the limit: the level stays. A sixth: back, one bit a step.
    assert run.steps(3, rate=1000, lag=30_000) == [3, 3, 3]
    assert run.steps(5, rate=1000, lag=10_000) == [2, 1, 0, 0, 0]
    assert run.shedding.notes() == []


def test_off_it_never_leaves_anything_out() -> None:
    run = Run(mode="off")
    assert not any(run.steps(8, rate=1000, lag=10_000_000, grows=1000))
    assert run.gauge("inferometer.overload.ratio") == 1.0


def test_a_cut_has_the_level_of_before_it_and_the_next_one_the_one_that_was_wanted() -> None:
    run = Run()
    run.steps(2, rate=1000, lag=100_000, grows=500)
    assert run.shedding.bits == 1
    run.shedding.look(1e6, 10**9, 10**15, True)
    assert run.shedding.bits == 1  # until a cut
    assert [run.shedding.turn() for _ in range(3)] == [1, 2, 2]

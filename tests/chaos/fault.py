"""What a fault is: a function of a life that is producing; it returns when the fault is over.

A fault leaves agents to be revived by the wait for quiet, or starts them itself.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.chaos.life import Agent, Life

Apply = Callable[[Life, random.Random], str]


@dataclass(frozen=True)
class Fault:
    """`apply` returns what was drawn, for the line of the round.

    unclean   memory mode: how many assignments of a partition may end without a clean hand-over, beside crashes:
              no coordinator answers in time, or the agent is not there to hand over
    late      the collector may hear things out of order
    brokers   at least so many
    """

    name: str
    apply: Apply
    modes: tuple[str, ...] = ("volume", "memory", "fleet")
    unclean: int = 0
    late: bool = False
    weight: int = 2
    brokers: int = 1


def pause(rnd: random.Random, low_s: float, high_s: float) -> None:
    """A random moment: the fault itself is the passing of time."""
    time.sleep(rnd.uniform(low_s, high_s))


def some(life: Life, rnd: random.Random) -> Agent:
    return rnd.choice(life.agents)

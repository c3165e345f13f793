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

    repeats   how often memory mode may repeat a row: once for each crash, and for each hand-over that
              finds no collector or no coordinator in time
    late      the collector may hear things out of order
    brokers   at least so many
    """

    name: str
    apply: Apply
    modes: tuple[str, ...] = ("volume", "memory", "fleet")
    repeats: int = 2
    late: bool = False
    weight: int = 2
    brokers: int = 1


def pause(rnd: random.Random, low_s: float, high_s: float) -> None:
    """A random moment: the fault itself is the passing of time."""
    time.sleep(rnd.uniform(low_s, high_s))


def some(life: Life, rnd: random.Random) -> Agent:
    return rnd.choice(life.agents)

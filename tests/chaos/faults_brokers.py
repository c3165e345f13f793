"""Faults of brokers. With several, one of them at a time, half of the times the group's coordinator; or most,
or all: what is left cannot acknowledge a record, and what was acknowledged must be there afterwards.
"""

from __future__ import annotations

import contextlib
import random
import time

from confluent_kafka import KafkaException

from tests.chaos.fault import pause, some
from tests.chaos.life import SESSION_S, Life
from tests.chaos.waiting import within
from tests.support.kafka_real import RealKafka


def _broker(life: Life, rnd: random.Random) -> tuple[RealKafka, str]:
    """One of them, and a word on which."""
    nodes = life.kafka.nodes
    if len(nodes) > 1 and rnd.random() < 0.5:
        return nodes[life.group.coordinator() - 1], "the coordinator"
    chosen = rnd.choice(nodes)
    return chosen, f"broker {nodes.index(chosen) + 1} of {len(nodes)}"


def _away(life: Life, rnd: random.Random) -> None:
    """Where others can lead, at times long enough that they do."""
    pause(rnd, 0.0, 1.0 if len(life.kafka.nodes) == 1 else 5.0)


def crash(life: Life, rnd: random.Random) -> str:
    broker, which = _broker(life, rnd)
    broker.kill()
    _away(life, rnd)
    broker.start()
    return which


def crash_and_kill(life: Life, rnd: random.Random) -> str:
    """And an agent dies while it is away."""
    broker, which = _broker(life, rnd)
    since = life.committed()
    broker.kill()
    agent = some(life, rnd)
    life.crash(agent, since=since)
    if len(life.kafka.nodes) > 1:
        agent.start()
        pause(rnd, 0.0, 2.0)
    broker.start()
    if not agent.running:
        agent.start()
    return which


def restart(life: Life, rnd: random.Random) -> str:
    """A controlled shutdown: its leaders move before it goes."""
    broker, which = _broker(life, rnd)
    broker.stop()
    _away(life, rnd)
    broker.start()
    return which


def frozen(life: Life, rnd: random.Random) -> str:
    """It wakes up and believes that it leads."""
    broker, which = _broker(life, rnd)
    frozen_s = rnd.uniform(0.5, SESSION_S + (1 if len(life.kafka.nodes) == 1 else 4))
    broker.pause()
    try:
        time.sleep(frozen_s)
    finally:
        broker.resume()
    return f"{which}, {frozen_s:.1f} s"


def leaders_move(life: Life, rnd: random.Random) -> str:
    """Away from one broker, and back: an election of preferred leaders while all are there."""
    broker, which = _broker(life, rnd)
    broker.stop()
    broker.start()
    pause(rnd, 0.0, 1.0)
    moved = 0

    def elected() -> bool:
        nonlocal moved
        with contextlib.suppress(KafkaException):  # it has not all records yet
            moved = life.kafka.elect_preferred()
            return True
        return False

    within(elected, 30, "preferred leaders are elected")
    return f"{which}; {moved} back"


def rolling_restart(life: Life, rnd: random.Random) -> str:
    nodes = rnd.sample(life.kafka.nodes, len(life.kafka.nodes))
    for broker in nodes:
        broker.stop()
        broker.start()
    return ""


def most_crash(life: Life, rnd: random.Random) -> str:
    nodes = life.kafka.nodes
    for broker in rnd.sample(nodes, len(nodes) // 2 + 1):
        broker.kill()
    pause(rnd, 0.0, 3.0)
    life.kafka.start()
    return ""


def all_crash(life: Life, rnd: random.Random) -> str:
    life.kafka.kill()
    pause(rnd, 0.0, 1.0)
    life.kafka.start()
    return ""

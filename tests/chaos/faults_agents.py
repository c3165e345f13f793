"""Faults of agents and aggregators: killed, paused, stopped, joined by others; clocks and disks that fail."""

from __future__ import annotations

import errno
import random
import signal
import time
from collections.abc import Mapping

from tests.chaos.fault import pause, some
from tests.chaos.life import SESSION_S, Agent, Life
from tests.chaos.seams import ARROWS
from tests.chaos.waiting import Stuck, within
from tests.support.group_member import GroupMember


def kill(life: Life, rnd: random.Random) -> str:
    """And wait until it counts again: how long that takes is part of the result."""
    agent = some(life, rnd)
    life.crash(agent)
    life.recoveries.append(agent.recover())
    return agent.folder.name


def kill_all_twice(life: Life, rnd: random.Random) -> str:
    """The second time while it begins, or shortly after."""
    life.crash(*life.agents)
    for agent in life.agents:
        agent.start()
    pause(rnd, 0.0, 2.0)
    life.crash(*life.agents)
    return ""


def kill_at_an_arrow(life: Life, rnd: random.Random) -> str:
    agent = some(life, rnd)
    running, starting = ARROWS[agent.role]
    point, passes = rnd.choice([*running, *starting]), rnd.randint(1, 4)
    if point in starting:
        life.crash(agent)
        agent.controls.arm(point, 1)
        agent.start()
    else:
        agent.controls.arm(point, passes)
    died = _await_death(life, agent)
    return f"{agent.folder.name}: {point} {passes}{'' if died else ', never passed'}"


def _await_death(life: Life, agent: Agent) -> bool:
    """At the point that is armed; killed when it does not come there soon."""
    deadline = time.monotonic() + 8
    since: Mapping[int, int] = {}
    while time.monotonic() < deadline:
        committed = {} if life.is_exact else life.committed()
        if not agent.running:
            break
        since = committed  # it has lived on since
        time.sleep(0.02)
    died = not agent.running
    agent.controls.disarm()
    life.crash(agent, since=since)
    return died


def kill_after_an_export(life: Life, rnd: random.Random) -> str:
    """The collector has taken an export; the next life exports before it can ask the group anything."""
    agent = some(life, rnd)
    agent.controls.arm("export-answered", rnd.randint(1, 3))
    died = _await_death(life, agent)
    life.kafka.pause()
    try:
        agent.start()
        pause(rnd, 1.5, 2.5)
    finally:
        life.kafka.resume()
    return "" if died else "never passed"


def terminate(life: Life, rnd: random.Random) -> str:
    agent = some(life, rnd)
    status = agent.stop()
    if status != 0:
        raise Stuck(f"exit status {status} after SIGTERM:\n{agent.process.log[-2000:]}")
    agent.start()
    return ""


def freeze(life: Life, rnd: random.Random) -> str:
    agent = some(life, rnd)
    frozen_s = rnd.uniform(SESSION_S + 0.5, SESSION_S + 2)
    agent.signal(signal.SIGSTOP)
    time.sleep(frozen_s)
    agent.signal(signal.SIGCONT)
    return f"{agent.folder.name}, {frozen_s:.1f} s"


def churn(life: Life, rnd: random.Random) -> str:
    """Agents join and leave, politely and not: the group is given away anew each time."""
    n = rnd.randint(1, 2)
    for _ in range(n):
        newcomer = life.make_agent(f"guest-{life.next_guest()}")
        life.agents.insert(0, newcomer)
        newcomer.start()
        pause(rnd, 0.5, 3.0)
        if rnd.random() < 0.5:
            newcomer.stop()
        else:
            life.crash(newcomer)
        life.agents.remove(newcomer)
        life.gone.append(newcomer)
    return f"{n} came and went"


def another_member(life: Life, rnd: random.Random) -> str:
    """Of the group, not one of ours: an agent with a volume must not count while it has not all."""
    with GroupMember(life.kafka.bootstrap, life.topic, life.group.name) as member:
        within(lambda: member.n_assigned, 30, "the other member is given partitions")
        pause(rnd, 0.0, 3.0)
    return ""


# ---------------------------------------------------------------- the volume


def _disk_fails(life: Life, rnd: random.Random, number: int) -> str:
    agent = rnd.choice(life.keepers)
    agent.controls.fail_disk(number)
    pause(rnd, 0.5, 1.8)
    with_kill = rnd.random() < 0.4
    if with_kill:
        life.crash(agent)
    agent.controls.fail_disk(0)
    return "and a kill" if with_kill else ""


def disk_full(life: Life, rnd: random.Random) -> str:
    return _disk_fails(life, rnd, errno.ENOSPC)


def disk_read_only(life: Life, rnd: random.Random) -> str:
    return _disk_fails(life, rnd, errno.EROFS)


def disk_error(life: Life, rnd: random.Random) -> str:
    return _disk_fails(life, rnd, errno.EIO)


def clock_jumps(life: Life, rnd: random.Random) -> str:
    """Of an agent, not of the machine. Memory mode knows no other clock behind a restart: forward only."""
    by_s = rnd.choice([5.0, 90.0, 3600.0])
    if life.is_exact and rnd.random() < 0.5:
        by_s = -by_s
        # An agent with a volume knows where the process before it had ended; one without does not.
        life.heard.clock_went_back = life.mode != "volume"
    agent = some(life, rnd)
    agent.controls.jump(by_s)
    if rnd.random() < 0.3:
        life.crash(agent)
        agent.start()
    return f"{by_s:+.0f} s"

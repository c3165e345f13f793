"""The table of faults. Each is a function of a life that is producing; it returns when the fault is over.

A fault leaves agents to be revived by the wait for quiet, or starts them itself. How often memory mode may
repeat a row, the table says: once for each crash, and for each hand-over that finds no collector or no
coordinator in time.
"""

from __future__ import annotations

import errno
import random
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.chaos.life import SESSION_S, Agent, Life, Stuck, within
from tests.chaos.seams import ARROWS
from tests.support.otlp_answers import ACCEPT, SILENCE, Answer, overloaded, transient
from tests.support.otlp_receiver import Received

Apply = Callable[[Life, random.Random], str]


@dataclass(frozen=True)
class Fault:
    name: str
    apply: Apply
    modes: tuple[str, ...] = ("volume", "memory", "fleet")
    repeats: int = 2  # crashes and assignments that may be lost
    late: bool = False  # the collector may hear things out of order
    weight: int = 2


def pause(rnd: random.Random, low_s: float, high_s: float) -> None:
    """A random moment: the fault itself is the passing of time."""
    time.sleep(rnd.uniform(low_s, high_s))


def _some(life: Life, rnd: random.Random) -> Agent:
    return rnd.choice(life.agents)


# ---------------------------------------------------------------- agents


def kill(life: Life, rnd: random.Random) -> str:
    agent = _some(life, rnd)
    agent.kill(rnd)
    agent.start()
    return agent.folder.name


def kill_all_twice(life: Life, rnd: random.Random) -> str:
    """The second time while it begins, or shortly after."""
    for agent in life.agents:
        agent.kill(rnd)
    for agent in life.agents:
        agent.start()
    pause(rnd, 0.0, 2.0)
    for agent in life.agents:
        agent.kill(rnd)
    return ""


def kill_at_an_arrow(life: Life, rnd: random.Random) -> str:
    agent = _some(life, rnd)
    running, starting = ARROWS[agent.role]
    point, passes = rnd.choice([*running, *starting]), rnd.randint(1, 4)
    if point in starting:
        agent.kill(rnd)
        agent.controls.arm(point, 1)
        agent.start()
    else:
        agent.controls.arm(point, passes)
    died = _await_death(agent, rnd)
    return f"{agent.folder.name}: {point} {passes}{'' if died else ', never passed'}"


def _await_death(agent: Agent, rnd: random.Random) -> bool:
    """At the point that is armed; killed when it does not come there soon."""
    deadline = time.monotonic() + 8
    while agent.running and time.monotonic() < deadline:
        time.sleep(0.02)
    died = not agent.running
    agent.controls.disarm()
    agent.kill(rnd)
    return died


def kill_after_an_export(life: Life, rnd: random.Random) -> str:
    """The collector has taken an export; the next life exports before it can ask the group anything."""
    agent = _some(life, rnd)
    agent.controls.arm("export-answered", rnd.randint(1, 3))
    died = _await_death(agent, rnd)
    life.kafka.pause()
    try:
        agent.start()
        pause(rnd, 1.5, 2.5)
    finally:
        life.kafka.resume()
    return "" if died else "never passed"


def terminate(life: Life, rnd: random.Random) -> str:
    agent = _some(life, rnd)
    status = agent.stop()
    if status != 0:
        raise Stuck(f"exit status {status} after SIGTERM:\n{agent.process.log[-2000:]}")
    agent.start()
    return ""


def freeze(life: Life, rnd: random.Random) -> str:
    agent = _some(life, rnd)
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
            newcomer.kill(rnd)
        life.agents.remove(newcomer)
        life.gone.append(newcomer)
    return f"{n} came and went"


# ---------------------------------------------------------------- the broker


def broker_crash(life: Life, rnd: random.Random) -> str:
    life.kafka.kill()
    pause(rnd, 0.0, 1.0)
    life.kafka.start()
    return ""


def broker_crash_and_kill(life: Life, rnd: random.Random) -> str:
    life.kafka.kill()
    agent = _some(life, rnd)
    agent.kill(rnd)
    life.kafka.start()
    agent.start()
    return ""


def broker_frozen(life: Life, rnd: random.Random) -> str:
    frozen_s = rnd.uniform(0.5, SESSION_S + 1)
    life.kafka.pause()
    try:
        time.sleep(frozen_s)
    finally:
        life.kafka.resume()
    return f"{frozen_s:.1f} s"


# ---------------------------------------------------------------- the collector


def _for_a_while(life: Life, rnd: random.Random) -> None:
    """And at times an agent dies meanwhile."""
    pause(rnd, 0.8, 2.0)
    if rnd.random() < 0.4:
        agent = _some(life, rnd)
        agent.kill(rnd)
        agent.start()
        pause(rnd, 0.2, 1.0)


def refuses(life: Life, rnd: random.Random) -> str:
    answer = rnd.choice([transient(), transient(0.1), overloaded()])
    life.receiver.always(answer)
    _for_a_while(life, rnd)
    life.receiver.always(ACCEPT)
    return answer.message


def hangs(life: Life, rnd: random.Random) -> str:
    life.receiver.always(SILENCE)
    _for_a_while(life, rnd)
    life.receiver.always(ACCEPT)
    return ""


def black_hole(life: Life, rnd: random.Random) -> str:
    """Its port takes connections and never says a word."""
    life.receiver.stop()
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", life.receiver.grpc_port))
        listener.listen(64)
        _for_a_while(life, rnd)
    life.receiver.start()
    return ""


def drops_connections(life: Life, rnd: random.Random) -> str:
    n = rnd.randint(2, 4)
    for _ in range(n):
        life.receiver.stop()
        pause(rnd, 0.0, 0.4)
        life.receiver.start()
        pause(rnd, 0.1, 0.6)
    return f"{n} times"


def answers_late(life: Life, rnd: random.Random) -> str:
    """Every request is taken, and answered when the agent has given it up."""

    def late(received: Received) -> Answer:
        time.sleep(1.3)
        return ACCEPT

    life.receiver.behave(late)
    _for_a_while(life, rnd)
    life.receiver.always(ACCEPT)
    return ""


# ---------------------------------------------------------------- the volume


def _disk_fails(life: Life, rnd: random.Random, number: int) -> str:
    agent = rnd.choice(life.keepers)
    agent.controls.fail_disk(number)
    pause(rnd, 0.5, 1.8)
    with_kill = rnd.random() < 0.4
    if with_kill:
        agent.kill(rnd)
    agent.controls.fail_disk(0)
    return "and a kill" if with_kill else ""


def disk_full(life: Life, rnd: random.Random) -> str:
    return _disk_fails(life, rnd, errno.ENOSPC)


def disk_read_only(life: Life, rnd: random.Random) -> str:
    return _disk_fails(life, rnd, errno.EROFS)


def disk_error(life: Life, rnd: random.Random) -> str:
    return _disk_fails(life, rnd, errno.EIO)


# ---------------------------------------------------------------- the group's offsets


def _alone(life: Life) -> dict[int, int]:
    """Every agent stopped, the group empty; the committed offsets: there are some.

    Aggregators go on: what the last offsets name is folded before a tool takes their word away.
    """
    within(life.committed, 30, "offsets are committed")
    life.ledger.hold()
    if life.mode == "fleet":
        life.wait_quiet(out_of_order=False)
    for agent in life.members:
        agent.stop()
    life.wait_left()
    return life.committed()


def _again(life: Life) -> None:
    for agent in life.members:
        agent.start()
    life.ledger.go()


def offsets_back(life: Life, rnd: random.Random) -> str:
    at = _alone(life)
    to = {n: rnd.randint(max(0, offset - 300), offset) for n, offset in at.items()}
    life.set_offsets(to)
    life.ledger.again([(n, to[n], at[n]) for n in at], 1)
    _again(life)
    return f"{sum(at.values()) - sum(to.values())} rows"


def offsets_forward(life: Life, rnd: random.Random) -> str:
    at = _alone(life)
    life.ledger.add_rows(300)
    ends = life.ledger.ends()
    to = {n: rnd.randint(offset, ends[n]) for n, offset in at.items()}
    life.set_offsets(to)
    life.ledger.again([(n, at[n], to[n]) for n in at], -1)
    _again(life)
    return f"{sum(to.values()) - sum(at.values())} rows"


def group_deleted(life: Life, rnd: random.Random) -> str:
    """The volume knows where it stood; agents of other modes begin again at the start of the log."""
    at = _alone(life)
    life.delete_group()
    if life.mode != "volume":
        life.ledger.again([(n, 0, offset) for n, offset in at.items()], 1)
    _again(life)
    return ""


def partitions_added(life: Life, rnd: random.Random) -> str:
    life.ledger.hold()
    total = life.ledger.partitions + rnd.randint(1, 2)
    life.kafka.add_partitions(life.topic, total)
    life.ledger.partitions = total
    life.ledger.go()
    return f"{total} now"


def clock_jumps(life: Life, rnd: random.Random) -> str:
    """Of an agent, not of the machine. Memory mode knows no other clock behind a restart: forward only."""
    by_s = rnd.choice([5.0, 90.0, 3600.0])
    if life.is_exact and rnd.random() < 0.5:
        by_s = -by_s
        # An agent with a volume knows where the process before it had ended; one without does not.
        life.heard.clock_went_back = life.mode != "volume"
    agent = _some(life, rnd)
    agent.controls.jump(by_s)
    if rnd.random() < 0.3:
        agent.kill(rnd)
        agent.start()
    return f"{by_s:+.0f} s"


KEPT = ("volume", "fleet")
TABLE = [
    Fault("kill", kill, weight=4),
    Fault("kill twice", kill_all_twice, repeats=4),
    Fault("kill at an arrow", kill_at_an_arrow, weight=8),
    Fault("kill after an export, broker frozen", kill_after_an_export, repeats=3, weight=3),
    Fault("SIGTERM", terminate, repeats=1),
    Fault("SIGSTOP", freeze),
    Fault("broker crash", broker_crash, repeats=3),
    Fault("broker crash and kill", broker_crash_and_kill, repeats=3),
    Fault("broker frozen", broker_frozen, repeats=3),
    Fault("collector refuses", refuses, repeats=4, late=True),
    Fault("collector hangs", hangs, repeats=4, late=True),
    Fault("collector black hole", black_hole, repeats=4, late=True),
    Fault("collector drops connections", drops_connections, repeats=4, late=True),
    Fault("collector answers late", answers_late, repeats=4, late=True),
    Fault("disk full", disk_full, KEPT),
    Fault("disk read-only", disk_read_only, KEPT),
    Fault("disk error", disk_error, KEPT),
    Fault("offsets back", offsets_back, repeats=1, weight=1),
    Fault("offsets forward", offsets_forward, repeats=1, weight=1),
    Fault("group deleted", group_deleted, repeats=1, weight=1),
    Fault("partitions added", partitions_added, repeats=1, weight=1),
    Fault("clock jumps", clock_jumps),
    Fault("group churn", churn, ("fleet",), weight=4),
]
BY_NAME = {fault.name: fault for fault in TABLE}

__all__ = ["BY_NAME", "TABLE", "Fault", "pause", "within"]

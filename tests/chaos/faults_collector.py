"""Faults of the collector."""

from __future__ import annotations

import random
import socket
import time

from tests.chaos.fault import pause, some
from tests.chaos.life import Life
from tests.support.otlp_answers import ACCEPT, SILENCE, Answer, overloaded, transient
from tests.support.otlp_receiver import Received


def _for_a_while(life: Life, rnd: random.Random) -> None:
    """And at times an agent dies meanwhile. Others hand over twice without a collector: when it is missed, and
    when it is back."""
    pause(rnd, 0.8, 2.0)
    if rnd.random() < 0.4:
        agent = some(life, rnd)
        life.may_repeat(life.committed(), times=2)  # its own: as it dies, and when it is back
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

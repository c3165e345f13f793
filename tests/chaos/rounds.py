"""Rounds: produce all the time, one random fault, wait until quiet, hold the totals against the account."""

from __future__ import annotations

import random
import shutil
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.faults import TABLE, Fault, pause
from tests.chaos.life import Life, Recovery
from tests.chaos.verdict import Verdict
from tests.chaos.waiting import Stuck
from tests.support.kafka_cluster import KafkaCluster
from tests.support.kafka_real import RealKafka

ROUNDS_A_LIFE = 10
KEPT = "logs are kept in"
MODES = ("volume", "memory", "fleet")


@dataclass
class Round:
    number: int
    mode: str
    fault: str
    detail: str
    seconds: float
    quiet_s: float  # from the end of the fault until all was counted and committed
    lost: int
    double: int
    repeated: int
    gone: int  # with a topic that was deleted, unread
    troubles: list[str]
    recoveries: list[Recovery]
    judged: bool  # the totals were held against the account

    @property
    def good(self) -> bool:
        return not (self.lost or self.double or self.troubles)


@dataclass
class Outcome:
    seed: int
    brokers: int
    rounds: list[Round] = field(default_factory=list)
    produced: int = 0
    points: int = 0

    def document(self) -> dict[str, Any]:
        """As printed by `--json`. `repeated` is what memory mode repeated within its bound."""
        return {
            "seed": self.seed,
            "brokers": self.brokers,
            "rounds": len(self.rounds),
            "modes": dict(Counter(r.mode for r in self.rounds)),
            "faults": dict(Counter(f"{r.mode}: {r.fault}" for r in self.rounds)),
            "produced": self.produced,
            "lost": sum(r.lost for r in self.rounds),
            "double": sum(r.double for r in self.rounds),
            "repeated": sum(r.repeated for r in self.rounds),
            "gone": sum(r.gone for r in self.rounds),
            "points": self.points,
            "quiet_s": _spread([r.quiet_s for r in self.rounds]),
            "recovery": recovery([one for r in self.rounds for one in r.recoveries]),
            "failed": [vars(r) for r in self.rounds if not r.good],
        }


def recovery(found: Sequence[Recovery]) -> dict[str, Any]:
    """Seconds from the start behind a kill -9 until an agent counts, by who it is and how it is a member.

    Of a member with a fixed place that is all. Of others Kafka's session time-out is taken away: while
    it runs the agent begins, so that what is left is less than all that the agent needs.
    """
    groups: dict[str, list[float]] = {}
    for one in found:
        kind = f"{one.role}, {'dynamic' if one.session_s else 'static'} member"
        groups.setdefault(kind, []).append(max(0.0, one.wait_s - one.session_s))
    return {kind: _spread(groups[kind]) for kind in sorted(groups)}


def _spread(seconds: Sequence[float]) -> dict[str, float]:
    if not seconds:
        return {}
    return {
        "n": len(seconds),
        "median": round(statistics.median(seconds), 2),
        "worst": round(max(seconds), 2),
    }


def run(
    kafka: RealKafka | KafkaCluster,
    *,
    n_rounds: int,
    seed: int,
    modes: Sequence[str] = MODES,
    faults: Sequence[Fault] = TABLE,
    rounds_a_life: int = ROUNDS_A_LIFE,
    on_round: Callable[[Round], None] = lambda _: None,
    until_s: float = float("inf"),
) -> Outcome:
    """Run rounds in lives of one mode each, in turn. A round that fails ends its life: the next begins anew.

    `until_s`: no further round after this time (`time.monotonic`); a life that begins has one. The seed decides faults, their order
    and their details; moments depend on the machine as well.
    """
    out = Outcome(seed, len(kafka.nodes))
    life_number = 0
    while len(out.rounds) < n_rounds and time.monotonic() < until_s:
        mode = modes[life_number % len(modes)]
        rnd = random.Random(f"{seed} {life_number}")
        life_number += 1
        n = min(rounds_a_life, n_rounds - len(out.rounds))
        folder = Path(tempfile.mkdtemp(prefix="inferometer-chaos-"))
        is_good = True
        try:
            with Life(kafka, folder, mode, rnd) as life:
                for number in range(n):
                    if number and time.monotonic() >= until_s:
                        break
                    fault = _drawn(rnd, mode, faults, len(kafka.nodes))
                    done = _one(life, fault, rnd, len(out.rounds), is_last=number == n - 1)
                    out.rounds.append(done)
                    on_round(done)
                    is_good = done.good
                    if not is_good:
                        break
                out.produced += life.ledger.produced
                out.points += life.heard.n_points
        finally:
            if is_good:
                shutil.rmtree(folder, ignore_errors=True)
    return out


def _drawn(rnd: random.Random, mode: str, faults: Sequence[Fault], brokers: int) -> Fault:
    possible = [fault for fault in faults if mode in fault.modes and fault.brokers <= brokers]
    return rnd.choices(possible, [fault.weight for fault in possible])[0]


def _one(life: Life, fault: Fault, rnd: random.Random, number: int, *, is_last: bool) -> Round:
    began = time.monotonic()
    detail, verdict, calm_at, judged = "", Verdict(), began, False
    try:
        life.recoveries = []
        if not life.is_exact:  # a hand-over that goes on belongs to no fault of this round
            life.group.wait_joined(len(life.members))
        life.ledger.go()
        pause(rnd, 0.2, 0.9)
        if fault.unclean:
            life.may_repeat(life.committed(), times=fault.unclean)
        detail = fault.apply(life, rnd)
        pause(rnd, 0.1, 0.4)
        life.ledger.hold()
        calm_at = time.monotonic()
        stuck = ""
        try:
            life.wait_quiet(out_of_order=fault.late)
        except Stuck as error:  # what has not come by now is lost
            stuck = str(error)
        if is_last:  # what a clean stop sends belongs to it
            for agent in life.agents:
                agent.stop()
            life.heard.take(out_of_order=fault.late)
        verdict, judged = life.check(), True
        if stuck:
            verdict.troubles.insert(0, stuck)
    except Exception as error:
        verdict.troubles.append(f"{type(error).__name__}: {error}")
        if not life.kafka.running:
            life.kafka.start()
    if not verdict.good:
        verdict.troubles.append(f"{KEPT} {life.folder}")
    now = time.monotonic()
    return Round(
        number,
        life.mode,
        fault.name,
        detail,
        round(now - began, 1),
        round(now - calm_at, 1),
        verdict.lost,
        verdict.double,
        verdict.repeated,
        verdict.gone,
        verdict.troubles,
        life.recoveries,
        judged,
    )

"""`python -m tests.chaos --rounds N --seed S [--mode M] [--fault NAME] [--json]`: exits 1 when a round fails.

Real Kafka, of three brokers where memory allows, real agents as processes of their own, in the three modes
by turns. Kernels are compiled before the first round, if they have to be.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter

from benchmarks.machine import describe
from tests.chaos.faults import BY_NAME, TABLE
from tests.chaos.rounds import MODES, ROUNDS_A_LIFE, Outcome, Round, run
from tests.support.kafka_cluster import KafkaCluster
from tests.support.kafka_real import KafkaUnavailable, RealKafka

#: Three brokers, four agents and what is between them take less than half of it.
_ENOUGH_BYTES = 6 << 30


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=None, help="default: a random one, printed")
    parser.add_argument("--mode", choices=MODES, action="append", help="default: all, by turns")
    parser.add_argument("--fault", choices=sorted(BY_NAME), action="append", help="default: all")
    parser.add_argument("--brokers", type=int, default=_brokers(), help="default: %(default)s here")
    parser.add_argument("--rounds-a-life", type=int, default=ROUNDS_A_LIFE, metavar="N")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="no round after this")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(1 << 31) if options.seed is None else options.seed
    subprocess.run([sys.executable, "-m", "agent", "warmup", "-q"], check=True)
    try:
        kafka = RealKafka() if options.brokers == 1 else KafkaCluster(options.brokers)
    except KafkaUnavailable as reason:
        print(reason, file=sys.stderr)
        return 2
    try:
        kafka.start()
        outcome = run(
            kafka,
            n_rounds=options.rounds,
            seed=seed,
            modes=options.mode or MODES,
            faults=[BY_NAME[name] for name in options.fault] if options.fault else TABLE,
            rounds_a_life=options.rounds_a_life,
            on_round=_say,
            until_s=time.monotonic() + options.minutes * 60,
        )
    finally:
        kafka.close()
    document = outcome.document() | {"load": round(os.getloadavg()[2], 1), "machine": describe()}
    print(json.dumps(document) if options.json else _table(outcome))
    return 0 if all(r.good for r in outcome.rounds) else 1


def _brokers() -> int:
    """How many this machine has memory for."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 3 if free >= _ENOUGH_BYTES else 1


def _say(done: Round) -> None:
    line = f"{done.number:4} {done.mode:7} {done.fault:36} {done.detail:28} {done.seconds:5.1f} s"
    line += f"  quiet after {done.quiet_s:4.1f} s"
    line += f"  repeated {done.repeated}" if done.repeated else ""
    line += f"  gone {done.gone}" if done.gone else ""
    line += "".join(f"  counts again after {one.wait_s:.1f} s" for one in done.recoveries)
    print(line if done.good else line + "  FAILED", file=sys.stderr, flush=True)
    for trouble in done.troubles[:12]:
        print(f"       {trouble}", file=sys.stderr, flush=True)


def _table(outcome: Outcome) -> str:
    rounds = Counter((r.mode, r.fault) for r in outcome.rounds)
    failed = Counter((r.mode, r.fault) for r in outcome.rounds if not r.good)
    lines = [f"{'mode':8} {'fault':38} {'rounds':>6} {'failed':>6} {'lost':>6} {'double':>6}"]
    for mode, fault in sorted(rounds):
        of = [r for r in outcome.rounds if (r.mode, r.fault) == (mode, fault)]
        lost, double = sum(r.lost for r in of), sum(r.double for r in of)
        n = rounds[mode, fault]
        lines.append(f"{mode:8} {fault:38} {n:6} {failed[mode, fault]:6} {lost:6} {double:6}")
    document = outcome.document()
    lines.append(
        f"seed {outcome.seed}, {outcome.brokers} brokers: {document['rounds']} rounds, "
        f"{document['produced']} rows produced, "
        f"{document['lost']} lost, {document['double']} double, {document['repeated']} repeated "
        f"within the bound of memory mode, {document['gone']} gone with a topic unread; "
        f"{document['points']} points held against the rules"
    )
    for kind, of in document["recovery"].items():
        lines.append(
            f"{kind}: counts again after a kill -9 in {of['median']} s, at worst {of['worst']} s "
            f"({of['n']} times)"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

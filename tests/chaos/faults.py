"""The table of faults."""

from __future__ import annotations

from tests.chaos import faults_agents as agents
from tests.chaos import faults_brokers as brokers
from tests.chaos import faults_collector as collector
from tests.chaos import faults_topics as topics
from tests.chaos.fault import Fault, pause

KEPT = ("volume", "fleet")
TABLE = [
    Fault("kill", agents.kill, weight=4),
    Fault("kill twice", agents.kill_all_twice, repeats=4),
    Fault("kill at an arrow", agents.kill_at_an_arrow, weight=8),
    Fault("kill after an export, broker frozen", agents.kill_after_an_export, repeats=3, weight=3),
    Fault("SIGTERM", agents.terminate, repeats=1),
    Fault("SIGSTOP", agents.freeze),
    Fault("group churn", agents.churn, ("memory", "fleet"), repeats=6, weight=4),
    Fault("another member", agents.another_member, ("volume",)),
    Fault("clock jumps", agents.clock_jumps),
    Fault("disk full", agents.disk_full, KEPT),
    Fault("disk read-only", agents.disk_read_only, KEPT),
    Fault("disk error", agents.disk_error, KEPT),
    Fault("broker crash", brokers.crash, repeats=3),
    Fault("broker crash and kill", brokers.crash_and_kill, repeats=4),
    Fault("broker restarts", brokers.restart, repeats=3),
    Fault("broker frozen", brokers.frozen, repeats=3),
    Fault("leaders move", brokers.leaders_move, repeats=4, weight=4, brokers=2),
    Fault("rolling restart", brokers.rolling_restart, repeats=6, weight=1, brokers=2),
    Fault("most brokers crash", brokers.most_crash, repeats=4, brokers=3),
    Fault("all brokers crash", brokers.all_crash, repeats=4, brokers=2),
    Fault("collector refuses", collector.refuses, repeats=4, late=True),
    Fault("collector hangs", collector.hangs, repeats=4, late=True),
    Fault("collector black hole", collector.black_hole, repeats=4, late=True),
    Fault("collector drops connections", collector.drops_connections, repeats=4, late=True),
    Fault("collector answers late", collector.answers_late, repeats=4, late=True),
    Fault("offsets back", topics.offsets_back, repeats=1, weight=1),
    Fault("offsets forward", topics.offsets_forward, repeats=1, weight=1),
    Fault("group deleted", topics.group_deleted, repeats=1, weight=1),
    Fault("records deleted", topics.records_deleted, repeats=1, weight=1),
    Fault("partitions added", topics.partitions_added, repeats=1, weight=1),
    Fault("topic made anew", topics.topic_made_anew, repeats=3),
]
BY_NAME = {fault.name: fault for fault in TABLE}

__all__ = ["BY_NAME", "TABLE", "Fault", "pause"]

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
    Fault("kill twice", agents.kill_all_twice),
    Fault("kill at an arrow", agents.kill_at_an_arrow, weight=8),
    Fault("kill after an export, broker frozen", agents.kill_after_an_export, unclean=1, weight=3),
    Fault("SIGTERM", agents.terminate),
    Fault("SIGSTOP", agents.freeze, unclean=1),
    Fault("group churn", agents.churn, ("memory", "fleet"), weight=4),
    Fault("another member", agents.another_member, ("volume",)),
    Fault("clock jumps", agents.clock_jumps),
    Fault("disk full", agents.disk_full, KEPT),
    Fault("disk read-only", agents.disk_read_only, KEPT),
    Fault("disk error", agents.disk_error, KEPT),
    Fault("broker crash", brokers.crash, unclean=1),
    Fault("broker crash and kill", brokers.crash_and_kill, unclean=1),
    Fault("broker restarts", brokers.restart, unclean=1),
    Fault("broker frozen", brokers.frozen, unclean=1),
    Fault("leaders move", brokers.leaders_move, unclean=2, weight=4, brokers=2),
    Fault("rolling restart", brokers.rolling_restart, unclean=3, weight=1, brokers=2),
    Fault("most brokers crash", brokers.most_crash, unclean=1, brokers=3),
    Fault("all brokers crash", brokers.all_crash, unclean=1, brokers=2),
    Fault("collector refuses", collector.refuses, late=True),
    Fault("collector hangs", collector.hangs, late=True),
    Fault("collector black hole", collector.black_hole, late=True),
    Fault("collector drops connections", collector.drops_connections, late=True),
    Fault("collector answers late", collector.answers_late, late=True),
    Fault("offsets back", topics.offsets_back, weight=1),
    Fault("offsets forward", topics.offsets_forward, weight=1),
    Fault("group deleted", topics.group_deleted, weight=1),
    Fault("records deleted", topics.records_deleted, weight=1),
    Fault("partitions added", topics.partitions_added, weight=1),
    Fault("topic made anew", topics.topic_made_anew, unclean=1),
]
BY_NAME = {fault.name: fault for fault in TABLE}

__all__ = ["BY_NAME", "TABLE", "Fault", "pause"]

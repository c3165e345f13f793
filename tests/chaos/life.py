"""A topic, a group, a collector and the agents of one mode, through some rounds.

Volume mode: one agent; every acknowledged row is in the totals exactly once, whatever happened.
Fleet mode: two or three agents and an aggregator for each of one or two shards; the same of the shards'
totals together.
Memory mode: two agents; nothing is lost, and what is repeated lies between the offsets committed just before
a crash and the end of the log by then, at most once for each crash or lost assignment (`repeats`).
"""

from __future__ import annotations

import contextlib
import random
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Self

from tests.chaos.group import Group
from tests.chaos.heard import Heard
from tests.chaos.ledger import Account, Ledger
from tests.chaos.repeats import Repeats
from tests.chaos.seams import Controls, cut_power
from tests.chaos.verdict import Verdict, judge
from tests.chaos.waiting import Stuck, within
from tests.support.agent_process import AgentProcess, Json, merged
from tests.support.kafka_cluster import KafkaCluster
from tests.support.kafka_real import RealKafka
from tests.support.kafka_topics import unique
from tests.support.otlp_receiver import OtlpReceiver
from tests.support.process import StartFailed

PARTITIONS = 3
RATE = 500  # rows a second
SESSION_S = 3.0
QUIET_S = 45.0  # within this, all that was produced must be counted and committed
START_S = 60.0
SETTLED_S = 3.0  # some intervals of export
_CHUNKS = re.compile(rb"^inferometer_chunks_total\S* ([1-9]\S*)$", re.MULTILINE)


class Recovery(NamedTuple):
    """An agent that was killed at once begins again, and counts.

    wait_s     from the start of its process until the first chunk is folded, or in the chunk topic
    session_s  what Kafka may have waited before it gave the partitions of the one that was killed to
               anybody: its session time-out; 0 of a static member, which has its place again at once
    """

    role: str
    wait_s: float
    session_s: float


class Agent:
    """One agent that may be killed and started again; its clock, disk and name go on."""

    def __init__(self, folder: Path, config: Json, volume: Path | None, role: str) -> None:
        """`role`: its mode of delivery, or `aggregate`."""
        folder.mkdir(parents=True)
        self.folder = folder
        self.role = role
        kafka = config.get("kafka", {})
        self.is_static = role == "aggregate" or "group_instance_id" in kafka
        self.controls = Controls(folder)
        self._volume = volume
        program = ("-m", "tests.chaos.seams", str(folder))
        command = "aggregate" if role == "aggregate" else "run"
        self.process = AgentProcess(folder, config, program=program, command=command)

    def start(self) -> None:
        """Start it; one that dies on the way, at a point that was armed, is started again."""
        for _ in range(5):
            with contextlib.suppress(StartFailed):
                self._keep_log()
                self.process.start(timeout_s=START_S)
                return
            if self.controls.errno:
                return  # it cannot begin; `revive` will try again
        raise Stuck(f"the agent does not start:\n{self.process.log[-3000:]}")

    def _keep_log(self) -> None:
        log = self.process.log_path
        if log.exists():
            with (self.folder / "earlier.log").open("a") as earlier:
                earlier.write(log.read_text(errors="replace"))

    @property
    def running(self) -> bool:
        return self.process.process is not None and self.process.process.running

    def signal(self, number: int) -> None:
        assert self.process.process is not None
        self.process.process.signal(number)

    def kill(self, rnd: random.Random) -> None:
        """SIGKILL and a power cut."""
        if self.process.process is not None:
            self.process.process.kill()
        if self._volume is not None:
            cut_power(self._volume, self.folder, rnd)

    def recover(self) -> Recovery:
        """Start it, and wait until it counts: rows are coming."""
        began = time.monotonic()
        self.start()
        within(self._counts, QUIET_S, f"{self.folder.name} counts again")
        session_s = 0.0 if self.is_static else SESSION_S
        return Recovery(self.role, time.monotonic() - began, session_s)

    def _counts(self) -> bool:
        """It has folded a chunk since it began."""
        with contextlib.suppress(OSError):
            return _CHUNKS.search(self.process.get("/metrics")[1]) is not None
        return False

    def stop(self) -> int:
        return self.process.stop(timeout_s=15)

    def revive(self, rnd: random.Random) -> None:
        """Start it when it is gone."""
        if not self.running:
            self.kill(rnd)
            self.start()


class Life:
    """Use with `with`. `mode` is volume, memory or fleet."""

    def __init__(
        self, kafka: RealKafka | KafkaCluster, folder: Path, mode: str, rnd: random.Random
    ) -> None:
        self.kafka, self.mode, self.rnd = kafka, mode, rnd
        self.folder = folder
        self.topic = kafka.fresh_topic(partitions=PARTITIONS)
        self.group = Group(kafka.bootstrap, unique("group"), self.topic)
        self.receiver = OtlpReceiver()
        self.heard = Heard(self.receiver)
        self.ledger = Ledger(
            kafka.bootstrap, self.topic, PARTITIONS, seed=rnd.getrandbits(32), rate=RATE
        )
        self.repeats = Repeats(self.ledger)  # that memory mode may make in this round
        self.losable = Account()  # rows that went with their topic, unread, in this round
        self.recoveries: list[Recovery] = []
        self._to_be_told: dict[str, float] = {}  # by metric: what its counters must come to
        self._counted = Account()  # at the last check
        self._expected = Account()
        self._rows_before = (0, 0.0)  # rows counted, and since when
        self.agents: list[Agent] = []  # members of the group first
        self.gone: list[Agent] = []  # came and went
        self.shards = rnd.randint(1, 2)
        self.chunk_topic = unique("chunks")

    @property
    def is_exact(self) -> bool:
        """Nothing may be repeated."""
        return self.mode != "memory"

    @property
    def members(self) -> list[Agent]:
        """Those in the group that reads the topic."""
        return [agent for agent in self.agents if agent.role != "aggregate"]

    @property
    def keepers(self) -> list[Agent]:
        """Those with a volume."""
        return [agent for agent in self.agents if agent.role in ("volume", "aggregate")]

    def next_guest(self) -> int:
        """Number of the next agent that comes and goes."""
        return len(self.gone)

    def __enter__(self) -> Self:
        self.receiver.start()
        self.ledger.__enter__()
        n_agents = {"volume": 1, "memory": 2, "fleet": 4 - self.shards}[self.mode]
        for number in range(n_agents):
            self.agents.append(self.make_agent(f"agent-{number}"))
        for shard in range(self.shards if self.mode == "fleet" else 0):
            self.agents.append(self._make_aggregator(shard))
        for agent in self.agents:
            agent.start()
        return self

    def __exit__(self, *_: object) -> None:
        for agent in [*self.agents, *self.gone]:
            if agent.process.process is not None:
                agent.process.process.kill()
        self.ledger.__exit__()
        self.group.close()
        self.receiver.stop()

    def make_agent(self, name: str) -> Agent:
        """A member of the group; not started."""
        delivery: Json = {}
        own: Json = {"service": {"instance_id": name}}
        volume = None
        if self.mode == "volume":
            volume, own = self.folder / "volume", {}
            delivery = {"volume_path": str(volume)}
        if self.is_exact and self.rnd.random() < 0.5:
            own["kafka"] = {"group_instance_id": name}
        config = merged(self._config(delivery), own)
        return Agent(self.folder / name, config, volume, self.mode)

    def _make_aggregator(self, shard: int) -> Agent:
        volume = self.folder / f"volume-{shard}"
        own = {"aggregate": {"shard": shard, "volume_path": str(volume)}}
        config = merged(self._config({}), own)
        return Agent(self.folder / f"shard-{shard}", config, volume, "aggregate")

    def _config(self, delivery: Json) -> Json:
        """What all of this life have in common."""
        delivery = {
            "mode": self.mode,
            "drain_timeout_s": 2.5,
            "snapshot_interval_s": 0.7,
            **delivery,
        }
        if self.mode == "fleet":
            delivery |= {"chunk_topic": self.chunk_topic, "shards": self.shards}
            delivery["cut_interval_s"] = 0.25
        return {
            "kafka": {
                "bootstrap_servers": self.kafka.bootstrap.split(","),
                "topics": [self.topic],
                "group_id": self.group.name,
                "session_timeout_s": SESSION_S,
                "heartbeat_interval_s": 0.5,
                "rebalance_timeout_s": 6.0,
                "request_timeout_s": 5.0,
            },
            "delivery": delivery,
            "export": {
                "otlp": {
                    "endpoint": self.receiver.grpc_endpoint,
                    "timeout_s": 1.0,
                    "retry_initial_s": 0.2,
                    "retry_max_s": 0.5,
                }
            },
            "features": {n: {"kind": "numeric"} for n in ("amount", "balance", "slot")},
        }

    def committed(self) -> dict[int, int]:
        """Committed offset of each partition that has one."""
        return self.group.committed(self.ledger.partitions)

    def crash(self, *agents: Agent, since: Mapping[int, int] | None = None) -> None:
        """SIGKILL of all of them, and a power cut. Memory mode repeats at most what had been read behind `since`: what
        is committed now, unless one has asked before."""
        if self.is_exact:
            since = {}
        elif since is None:
            since = self.committed()
        for agent in agents:
            agent.kill(self.rnd)
        self.may_repeat(since, self.ledger.sent())

    # -- the oracle

    def may_repeat(
        self, since: Mapping[int, int], until: Mapping[int, int] | None = None, times: int = 1
    ) -> None:
        """Memory mode: see `Repeats.allow`."""
        if not self.is_exact:
            self.repeats.allow(since, until, times)

    def may_lose(self, committed: Mapping[int, int]) -> None:
        """The topic goes: rows that are not committed may go with it."""
        ends = self.ledger.ends()
        self.losable = self.ledger.between(committed, ends)

    def topic_is_new(self) -> None:
        """It is there again, and empty; offsets were of another one."""
        self.repeats.settle()
        self.ledger.begin_topic()

    def must_tell(self, metric: str, n: int) -> None:
        """Agents must count so many, at least, from now on: what is lost or repeated is said."""
        if n:
            self._to_be_told[metric] = self.heard.told(metric) + n

    def _untold(self) -> list[str]:
        return [
            f"{metric} says {self.heard.told(metric):.0f}, not {n:.0f}"
            for metric, n in self._to_be_told.items()
            if self.heard.told(metric) < n
        ]

    def wait_quiet(self, *, out_of_order: bool) -> None:
        """Until all that was produced is counted and committed. Raises Stuck."""

        def is_quiet() -> bool:
            for agent in self.agents:
                agent.revive(self.rnd)
            # First the offsets: in memory mode what they cover has been heard, but rows that were
            # repeated make the count no sign of it.
            is_committed = self._is_committed()
            self.heard.take(out_of_order=out_of_order)
            return is_committed and self._is_counted() and not self._untold()

        try:
            within(is_quiet, QUIET_S, "all rows are counted and committed")
        except Stuck as error:
            counted, wanted = self.heard.account().rows, self._wanted().rows
            ends = self.ledger.ends()
            raise Stuck(
                f"{error}: {counted} of {wanted} rows counted; committed "
                f"{self.group.ask(len(ends))}, ends {ends} {self.group.no_answer}"
            ) from None

    def _is_committed(self) -> bool:
        ends = self.ledger.ends()
        return any(
            at == {n: end for n, end in ends.items() if end or n in at}
            for at in self.group.ask(len(ends))
        )

    def _is_counted(self) -> bool:
        """All rows; where some may be gone, no fewer than the others, and none has come for a while."""
        rows, now = self.heard.account().rows, time.monotonic()
        if rows != self._rows_before[0]:
            self._rows_before = rows, now
        if rows < self._wanted().rows - self.losable.rows:
            return False
        return not self.losable.rows or now - self._rows_before[1] > SETTLED_S

    def _wanted(self) -> Account:
        """What the totals must reach now."""
        account = self.ledger.copy_account()
        return Account(
            {k: n - self._expected.of[k] + self._counted.of[k] for k, n in account.of.items()}
        )

    def check(self) -> Verdict:
        """The totals against the account, since the last check; memory mode forgets its repeats."""
        account, counted = self.ledger.copy_account(), self.heard.account()
        wanted = account.minus(self._expected)
        found = counted.minus(self._counted)
        verdict = judge(wanted, found, self.repeats.take(), self.losable)
        verdict.troubles += self.ledger.troubles + self.heard.broken + self._untold()
        self._to_be_told.clear()
        self.ledger.troubles.clear()
        self.heard.broken.clear()
        self._expected, self._counted = account, counted
        self.losable = Account()
        return verdict

"""A topic, a group, a collector and the agents of one mode, through some rounds.

Volume mode: one agent; every acknowledged row is in the totals exactly once, whatever happened.
Fleet mode: two or three agents and an aggregator for each of one or two shards; the same of the shards'
totals together.
Memory mode: two agents; nothing is lost, and what is repeated lies between the offsets committed before
a crash and the end of the log, at most once for each crash or lost assignment.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self, TypeVar

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from tests.chaos.heard import Heard
from tests.chaos.ledger import Account, Ledger
from tests.chaos.seams import Controls, cut_power
from tests.support.agent_process import AgentProcess, Json, merged
from tests.support.kafka_real import RealKafka, unique
from tests.support.otlp_receiver import OtlpReceiver
from tests.support.process import StartFailed

T = TypeVar("T")

PARTITIONS = 3
RATE = 500  # rows a second
SESSION_S = 3.0
QUIET_S = 45.0  # within this, all that was produced must be counted and committed
START_S = 60.0


class Stuck(AssertionError):
    """The pipeline does not go on."""


def within(probe: Callable[[], T], timeout_s: float, what: str) -> T:
    """The first truthy result; raises Stuck."""
    deadline = time.monotonic() + timeout_s
    while not (result := probe()):
        if time.monotonic() > deadline:
            raise Stuck(f"not within {timeout_s:.0f} s: {what}")
        time.sleep(0.05)
    return result


class Agent:
    """One agent that may be killed and started again; its clock, disk and name go on."""

    def __init__(self, folder: Path, config: Json, volume: Path | None, role: str) -> None:
        """`role`: its mode of delivery, or `aggregate`."""
        folder.mkdir(parents=True)
        self.folder = folder
        self.role = role
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

    def stop(self) -> int:
        return self.process.stop(timeout_s=15)

    def revive(self, rnd: random.Random) -> None:
        """Start it when it is gone."""
        if not self.running:
            self.kill(rnd)
            self.start()


class Life:
    """Use with `with`. `mode` is volume, memory or fleet."""

    def __init__(self, kafka: RealKafka, folder: Path, mode: str, rnd: random.Random) -> None:
        self.kafka, self.mode, self.rnd = kafka, mode, rnd
        self.folder = folder
        self.topic = kafka.fresh_topic(partitions=PARTITIONS)
        self.group = unique("group")
        self.receiver = OtlpReceiver()
        self.heard = Heard(self.receiver)
        self.ledger = Ledger(
            kafka.bootstrap, self.topic, PARTITIONS, seed=rnd.getrandbits(32), rate=RATE
        )
        self.allowed = Account()  # repeats that memory mode may make in this round
        self._counted = Account()  # at the last check
        self._expected = Account()
        self._admin = self._new_admin()
        self._no_answer = ""
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
                "bootstrap_servers": [self.kafka.bootstrap],
                "topics": [self.topic],
                "group_id": self.group,
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

    # -- what the group says

    def _new_admin(self) -> AdminClient:
        return AdminClient(
            {
                "bootstrap.servers": self.kafka.bootstrap,
                "log_level": 0,
                "reconnect.backoff.max.ms": 200,
            }
        )

    def committed(self) -> dict[int, int]:
        """Committed offset of each partition that has one. A coordinator that loads is asked again."""
        return within(self._ask_committed, 30, "the coordinator answers")[0]

    def _ask_committed(self) -> list[dict[int, int]]:
        """Nothing when there is no answer."""
        wanted = [TopicPartition(self.topic, n) for n in range(self.ledger.partitions)]
        groups = [ConsumerGroupTopicPartitions(self.group, wanted)]
        try:
            asked = self._admin.list_consumer_group_offsets(groups, request_timeout=3)
            found = asked[self.group].result(20).topic_partitions
        except KafkaException as error:
            self._no_answer = str(error)
            self._admin = self._new_admin()  # one that saw a broker crash may go on to find nobody
            return []
        return [{at.partition: at.offset for at in found if at.offset >= 0}]

    def wait_left(self) -> None:
        """Until the group is empty: a tool may not change offsets before."""

        def is_empty() -> bool:
            asked = self._admin.describe_consumer_groups([self.group])
            return not asked[self.group].result(20).members

        within(is_empty, 30, "the group is empty")

    def set_offsets(self, offsets: Mapping[int, int]) -> None:
        """As a tool does: without metadata."""
        wanted = [TopicPartition(self.topic, n, at) for n, at in offsets.items()]
        groups = [ConsumerGroupTopicPartitions(self.group, wanted)]
        for future in self._admin.alter_consumer_group_offsets(groups).values():
            for at in future.result(20).topic_partitions:
                assert at.error is None, at.error

    def delete_group(self) -> None:
        for future in self._admin.delete_consumer_groups([self.group]).values():
            future.result(20)

    # -- the oracle

    def allow_repeats(self, since: Mapping[int, int], times: int) -> None:
        """Memory mode: rows from `since` to the end of the log, by now, may be repeated."""
        account = self.ledger.between(since, self.ledger.ends())
        for key, n in account.of.items():
            self.allowed.of[key] += times * n

    def wait_quiet(self, *, out_of_order: bool) -> None:
        """Until all that was produced is counted and committed. Raises Stuck."""

        def is_quiet() -> bool:
            for agent in self.agents:
                agent.revive(self.rnd)
            self.heard.take(out_of_order=out_of_order)
            if self.heard.account().rows < self._wanted().rows:
                return False
            ends = self.ledger.ends()
            return any(
                at == {n: end for n, end in ends.items() if end or n in at}
                for at in self._ask_committed()
            )

        try:
            within(is_quiet, QUIET_S, "all rows are counted and committed")
        except Stuck as error:
            counted, wanted = self.heard.account().rows, self._wanted().rows
            raise Stuck(
                f"{error}: {counted} of {wanted} rows counted; committed {self._ask_committed()}, "
                f"ends {self.ledger.ends()} {self._no_answer}"
            ) from None

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
        verdict = judge(wanted, found, self.allowed)
        verdict.troubles += self.ledger.troubles + self.heard.broken
        self.ledger.troubles.clear()
        self.heard.broken.clear()
        self._expected, self._counted, self.allowed = account, counted, Account()
        return verdict


class Verdict:
    """Of one check: rows lost, rows counted twice beyond what is allowed, repeats within it."""

    def __init__(self) -> None:
        self.lost = self.double = self.repeated = 0
        self.troubles: list[str] = []

    @property
    def good(self) -> bool:
        return not (self.lost or self.double or self.troubles)


def judge(wanted: Account, found: Account, allowed: Account) -> Verdict:
    """Rows by stream and slot, which tells lost from repeated; then every other count and sum."""
    out = Verdict()
    for key in sorted({*wanted.of, *found.of}):
        n = found.of[key] - wanted.of[key]
        (model, version), what = key
        if what.startswith("slot "):
            out.lost += max(0, -n)
            out.double += max(0, n - allowed.of[key])
            out.repeated += max(0, min(n, allowed.of[key]))
        if not what.endswith(" sum"):
            is_wrong = n < 0 or n > allowed.of[key]
        else:  # quarters of either sign: exact when nothing may be repeated
            is_wrong = n != 0 and not allowed.rows
        if is_wrong:
            out.troubles.append(
                f"{model} {version} {what}: {found.of[key]}, not {wanted.of[key]}"
                + (f" (at most {allowed.of[key]} more)" if allowed.of[key] else "")
            )
    return out

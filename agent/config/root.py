"""The whole configuration, and what its parts ask of each other."""

from __future__ import annotations

import re
from typing import Annotated

import msgspec
from msgspec import Meta

from agent.config.aggregate import Aggregate
from agent.config.budget import Budget
from agent.config.decoding import Decode
from agent.config.delivery import Delivery
from agent.config.export import Export, Traces
from agent.config.judge import Baseline, Judge
from agent.config.kafka import Kafka
from agent.config.models import Feature, Model
from agent.config.monitors import Monitor
from agent.config.options import Options
from agent.config.overload import Overload
from agent.config.privacy import Privacy
from agent.config.process import Log, Runtime, Service, Web
from agent.config.respond import Respond
from agent.config.sources import Source
from agent.config.windows import Windows


class Config(Options, frozen=True, kw_only=True):
    """The whole configuration."""

    kafka: Annotated[Kafka, Meta(description="Source.")] = Kafka()
    decode: Annotated[Decode, Meta(description="Bytes to rows.")] = Decode()
    features: Annotated[dict[str, Feature], Meta(description="Declarations by feature name.")] = (
        msgspec.field(default_factory=dict)
    )
    models: Annotated[list[Model], Meta(description="Declared models.")] = msgspec.field(
        default_factory=list
    )
    privacy: Annotated[Privacy, Meta(description="Texts by name, hashed or off.")] = Privacy()
    windows: Annotated[Windows, Meta(description="Event-time windows.")] = Windows()
    judge: Annotated[Judge, Meta(description="Windows against baselines.")] = Judge()
    baselines: Annotated[dict[str, Baseline], Meta(description="By name, for `monitors`.")] = (
        msgspec.field(default_factory=dict)
    )
    monitors: Annotated[list[Monitor], Meta(description="Rules.")] = msgspec.field(
        default_factory=list
    )
    sources: Annotated[list[Source], Meta(description="Where features come from.")] = msgspec.field(
        default_factory=list
    )
    delivery: Annotated[Delivery, Meta(description="Cuts and commits.")] = Delivery()
    overload: Annotated[Overload, Meta(description="Load shedding.")] = Overload()
    aggregate: Annotated[Aggregate, Meta(description="`inferometer aggregate`.")] = Aggregate()
    budget: Annotated[Budget, Meta(description="Hard limits.")] = Budget()
    export: Annotated[Export, Meta(description="Metrics out.")] = Export()
    traces: Annotated[Traces, Meta(description="Traces out.")] = Traces()
    respond: Annotated[Respond, Meta(description="Actions on verdicts.")] = Respond()
    web: Annotated[Web, Meta(description="Pages.")] = Web()
    service: Annotated[Service, Meta(description="Resource.")] = Service()
    log: Annotated[Log, Meta(description="Logging.")] = Log()
    runtime: Annotated[Runtime, Meta(description="Threads.")] = Runtime()

    def __post_init__(self) -> None:
        if self.delivery.drain_timeout_s >= self.kafka.session_timeout_s:
            raise ValueError(
                f"delivery.drain_timeout_s is {self.delivery.drain_timeout_s}; must be below kafka.session_timeout_s ({self.kafka.session_timeout_s})"
            )
        if self.delivery.mode == "volume" and not self.delivery.volume_path:
            raise ValueError(
                "delivery.volume_path is not set; delivery.mode: volume needs a directory that survives the process"
            )
        self._require_chunk_topic()
        if self.delivery.mode == "volume" and self.export.temporality == "delta":
            raise ValueError(
                "export.temporality is delta; delivery.mode: volume needs cumulative: what a receiver has accepted of a delta does not survive a restart"
            )
        self._require_other_dead_letter_topic()
        self._require_other_action_topics()
        self._require_known_names()
        self._require_key()
        seen: set[str] = set()
        for index, model in enumerate(self.models):
            if model.name in seen:
                raise ValueError(
                    f'models[{index}].name is "{model.name}", as of a model before it; remove one'
                )
            seen.add(model.name)

    def _require_chunk_topic(self) -> None:
        """Fleet mode has one, which no agent reads: it would feed on itself."""
        topic, kafka = self.delivery.chunk_topic, self.kafka
        if self.delivery.mode != "fleet":
            return
        if not topic:
            raise ValueError(
                "delivery.chunk_topic is not set; delivery.mode: fleet needs a topic of its own to write chunks to"
            )
        if topic in (*kafka.topics, *kafka.label_topics):
            raise ValueError(
                f"delivery.chunk_topic is {topic}, which is read for events, too; name another topic"
            )
        if kafka.topic_pattern is not None and re.fullmatch(kafka.topic_pattern, topic):
            raise ValueError(
                f"delivery.chunk_topic is {topic}, which kafka.topic_pattern matches; name another topic"
            )
        if self.aggregate.shard >= self.delivery.shards:
            raise ValueError(
                f"aggregate.shard is {self.aggregate.shard}; must be below delivery.shards ({self.delivery.shards})"
            )

    def _require_key(self) -> None:
        """A hash without a key is undone by a list of likely words."""
        asked = {
            "privacy.values": self.privacy.values,
            "privacy.predictions": self.privacy.predictions,
        }
        asked |= {f"features.{name}.values": f.values for name, f in self.features.items()}
        for option, values in asked.items():
            if values == "hashed" and self.privacy.key_file is None:
                raise ValueError(
                    f"privacy.key_file is not set; {option}: hashed needs a file with a key of 16 bytes or more"
                )

    def _require_other_action_topics(self) -> None:
        for action in self.respond.actions:
            topic = action.kafka.topic if action.kafka is not None else None
            if topic is not None and topic in (*self.kafka.topics, *self.kafka.label_topics):
                raise ValueError(
                    f'respond.actions "{action.name}" writes to {topic}, which the agent reads; name another topic'
                )

    def _require_known_names(self) -> None:
        """Monitors have names of their own, and name baselines and actions that exist."""
        for group, names in (
            ("monitors", [m.name for m in self.monitors]),
            ("sources", [s.name for s in self.sources]),
        ):
            if twice := next((n for i, n in enumerate(names) if n in names[:i]), None):
                index = names.index(twice, names.index(twice) + 1)
                raise ValueError(
                    f'{group}[{index}].name is "{twice}", as of one before it; rename one'
                )
        actions = [action.name for action in self.respond.actions]
        for index, monitor in enumerate(self.monitors):
            at = f'monitors[{index}] ("{monitor.name}")'
            if monitor.baseline is not None and monitor.baseline not in self.baselines:
                raise ValueError(
                    f"{at}: baseline is {monitor.baseline}; must be one of `baselines` "
                    f"({', '.join(self.baselines) or 'there are none'})"
                )
            for name in monitor.actions:
                if name not in actions:
                    raise ValueError(
                        f"{at}: actions has {name}; must be one of `respond.actions` "
                        f"({', '.join(actions) or 'there are none'})"
                    )

    def _require_other_dead_letter_topic(self) -> None:
        """A topic that is read and written would feed on itself."""
        topic, kafka = self.decode.dead_letter_topic, self.kafka
        if topic is None:
            return
        # topic_pattern may match it: the source leaves it out.
        for option, names in (
            ("kafka.topics", kafka.topics),
            ("kafka.label_topics", kafka.label_topics),
        ):
            if topic in names:
                raise ValueError(
                    f"decode.dead_letter_topic is {topic}, which {option} reads; name another topic"
                )

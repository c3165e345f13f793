"""Origins: which topics and partitions a model's events come from, as far as chunks tell.

A chunk holds rows of all partitions that a thread read, added up: which of them a stream's rows came from is gone.
What is left is certain, and not all:

    its ranges are of one topic        every stream in it came from that topic
    only one of its partitions moved   every stream in it came from that partition
    a request that was kept            its span names topic and partition

So with one topic the topic is always known, and partitions are those of kept requests: busy ones first. Who wrote
to the partition is in no Kafka record: a client's id stays between it and its broker.
"""

from __future__ import annotations

from typing import Final

import msgspec

from agent.judge.reference import ModelKey
from agent.types import OVERFLOW, Chunk, Json, Partition

#: Models with their topics and partitions, all pairs together; some 150 bytes each. Then who came first is left out.
MOST_PAIRS: Final = 50_000
#: Stands for a partition that is not known.
UNKNOWN: Final = -1


class OriginsKept(msgspec.Struct, array_like=True):
    pairs: list[tuple[ModelKey, list[Partition]]]


class Origins:
    """A function of the chunks, in their order."""

    def __init__(self) -> None:
        self._known: dict[ModelKey, dict[Partition, None]] = {}
        self._n = 0

    def add(self, chunk: Chunk) -> None:
        """A chunk that counts."""
        moved = [at.partition for at in chunk.ranges if at.to_offset > at.from_offset]
        topics = {partition.topic for partition in moved}
        if len(topics) == 1:
            place = moved[0] if len(moved) == 1 else Partition(topics.pop(), UNKNOWN)
            models = {ModelKey(g.stream.model, g.stream.version) for g in chunk.groups}
            for key in sorted(models):
                self._put(key, place)
        for span in chunk.spans:
            self._put(ModelKey(span.stream.model, span.stream.version), span.partition)

    def _put(self, key: ModelKey, place: Partition) -> None:
        known = self._known.get(key)
        if (known is not None and place in known) or OVERFLOW in key:
            return
        if known is None:
            known = self._known[key] = {}
        known[place] = None
        self._n += 1
        while self._n > MOST_PAIRS:
            self._n -= len(self._known.pop(next(iter(self._known))))

    def of(self, key: ModelKey) -> list[Json]:
        """`topic` and the `partitions` of it that are known, both ascending."""
        found: dict[str, list[int]] = {}
        for place in sorted(self._known.get(key, ())):
            numbers = found.setdefault(place.topic, [])
            if place.partition != UNKNOWN:
                numbers.append(place.partition)
        return [{"topic": topic, "partitions": numbers} for topic, numbers in found.items()]

    def into(self, inventory: Json) -> Json:
        """The document of an inventory, its versions with their `topics`, in place."""
        for model in inventory["models"]:
            for version in model["versions"]:
                version["topics"] = self.of(ModelKey(model["model"], version["version"]))
        return inventory

    # ------------------------------------------------------------ kept

    def kept(self) -> OriginsKept:
        """All there is, to go on from."""
        return OriginsKept([(key, list(places)) for key, places in self._known.items()])

    def restore(self, kept: OriginsKept) -> None:
        """Go on from `kept`, in place."""
        self._known = {key: dict.fromkeys(places) for key, places in kept.pairs}
        self._n = sum(map(len, self._known.values()))

"""Splits a chunk by shard: what each aggregator folds of it.

A shard is a partition of the chunk topic. A model belongs to one shard, by a fixed hash of its name, so
each series has one writer, and who judges a model has all of its streams. Every shard gets a part of
every chunk, if only the ranges: each aggregator sees all partitions' clocks and the whole chain of chunks.

Invariant: over all shards, groups, exemplars and tallies add up to those of the chunk. Request spans
are in none: they leave their agent.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import replace
from functools import lru_cache

import msgspec
import numpy as np

from agent.sketch.packed import PackedCells
from agent.types import (
    CellRef,
    Chunk,
    Exemplar,
    Group,
    JsonType,
    Partition,
    PartitionRange,
    Tally,
)

#: Changes when a stream would go to another shard: then aggregators start anew, with a new topic.
SHARDING_VERSION = 2
_PERSON = b"inferometer-s%d" % SHARDING_VERSION


@lru_cache(maxsize=16_384)
def shard_of(model: str, n_shards: int) -> int:
    """The shard of a model, 0..n_shards - 1: the same in every process and release."""
    return _hash((model,)) % n_shards


def home_shard(partition: Partition, n_shards: int) -> int:
    """The shard that counts what was decoded of a partition (`Tally`)."""
    return _hash((partition.topic, partition.partition)) % n_shards


def _hash(parts: object) -> int:
    text = msgspec.msgpack.encode(parts)  # lengths are in it: no two keys have the same text
    return int.from_bytes(hashlib.blake2b(text, digest_size=8, person=_PERSON).digest(), "little")


def split(chunk: Chunk, n_shards: int) -> list[Chunk]:
    """The chunk's part of each shard, in order; its cells stay where they are, only refs are copied.

    Id, epoch, digest and ranges are those of the chunk. Labels go to the shard of their model, the
    rest of the tally to the home shard of the chunk's first partition.
    """
    groups: list[list[Group]] = [[] for _ in range(n_shards)]
    for group in chunk.groups:
        groups[shard_of(group.stream.model, n_shards)].append(group)
    exemplars: list[list[Exemplar]] = [[] for _ in range(n_shards)]
    for exemplar in chunk.exemplars:
        exemplars[shard_of(exemplar.stream.model, n_shards)].append(exemplar)
    tallies = _tallies(chunk.tally, chunk.ranges, n_shards)
    parts = []
    for shard in range(n_shards):
        taken, numeric, strings = _taken(chunk, groups[shard])
        parts.append(
            replace(
                chunk,
                groups=taken,
                numeric=numeric,
                strings=strings,
                tally=tallies[shard],
                spans=[],
                exemplars=exemplars[shard],
            )
        )
    return parts


def _tallies(tally: Tally, ranges: list[PartitionRange], n_shards: int) -> list[Tally]:
    tallies = [Tally() for _ in range(n_shards)]
    first = min((at.partition for at in ranges), default=Partition("", 0))
    home = tallies[home_shard(first, n_shards)]
    home.add(tally)
    home.labels_by_model = Counter()
    for model, n in tally.labels_by_model.items():
        tallies[shard_of(model, n_shards)].labels_by_model[model] += n
    return tallies


def _taken(chunk: Chunk, groups: list[Group]) -> tuple[list[Group], PackedCells, PackedCells]:
    """The groups with refs to cells of their own, and those cells."""
    if len(groups) == len(chunk.groups):
        return list(groups), chunk.numeric, chunk.strings
    numeric: list[int] = []
    strings: list[int] = []
    taken = []
    for group in groups:
        cells = []
        for ref in group.cells:
            kept = strings if ref.type is JsonType.STRING else numeric
            cells.append(CellRef(ref.column, ref.type, len(kept)))
            kept.append(ref.cell)
        taken.append(replace(group, cells=cells))
    return taken, _some(chunk.numeric, numeric), _some(chunk.strings, strings)


def _some(cells: PackedCells, wanted: list[int]) -> PackedCells:
    index = np.array(wanted, np.int64)
    return PackedCells(cells.is_string, cells.address[index], cells.length[index], cells.pieces)

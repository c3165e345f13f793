"""A block that carries the vectors of some of its rows: what decode hands to sketch beside the lanes."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from agent.types import Block, Column

#: A vector: row of the block, column, elements.
Vector = tuple[int, Column, list[int | float]]
_PARTS = tuple(f.name for f in fields(Block))


@dataclass(slots=True)
class SampledBlock(Block):
    """A block with the vectors of its sampled rows (`decode.vector_sample`), by row."""

    vectors: list[Vector] = field(default_factory=list)


def with_vectors(block: Block, vectors: list[Vector]) -> Block:
    """The block with these vectors of its rows, or as it is where there are none."""
    if not vectors:
        return block
    parts = {name: getattr(block, name) for name in _PARTS}
    return SampledBlock(**parts, vectors=vectors)

"""One shard's records and the group's heads in; chunks to fold out, in order.

Joins `Assembly` (what is here) and `Accept` (what counts): a chunk that counts and was left in the
topic for want of memory is read again. Pure, like both of them; `run.py` has the tasks around it.

    for each record:   record(position, value, now_s)       then next() until it gives None
    each second:       heads(heads, end, now_s)             the same
    when a Fold or a Verdict has been noted, to be acted on in this order: settle(it)
    after a Seek: read on from its position
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass

from agent.aggregate.accept import Accept, Fate, Verdict
from agent.aggregate.assembly import Assembly
from agent.aggregate.chains import Chains
from agent.errors import DecodeError
from agent.state.heads import Head
from agent.types import Chunk, Partition


@dataclass(frozen=True, slots=True)
class Fold:
    """Fold this chunk now, once."""

    chunk: Chunk
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Seek:
    """Read the topic again from this position."""

    position: int


class Intake:
    """See the module. One owner. Memory: `max_bytes` of parts and manifests, and the manifest of each chunk
    that is left in the topic for want of more."""

    def __init__(
        self,
        shard: int,
        n_shards: int,
        *,
        max_bytes: int,
        missing_timeout_s: float,
        chains: Chains | None = None,
        position: int = 0,
        begins_late: bool = False,
    ) -> None:
        """`chains`, `position`: what was settled before, and where to read on; `chains` is taken over.

        `begins_late`: what lies before `position` was settled by a volume that is gone.
        """
        self._accept = Accept(
            missing_timeout_s=missing_timeout_s,
            is_here=lambda chunk_id: self._assembly.has(chunk_id),
            is_left=lambda chunk_id: self._assembly.is_left(chunk_id),
            chains=chains,
            begins_late=begins_late,
        )
        self._assembly = Assembly(
            shard,
            n_shards,
            max_bytes=max_bytes,
            is_decided=self._accept.is_decided,
            is_named=self._accept.is_named,
        )
        self._taken: Fold | None = None
        self.position = position  # the next record that is expected

    # ------------------------------------------------------------ inputs

    def record(self, position: int, value: bytes | None, now_s: float) -> None:
        """The next record of the shard; positions between may be missing (deleted, control records)."""
        manifest, whole = self._assembly.add(position, value)
        if manifest is not None:
            self._accept.manifest(manifest, position, now_s)
        if whole is not None:
            self._accept.whole(whole, position)
        self.read_to(position + 1)

    def read_to(self, position: int) -> None:
        """There is no record below this position that has not been given."""
        self.position = position
        self._accept.read_to(position)

    def heads(self, heads: Mapping[Partition, Head], end: int, now_s: float) -> None:
        """Heads of the agents' group, and the shard's next position, asked for after them."""
        self._accept.heads(heads, end, now_s)
        self._assembly.polled()

    def forget_but(self, there: Container[Partition]) -> None:
        """Nobody will ever speak again for other partitions, and nothing of them waits."""
        self._accept.chains.forget_but(there)

    # ------------------------------------------------------------ outputs

    def next(self, now_s: float) -> Fold | Verdict | Seek | None:
        """What to do next; None: wait for records or heads. The same again until it is settled."""
        if self._taken is not None:
            return self._taken
        while (verdict := self._accept.decide(now_s)) is not None:
            if verdict.fate is not Fate.FOLDED:
                return verdict
            try:
                self._taken = Fold(self._assembly.take(verdict.chunk_id), verdict)
            except DecodeError:
                self._accept.damaged(verdict.chunk_id)
            else:
                return self._taken
        again = self._assembly.reread(self.position)
        if again is None:
            return None
        self.read_to(again)
        return Seek(again)

    def settle(self, done: Fold | Verdict) -> None:
        """It will be acted on before anything that comes behind it."""
        verdict = done.verdict if isinstance(done, Fold) else done
        self._accept.settle(verdict)
        self._assembly.drop(verdict.chunk_id)
        self._taken = None

    @property
    def oldest(self) -> int:
        """Position of the oldest record that is needed once all that was settled is durable."""
        oldest = self._assembly.oldest
        return self.position if oldest is None else min(oldest, self.position)

    @property
    def is_settled(self) -> bool:
        """Nothing that is known to count waits to be folded."""
        return self._accept.n_named == 0

    @property
    def held_bytes(self) -> int:
        """Memory of parts and manifests."""
        return self._assembly.held_bytes

    @property
    def n_foreign(self) -> int:
        """Records that were not ours, not whole or not for this shard."""
        return self._assembly.n_foreign

    @property
    def n_waiting(self) -> int:
        """Whole chunks of which it is not known yet whether they count, or whose `prev` is awaited."""
        return self._accept.n_waiting

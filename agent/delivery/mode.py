"""What the pipeline asks of a mode of delivery."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from agent.delivery.outcome import Outcome
from agent.ingest.lineages import Chain
from agent.types import Chunk, Json, Partition, Snapshot


class Mode(Protocol):
    """All on the loop.

    chain          who knows more of the starts of partitions than the group does; or nobody
    exports_first  an epoch's rows are committed behind an export that holds them
    """

    chain: Chain | None
    exports_first: bool
    run_id: str

    async def open(self) -> None:
        """Read what a crash left, before the group is joined. Raises StateError, ConfigError."""

    def begin(self, epoch: int) -> None:
        """An epoch begins; 0: none."""

    def lineages(self, partitions: Iterable[Partition]) -> dict[Partition, str]:
        """Of the epoch that begins."""

    def may_cut(self) -> bool:
        """No chunk waits for its answer."""

    async def deliver(self, chunk: Chunk) -> Outcome | None:
        """Bring a chunk of this epoch to count; None when it does not, or others find that out."""

    async def forget(self, partitions: Iterable[Partition]) -> None:
        """The epoch has ended."""

    async def export(self, now_ns: int, *, zeros: bool) -> Snapshot | None:
        """What may leave; None when nothing may."""

    async def scrape(self, now_ns: int) -> Snapshot | None:
        """What a scrape may show; None when nothing of the fold may be seen."""

    def accepted(self, snapshot: Snapshot) -> None:
        """A receiver took this export."""

    def positions_accepted(self, positions: Mapping[Partition, tuple[int, int]]) -> None:
        """An accepted export holds these positions."""

    async def finish(self) -> None:
        """Behind the last export: commit or keep what is left."""

    def reasons(self) -> list[str]:
        """Why it is not ready."""

    def describe(self) -> Json:
        """Its part of `/v1/state`."""

    def observe(self) -> None:
        """Set what gauges say of it; about once a second."""

    async def close(self) -> None:
        """Let go of everything; never fails."""

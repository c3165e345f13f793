"""A real broker that refuses the offsets of some partitions alone.

It does so for metadata that are longer than `offset.metadata.max.bytes` (4096, OFFSET_METADATA_TOO_LARGE).
So those of chosen partitions are made longer on their way; what the program meant to send stays as it was.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest

from agent.ingest.fence import Committed, FencedCommitRequest
from agent.types import Partition

WHY = "OFFSET_METADATA_TOO_LARGE"
_PADDING = "x" * 5000


class Refusals:
    """While `partitions` is not empty, their offsets are refused; genesis commits, too."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.partitions: Collection[Partition] = ()
        build = FencedCommitRequest.build

        def padded(request: FencedCommitRequest, request_struct_class: Any) -> Any:
            meant = request.offsets
            request.offsets = {
                p: Committed(at, metadata + _PADDING if p in self.partitions else metadata)
                for p, (at, metadata) in meant.items()
            }
            try:
                return build(request, request_struct_class)
            finally:
                request.offsets = meant

        patch.setattr(FencedCommitRequest, "build", padded)

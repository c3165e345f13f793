"""The template tier alone, beside the orjson tier: as `scan_tier`."""

from __future__ import annotations

import numpy as np

from agent.config import Config
from agent.decode.kernels.template import decode_templates
from agent.decode.resolver import ConfigResolver
from agent.decode.templates import Templates
from tests.fuzz.scan_tier import Meaning, ScanTier


class TemplateTier(ScanTier):
    """One kernel thread's worth of the template tier, and the orjson tier that teaches it. Learning takes no time."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.templates = Templates(config, ConfigResolver(config, self.table), clock=lambda: 0.0)

    def learn(self, text: bytes) -> Meaning:
        found = self.meaning(text)
        if found.shape is not None and text.lstrip()[:1] == b"{":
            self.templates.observe(text, found.shape)
        return found

    def scan_at(
        self,
        buffer: np.ndarray,
        position: np.ndarray,
        length: np.ndarray,
        zone: int,
        zone_end: int,
    ) -> list[int]:
        n = len(position)
        misfits = np.empty(n, np.int64)
        n_misfits = decode_templates(
            self.templates.address,
            self.rows.address,
            buffer.ctypes.data,
            position.ctypes.data,
            length.ctypes.data,
            n,
            misfits.ctypes.data,
        )
        return misfits[:n_misfits].tolist()

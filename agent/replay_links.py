"""Links of recorded requests: which of them a backtest's verdicts can name.

Live, a verdict names request spans, some of which this agent made itself. Of recorded events only traces that
stand in the events are known to anybody, so only those are named: of a row alone in its event the trace that it is
part of, of a row of a batch the trace that it would link to.

Rows are drawn as live, by `traces.base_rate`, but at least one in two hundred: a file is shorter than a day, and no
span leaves. The budget is per slice, so that the same files give the same links from all of their windows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Final

import msgspec

from agent.config import Config
from agent.decode.events import Decoded
from agent.decode.spans import SpanSampler
from agent.sketch.links import is_link
from agent.types import Exemplar

LEAST_RATE: Final = 0.005
#: Rows that are drawn of one slice of the decoder, half of them only of errors.
MOST_A_SLICE: Final = 512


class Links:
    """Gathers what `sampler` kept, and hands it on at each cut."""

    def __init__(self, config: Config, on_links: Callable[[list[Exemplar]], None]) -> None:
        traces = msgspec.structs.replace(
            config.traces,
            base_rate=max(LEAST_RATE, config.traces.base_rate),
            max_per_s=MOST_A_SLICE,
        )
        self._n_slices = 0
        self.sampler = SpanSampler(traces, config.features, clock=lambda: float(self._n_slices))
        self._on_links = on_links
        self._found: list[Exemplar] = []

    def take(self, part: Decoded) -> None:
        """What the decoder kept of a slice."""
        self._n_slices += 1
        known = {
            span.trace_id: span.link[0] if span.link is not None else span.trace_id
            for span in part.spans
            if span.parent_span_id or span.link is not None
        }
        self._found += [
            dataclasses.replace(link, trace_id=known[link.trace_id])
            for link in part.exemplars
            if is_link(link) and link.trace_id in known
        ]

    def cut(self) -> None:
        """A chunk is folded next."""
        self.sampler.take_counts()
        if self._found:
            self._on_links(self._found)
            self._found = []

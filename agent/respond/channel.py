"""What an action needs of the way its events go."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from agent.respond.event import Event
from agent.verdict import Verdict


class Channel(Protocol):
    """One way out: a webhook, a topic, an Alertmanager. All on one loop, one delivery at a time."""

    async def deliver(self, event: Event) -> None:
        """Bring one event there. Raises TransientExportError or PermanentExportError (GoneError)."""

    def restore(self, firing: Iterable[Verdict]) -> None:
        """Before `run`: alarms that fire since before this process."""

    async def run(self) -> None:
        """What there is to do besides deliveries, until cancelled; may return at once."""

    async def close(self) -> None:
        """End connections. Never raises."""

"""HTTP POST of a CloudEvent in structured mode, signed as Standard Webhooks ask."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from agent.config import Webhook as Options
from agent.config.respond import require_url
from agent.errors import ConfigError, PermanentExportError, TransientExportError
from agent.respond.event import CONTENT_TYPE, Event
from agent.respond.http import Poster
from agent.respond.signing import read_keys, signature
from agent.secret_file import secret_text
from agent.verdict import Verdict


class WebhookChannel:
    """See `channel.Channel`. `option`: where it is configured, for messages."""

    def __init__(
        self, options: Options, option: str, *, wall_clock: Callable[[], float] = time.time
    ) -> None:
        self._options = options
        self._option = option
        self._wall_clock = wall_clock
        self._poster = Poster(
            option,
            headers=options.headers,
            headers_file=options.headers_file,
            tls=options.tls,
            timeout_s=options.timeout_s,
        )

    async def deliver(self, event: Event) -> None:
        """The id is the event's at every try; time and signature are of this one."""
        timestamp_s = int(self._wall_clock())
        headers = {
            "content-type": CONTENT_TYPE,
            "webhook-id": event.id,
            "webhook-timestamp": str(timestamp_s),
        }
        options = self._options
        try:
            url = self._url()
            if options.secret_file is not None:
                keys = read_keys(options.secret_file, f"{self._option}.secret_file")
                headers["webhook-signature"] = signature(event.id, timestamp_s, event.body, keys)
        except ConfigError as error:  # a file that is being replaced may be whole again
            raise TransientExportError(str(error)) from None
        await self._poster.post(url, event.body, headers)

    def restore(self, firing: Iterable[Verdict]) -> None:
        """A receiver keeps what it was told."""

    async def run(self) -> None:
        pass

    async def close(self) -> None:
        await self._poster.close()

    def _url(self) -> str:
        if self._options.url is not None:
            return self._options.url
        assert self._options.url_file is not None
        url = secret_text(self._options.url_file, f"{self._option}.url_file")
        try:
            require_url(url, f"{self._option}.url_file: what it holds")
        except ValueError as error:
            raise PermanentExportError(str(error)) from None
        return url

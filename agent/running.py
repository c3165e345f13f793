"""A running agent, asked over HTTP: for commands that compare with it or show what it knows."""

from __future__ import annotations

import json
from typing import Final

from agent.errors import ConfigError, SourceError
from agent.types import Json

TIMEOUT_S: Final = 15.0


def state_of(url: str) -> Json:
    """`/v1/state` of the agent at this address. Raises ConfigError for what is no address, SourceError for no answer
    or one that is no agent's."""
    from http.client import HTTPException
    from urllib.error import URLError
    from urllib.request import urlopen

    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"--url is {url}; must begin with http:// or https://")
    address = url.rstrip("/") + "/v1/state"
    try:
        with urlopen(address, timeout=TIMEOUT_S) as answer:
            state = json.loads(answer.read())
    except (URLError, OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise SourceError(f"{address}: {reason}; is the agent up, and web.enabled?") from None
    except ValueError:
        raise SourceError(f"{address}: the answer is not JSON; is this an agent?") from None
    if not isinstance(state, dict) or "budget" not in state:
        raise SourceError(f"{address}: the answer is not an agent's state; is this an agent?")
    return state


def judging_of(url: str, state: Json) -> Json:
    """Its part about judging. Raises SourceError where the agent does not judge."""
    judge = state.get("judge")
    if not isinstance(judge, dict):
        raise SourceError(
            f"{url}: the agent judges nothing; judge.enabled must be true, and in a fleet it is an aggregator "
            "that judges"
        )
    return judge

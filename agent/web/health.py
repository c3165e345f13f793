"""Asks an agent's page from the same machine; needs nothing beyond the standard library."""

from __future__ import annotations

import urllib.error
import urllib.request

from agent.errors import ConfigError

TIMEOUT_S = 4.0


def ask(base_url: str, page: str) -> tuple[bool, str]:
    """GET `page`; return whether it answered 200, and one line to show. ConfigError for a bad URL."""
    url = base_url.rstrip("/") + page
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"--url is {base_url}; must start with http:// or https://")
    # A proxy is for the world outside; the agent is on this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=TIMEOUT_S) as response:
            return True, f"{url}: {_line(response.read(4096))}"
    except urllib.error.HTTPError as error:
        with error:
            return False, f"{url}: {error.code} {_line(error.read(4096))}"
    except (OSError, ValueError) as error:
        return False, f"{url}: no answer ({error})"


def local_url(host: str, port: int) -> str:
    """The address of a server bound to `host`, as this machine reaches it."""
    reachable = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"


def _line(body: bytes) -> str:
    return " ".join(body.decode(errors="replace").split())

"""Asks an agent's page from the same machine; needs nothing beyond the standard library."""

from __future__ import annotations

import contextlib
import ssl
import urllib.error
import urllib.request

from agent.config import ServerTls
from agent.errors import ConfigError

TIMEOUT_S = 4.0


def ask(base_url: str, page: str, tls: ServerTls | None = None) -> tuple[bool, str]:
    """GET `page`; return whether it answered 200, and one line to show. ConfigError for a bad URL.

    `tls`: that of the agent asked. Where it wants a client certificate, its own is shown.
    """
    url = base_url.rstrip("/") + page
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"--url is {base_url}; must start with http:// or https://")
    # A proxy is for the world outside; the agent is on this machine.
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=_context(tls))
    )
    try:
        with opener.open(url, timeout=TIMEOUT_S) as response:
            return True, f"{url}: {_line(response.read(4096))}"
    except urllib.error.HTTPError as error:
        with error:
            return False, f"{url}: {error.code} {_line(error.read(4096))}"
    except (OSError, ValueError) as error:
        return False, f"{url}: no answer ({error})"


def _context(tls: ServerTls | None) -> ssl.SSLContext | None:
    if tls is None:
        return None
    context = ssl.create_default_context()
    # This machine's own agent, under an address that its certificate may not name; no secret is sent.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if tls.client_ca_file is not None:
        password = tls.key_password.reveal() if tls.key_password else ""
        with contextlib.suppress(OSError):  # the agent then says what it wants
            context.load_cert_chain(tls.cert_file, tls.key_file, lambda: password)
    return context


def local_url(host: str, port: int, *, secure: bool = False) -> str:
    """The address of a server bound to `host`, as this machine reaches it."""
    scheme = "https" if secure else "http"
    reachable = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(host, host)
    return (
        f"{scheme}://[{reachable}]:{port}" if ":" in reachable else f"{scheme}://{reachable}:{port}"
    )


def _line(body: bytes) -> str:
    return " ".join(body.decode(errors="replace").split())

"""What of an address may be shown, in a dump of the configuration and in messages about it."""

from __future__ import annotations

import re

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_QUERY = re.compile(r"[?#]")


def shown_address(text: str, *, path: bool = True) -> str:
    """A URL or `host:port` without user, password, query and fragment; without its path too unless `path`.

    A password may hold any character, not escaped: all before the last `@` is left out. Rather too little
    is shown than too much.
    """
    scheme = _SCHEME.match(text)
    start = scheme[0] if scheme else ""
    _, at, rest = text.removeprefix(start).rpartition("@")
    where, *query = _QUERY.split(rest, maxsplit=1)
    host, _, below = where.partition("/")
    if below and not path:
        where = f"{host}/***"
    return start + ("***@" if at else "") + where + ("?***" if query else "")

"""How single option values are written: field paths, topic names, broker addresses, hosts.

Nothing is looked up or opened. The functions are for `config`, which raises what they raise or return.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence

from agent.config.masking import shown_address

_TOPIC = re.compile(r"[a-zA-Z0-9._-]{1,249}")
_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_MAX_HOST = 253


def parse_path(path: str) -> tuple[str, ...]:
    """`a.b\\.c` -> ("a", "b.c"). Raises ValueError for an empty part or a wrong backslash."""
    parts: list[str] = []
    part = ""
    escaped = False
    for char in path:
        if escaped:
            if char not in ".\\":
                raise ValueError(
                    f"path {path!r}: \\{char} is no escape; write \\. for a dot, \\\\ for a backslash"
                )
            part += char
            escaped = False
        elif char == "\\":
            escaped = True
        elif char == ".":
            parts.append(part)
            part = ""
        else:
            part += char
    if escaped:
        raise ValueError(f"path {path!r} ends in a backslash; write \\\\ for a backslash")
    parts.append(part)
    if "" in parts:
        raise ValueError(f"path {path!r} has an empty part; write \\. for a dot inside a key")
    return tuple(parts)


def require_topic(option: str, name: str) -> None:
    """ValueError unless Kafka allows a topic of this name (`Topic.validate` of its clients)."""
    if not _TOPIC.fullmatch(name) or name in (".", ".."):
        raise ValueError(
            f'{option} is "{name[:80]}"; a topic name has 1 to 249 letters, digits, `.`, `_` or `-`'
        )


def require_topics_once(option: str, names: Sequence[str]) -> None:
    """ValueError unless all are topic names, each given once."""
    seen: set[str] = set()
    for index, name in enumerate(names):
        require_topic(f"{option}[{index}]", name)
        if name in seen:
            raise ValueError(f"{option} names {name} twice; remove one")
        seen.add(name)


def require_address(option: str, address: str) -> None:
    """ValueError unless `address` is `host:port` of a broker, port 1 to 65535, `[...]` around IPv6."""
    shown = f'{option} is "{shown_address(address)[:80]}"'
    if "://" in address:
        raise ValueError(f"{shown}; write host:port without a scheme")
    if "," in address:
        raise ValueError(f"{shown}; write each broker as an entry of its own: [a:9092, b:9092]")
    host, _, port = address.rpartition(":")
    is_port = port.isascii() and port.isdigit() and len(port) < 6 and 1 <= int(port) <= 65_535
    is_bracketed = host.startswith("[") and host.endswith("]")
    if is_bracketed:
        host = host[1:-1]
    if not is_port or not is_host(host) or is_bracketed != (":" in host):
        raise ValueError(f"{shown}; must be host:port with a port from 1 to 65535")


def is_host(text: str) -> bool:
    """Whether `text` is an IP address, or written like a name that could be resolved."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        pass
    else:
        return True
    labels = text.removesuffix(".").split(".")
    return (
        len(text) <= _MAX_HOST
        and all(_LABEL.fullmatch(label) for label in labels)
        # A last label of digits makes it an IPv4 address, here a wrong one.
        and not labels[-1].isdigit()
    )

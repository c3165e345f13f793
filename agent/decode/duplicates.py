"""Duplicate keys of a JSON text that orjson has already accepted (there the last value wins).

The test is a count: text with as many `":` as the parsed tree has keys has no key twice. It is exact
but for texts that write both `"k":` and `"k" :`. Only when the counts differ the text is parsed again.
"""

from __future__ import annotations

import json
import re
from typing import Any

_COLON = re.compile(rb'"[ \t\r\n]*:')


def has_duplicate_key(text: bytes, tree: Any) -> bool:
    """Whether an object anywhere in `text` has the same key twice. `tree` is `orjson.loads(text)`."""
    n_keys = count_keys(tree)
    if text.count(b'":') == n_keys:
        return False
    # Fewer: white space before the colon. More: a duplicate, or `":` inside of a string.
    if len(_COLON.findall(text)) == n_keys:
        return False
    return _parse_again(text)


def count_keys(tree: Any) -> int:
    """Keys of all objects in a parsed JSON value. Iterative; O(size)."""
    n_keys = 0
    nodes = [tree]
    while nodes:
        below: list[Any] = []
        for node in nodes:
            if type(node) is dict:
                n_keys += len(node)
                node = node.values()
            elif type(node) is not list:
                continue
            below += [value for value in node if type(value) is dict or type(value) is list]
        nodes = below
    return n_keys


def _parse_again(text: bytes) -> bool:
    seen = False

    def pairs(items: list[tuple[str, Any]]) -> None:
        nonlocal seen
        if len(items) != len({key for key, _ in items}):
            seen = True

    try:
        # Numbers stay text: no conversion limits. Depth was bounded by the caller.
        json.loads(text, object_pairs_hook=pairs, parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        return False
    return seen

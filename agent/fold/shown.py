"""Which texts of a column leave the process, and under which name (`privacy`, `features.<name>.values`).

Everything that shows a text (metrics, `/v1/state`, `replay`) asks here; nothing else decides.

    names    the text as it stands in events, cut at 56 bytes
    hashed   "#" and 16 hex digits: BLAKE2b of role, column and text under the key of `privacy.key_file`
    off      nothing

A hash is the same in every agent with the same key, and differs from column to column, so that it joins
nothing. Booleans are not texts: they are shown, as numbers are.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

from agent.config import Config, Values
from agent.errors import ConfigError
from agent.sketch.views import StringView
from agent.types import Column, Role

MIN_KEY_BYTES: Final = 16
_HASH_BYTES: Final = 8  # 64 bits: two of 1000 texts collide once in 10^13


class Shown:
    """The rule for every column. Raises ConfigError when the key cannot be read or is too short."""

    def __init__(self, config: Config) -> None:
        privacy = config.privacy
        self.at_least = privacy.k
        self._default: Values = privacy.values or (
            "names" if config.export.top_categories else "off"
        )
        self._predictions: Values = privacy.predictions or self._default
        #: Where nothing is said, a declared range is what names the feature.
        self._by_range = privacy.values is None
        self._features = {name: f.values for name, f in config.features.items() if f.values}
        self._key = b"" if privacy.key_file is None else _read_key(privacy.key_file)

    def of(self, column: Column) -> Values:
        """How this column's texts are shown."""
        if column.role is Role.FEATURE:
            return self._features.get(column.name, self._default)
        return self._predictions if column.role is Role.PREDICTION else self._default

    def texts(self, column: Column, top: list[tuple[str, int]]) -> list[tuple[str, int]]:
        """The list as it may be shown."""
        match self.of(column):
            case "names":
                return top
            case "hashed":
                return [(self._hashed(column, text), count) for text, count in top]
            case _:
                return []

    def frequent(self, column: Column, view: StringView, n: int) -> list[tuple[str, int]]:
        """Up to n (text or hash, count) of a sketch."""
        if self.of(column) == "off":
            return []
        return self.texts(column, frequent_texts(view, n, self.at_least))

    def exemplars(self, column: Column) -> bool:
        """Whether one number of this column may leave beside the id of its trace."""
        if column.role is not Role.FEATURE:
            return True
        own = self._features.get(column.name)
        return own == "names" if own else self._by_range or self._default == "names"

    def _hashed(self, column: Column, text: str) -> str:
        said = "\0".join((column.role.value, column.name, text))
        digest = hashlib.blake2b(
            said.encode("utf-8", "surrogatepass"), digest_size=_HASH_BYTES, key=self._key
        )
        return f"#{digest.hexdigest()}"


def frequent_texts(view: StringView, n: int, at_least: int) -> list[tuple[str, int]]:
    """Up to n texts that stand out, each surely in `at_least` rows or more."""
    found = [
        (h.text, h.count)
        for h in view.named
        if h.is_certain and h.count - h.overestimate >= at_least
    ]
    return found[:n]


def _read_key(path: str) -> bytes:
    try:
        key = Path(path).read_bytes().strip()
    except OSError as error:
        raise ConfigError(
            f"privacy.key_file is {path!r}; it cannot be read ({error.strerror}). Check path and permissions"
        ) from None
    if len(key) < MIN_KEY_BYTES:
        raise ConfigError(
            f"privacy.key_file is {path!r}; it holds {len(key)} bytes, must hold {MIN_KEY_BYTES} or more"
        )
    # BLAKE2b takes keys of up to 64 bytes.
    return key if len(key) <= hashlib.blake2b.MAX_KEY_SIZE else hashlib.blake2b(key).digest()

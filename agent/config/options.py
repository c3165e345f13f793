"""What every group of options is made of."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta


class Secret:
    """A value that never shows itself: `repr` and `str` are masked, `reveal()` is the only way out."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "Secret('***')"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every group of options has in common: immutable, named arguments, typos refused."""


Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Port = Annotated[int, Meta(ge=0, le=65_535)]
Threads = Annotated[int, Meta(ge=1, le=64)]
Fraction = Annotated[float, Meta(ge=0, le=1)]

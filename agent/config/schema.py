"""What the option structs say about themselves: paths, types in words, units, nearest names.

Used where a person meets an option: error messages (`config.source`), `docs/configuration.md`
(`docs`). Values are judged by msgspec; this module only words what it checks.
"""

from __future__ import annotations

import difflib
import enum
import functools
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from agent.config import Config, Options, Secret

ENV_PREFIX = "INFEROMETER__"

_UNITS = {"_s": "seconds", "_bytes": "bytes"}


@dataclass(frozen=True, slots=True)
class Option:
    """One option, as documentation shows it. `path` has `<name>` for a key and `[]` for an item."""

    path: str
    type: str
    default: str
    unit: str
    description: str
    environment: str  # "" when it has no variable of its own (items of a list)


@dataclass(frozen=True, slots=True)
class Group:
    """One struct with its own options; groups inside it follow as groups of their own."""

    path: str  # "" for the whole configuration
    description: str
    options: list[Option]


@functools.cache
def fields(cls: type[Options]) -> dict[str, Any]:
    """Option name, as it is written -> type with its bounds, in the order of declaration."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {f.encode_name: hints[f.name] for f in msgspec.structs.fields(cls)}


def parts(hint: Any) -> tuple[list[Any], list[Meta], bool]:
    """Take `Annotated[A | B | None, Meta(...)]` apart: members (each maybe annotated), bounds, optional."""
    bounds: list[Meta] = []
    while typing.get_origin(hint) is Annotated:
        bounds += [m for m in hint.__metadata__ if isinstance(m, Meta)]
        hint = hint.__origin__
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        members = [m for m in typing.get_args(hint) if m is not type(None)]
        return members, bounds, len(members) < len(typing.get_args(hint))
    return [hint], bounds, False


def struct_in(hint: Any) -> type[Options] | None:
    """The struct that `hint` is, alone or beside None."""
    members, _, _ = parts(hint)
    found = [m for m in members if isinstance(m, type) and issubclass(m, Options)]
    return found[0] if found else None


def accepts(hint: Any, kind: type) -> Any | None:
    """The member of `hint` that is `kind` (str, dict, list, Secret ...), else None."""
    for member in parts(hint)[0]:
        bare = parts(member)[0][0]
        if bare is kind or typing.get_origin(bare) is kind:
            return bare
    return None


def takes_text(hint: Any) -> bool:
    """True when a value of this type is written as text: str, secrets, one-of-these words."""
    for member in parts(hint)[0]:
        bare = parts(member)[0][0]
        if bare is str or bare is Secret or typing.get_origin(bare) is Literal:
            return True
        if isinstance(bare, type) and issubclass(bare, enum.Enum):
            return True
    return False


def holds_secret(hint: Any) -> bool:
    """True when a secret may be anywhere inside a value of this type."""
    for member in parts(hint)[0]:
        bare = parts(member)[0][0]
        if bare is Secret:
            return True
        if isinstance(bare, type) and issubclass(bare, Options):
            if any(holds_secret(inner) for inner in fields(bare).values()):
                return True
        elif any(holds_secret(inner) for inner in typing.get_args(bare) if inner is not str):
            return True
    return False


def choices(hint: Any) -> list[str]:
    """The words that are allowed, for options that take one of a few."""
    found: list[str] = []
    for member in parts(hint)[0]:
        bare = parts(member)[0][0]
        if typing.get_origin(bare) is Literal:
            found += [str(value) for value in typing.get_args(bare)]
        elif isinstance(bare, type) and issubclass(bare, enum.Enum):
            found += [str(value.value) for value in bare]
    return found


def in_words(hint: Any, name: str = "") -> str:
    """Type, bound and unit in words: `a number from 1 to 300 (seconds)`."""
    members, bounds, _ = parts(hint)
    words = " or ".join(_member_in_words(member, bounds) for member in members)
    unit = unit_of(name)
    return f"{words} ({unit})" if unit and "number" in words else words


def unit_of(name: str) -> str:
    """The unit that an option's name ends with."""
    return next((unit for suffix, unit in _UNITS.items() if name.endswith(suffix)), "")


def _member_in_words(member: Any, outer: list[Meta]) -> str:
    inner, bounds, _ = parts(member)
    bare, bounds = inner[0], outer + bounds
    if words := choices(bare):
        return words[0] if len(words) == 1 else f"one of {', '.join(words)}"
    if bare is bool:
        return "true or false"
    if bare in (int, float):
        return f"{'a whole number' if bare is int else 'a number'}{_range(bounds)}"
    origin, arguments = typing.get_origin(bare), typing.get_args(bare)
    if origin is list:
        some = any(m.min_length for m in bounds)
        plural = "groups" if struct_in(arguments[0]) else "texts"
        return f"a list of {plural}{', at least one' if some else ''}"
    if origin is dict:
        of = "group" if struct_in(arguments[1]) else "text"
        return f"a map from name to {of}"
    if isinstance(bare, type) and issubclass(bare, Options):
        return "a group of options"
    empty = any(m.min_length for m in bounds)
    return f"{'a secret text' if bare is Secret else 'text'}{', not empty' if empty else ''}"


def _range(bounds: list[Meta]) -> str:
    low = next((m.ge for m in bounds if m.ge is not None), None)
    above = next((m.gt for m in bounds if m.gt is not None), None)
    high = next((m.le for m in bounds if m.le is not None), None)
    ends: list[str] = []
    if above is not None:
        ends.append(f"above {number(above)}")
        if high is not None:
            ends.append(f"at most {number(high)}")
        return " " + " and ".join(ends)
    if low is not None and high is not None:
        return f" from {number(low)} to {number(high)}"
    if low is not None:
        return f" of at least {number(low)}"
    return f" of at most {number(high)}" if high is not None else ""


def number(value: float) -> str:
    """As a person writes it in YAML: no trailing `.0`."""
    return str(int(value)) if value == int(value) else repr(value)


def nearest(name: str, known: list[str]) -> str | None:
    """The known name that `name` was probably meant to be."""
    found = difflib.get_close_matches(name.lower(), [k.lower() for k in known], n=1, cutoff=0.6)
    return next((k for k in known if found and k.lower() == found[0]), None)


def environment_name(path: str) -> str:
    """`kafka.topics` -> `INFEROMETER__KAFKA__TOPICS`; names of your own (`<name>`) stay as they are."""
    upper = [p if p.startswith("<") else p.upper() for p in path.split(".")]
    return ENV_PREFIX + "__".join(upper)


@functools.cache
def groups() -> list[Group]:
    """Every group of options, outermost first."""
    return list(_groups(Config, ""))


def option_paths() -> list[str]:
    """Dotted paths of all options, those inside maps and lists included."""
    return [option.path for group in groups() for option in group.options]


def _groups(cls: type[Options], path: str) -> Iterator[Group]:
    options: list[Option] = []
    inner: list[tuple[type[Options], str]] = []
    defaults = {f.encode_name: f for f in msgspec.structs.fields(cls)}
    for name, hint in fields(cls).items():
        at = f"{path}.{name}" if path else name
        nested = struct_in(hint)
        if nested is not None:
            inner.append((nested, at))
            if not parts(hint)[2]:  # an optional group is an option too: it may be left out
                continue
        if (bare := accepts(hint, list)) and (item := struct_in(typing.get_args(bare)[0])):
            inner.append((item, f"{at}[]"))
        if (bare := accepts(hint, dict)) and (item := struct_in(typing.get_args(bare)[1])):
            inner.append((item, f"{at}.<name>"))
        options.append(
            Option(
                path=at,
                type=in_words(hint, name),
                default=_default(defaults[name]),
                unit=unit_of(name),
                description=_description(hint),
                environment="" if "[]" in at else environment_name(at),
            )
        )
    yield Group(path, (cls.__doc__ or "").strip(), options)
    for nested, at in inner:
        yield from _groups(nested, at)


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "required"
    value = field.default
    if field.default_factory is not msgspec.NODEFAULT:
        value = field.default_factory()
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return number(value)
    if isinstance(value, (list, dict)):
        return msgspec.json.encode(value).decode()
    return str(value)


def _description(hint: Any) -> str:
    return next((m.description for m in parts(hint)[1] if m.description), "")

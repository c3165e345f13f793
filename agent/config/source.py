"""Where a configuration comes from: a YAML file, `${env:NAME}` inside it, `INFEROMETER__...` variables.

Later sources win. Every mistake is a ConfigError of one line that names the place (file and line, or
variable), the option, the value (masked when it may be a secret), the bound and the next step.

Rules
1. YAML is read as YAML 1.2 reads it: `no`, `on` and `12:30` are text, `1e3` is a number. A key that
   stands twice is an error.
2. Text that comes from the environment is text where the option takes text (`password: ${env:PIN}`
   stays "0042"), and is read as YAML everywhere else.
3. Empty text from the environment means "not set" where an option may be not set.
4. This is the only module that reads the process environment; others are given the mapping.
"""

from __future__ import annotations

import os
import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import yaml

from agent.config import Config, Options, Secret, schema
from agent.config.masking import shown_address
from agent.config.yaml import Place, dotted, one_line, yaml_tree
from agent.errors import ConfigError

_SUBSTITUTION = re.compile(r"\$\$\{|\$\{([^}]*)\}")
_VARIABLE = re.compile(r"env:([A-Za-z_][A-Za-z0-9_]*)(:-(.*))?", re.DOTALL)


def environment() -> dict[str, str]:
    """A copy of the process environment."""
    return dict(os.environ)


def load_config(path: Path | None, env: Mapping[str, str]) -> Config:
    """Read `path` (None: no file, only defaults and variables) and `env` into a checked Config.

    Raises ConfigError.
    """
    sources = _Sources(path, env)
    tree = sources.read_file(path) if path is not None else {}
    sources.apply_variables(tree)
    built = sources.build(tree, Config, ())
    assert isinstance(built, Config)
    return built


def load_group(path: Path, env: Mapping[str, str], group: type[Options]) -> Options:
    """Read another file of options, whose top is `group`, as a configuration is read: with `${env:NAME}`, and
    mistakes named by file and line. Variables do not override it. Raises ConfigError."""
    sources = _Sources(path, env)
    built = sources.build(sources.read_file(path), group, ())
    assert isinstance(built, group)
    return built


def check_files(group: Options, place: str = "") -> list[Path]:
    """Open every file that the options in `group` name (`*_file`) and return them.

    `place` is the path of `group` itself, for messages. Raises ConfigError when a file cannot be read.
    """
    found: list[Path] = []
    for at, name in _named_files(group, place):
        path = Path(name)
        try:
            with path.open("rb") as file:
                file.read(1)
        except OSError as error:
            raise ConfigError(
                f"{at} is {name}: {_reason(error)}; mount the file or correct the path"
            ) from None
        found.append(path)
    return found


def require_topics(config: Config, source: Path | None = None) -> None:
    """ConfigError when there is nothing to consume. `source`: the file, for the message."""
    if not config.kafka.topics and not config.kafka.topic_pattern:
        at = "" if source is None else f"{source}: "
        raise ConfigError(
            f"{at}kafka.topics is empty; name at least one topic "
            "(kafka.topics: [predictions], or INFEROMETER__KAFKA__TOPICS='[predictions]'), or set kafka.topic_pattern"
        )


def masked(config: Config) -> dict[str, Any]:
    """The effective configuration as plain data, without secrets, and of addresses no part that may be one."""
    plain = msgspec.to_builtins(config, enc_hook=lambda _: "***")
    assert isinstance(plain, dict)
    cleaned = _masked(plain, "")
    assert isinstance(cleaned, dict)
    return cleaned


def masked_yaml(config: Config) -> str:
    """`masked`, as YAML."""
    return yaml.safe_dump(masked(config), sort_keys=False, allow_unicode=True, width=100)


# ---------------------------------------------------------------- values of the environment


class _Loose(str):
    """Text from the environment: its type follows from the option that it is for (rule 2)."""

    __slots__ = ()


# ---------------------------------------------------------------- the sources of one configuration


@dataclass
class _Sources:
    path: Path | None
    env: Mapping[str, str]
    origins: dict[Place, str] = field(default_factory=dict)

    # ------------------------------------------------ file

    def read_file(self, path: Path) -> dict[str, Any]:
        try:
            text = path.read_bytes().decode()
        except OSError as error:
            raise ConfigError(f"{path}: {_reason(error)}; give the file with -c FILE") from None
        except UnicodeDecodeError as error:
            raise ConfigError(
                f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8"
            ) from None
        tree, lines = yaml_tree(text, str(path), (), self._substitute)
        self.origins |= {place: f"{path}:{line}" for place, line in lines.items()}
        if tree is None:
            return {}
        if not isinstance(tree, dict):
            raise ConfigError(
                f"{path}: the file holds {_kind(tree)}; must be groups of options, such as `kafka:`"
            )
        return tree

    def _parse(self, text: str, source: str, place: Place) -> Any:
        """Text of an environment variable as YAML; nothing is substituted in it."""
        return yaml_tree(text, source, place)[0]

    def _substitute(self, text: str, line: int, place: Place) -> str:
        replaced = False
        where = f"{self.path}:{line}"

        def value_of(match: re.Match[str]) -> str:
            nonlocal replaced
            if match[1] is None:  # $${ stands for ${
                return "${"
            replaced = True
            reference = _VARIABLE.fullmatch(match[1])
            if reference is None:
                raise ConfigError(
                    f"{where}: {dotted(place)} holds {match[0]}; "
                    "write ${env:NAME} or ${env:NAME:-default}, and $${ for a plain ${"
                )
            name, default = reference[1], reference[3]
            # As in a shell, `:-` also covers a variable that is set but empty.
            value = self.env.get(name)
            if reference[2] is not None:
                return value or default
            if value is None:
                raise ConfigError(
                    f"{where}: {dotted(place)} needs the environment variable {name}, which is not set; "
                    f"set it, or write ${{env:{name}:-default}}"
                )
            return value

        result = _SUBSTITUTION.sub(value_of, text)
        return _Loose(result) if replaced else result

    # ------------------------------------------------ variables

    def apply_variables(self, tree: dict[str, Any]) -> None:
        """Put every `INFEROMETER__...` variable at its place in `tree`, whole groups first."""
        names = [n for n in self.env if n.startswith(schema.ENV_PREFIX)]
        given: dict[Place, str] = {}
        for name in sorted(names, key=lambda n: (n.count("__"), n)):
            place, hint = self._place_of(name)
            if place in given:
                raise ConfigError(f"{name} and {given[place]} name the same option; remove one")
            given[place] = name
            value: Any = _Loose(self.env[name])
            if schema.struct_in(hint):
                value = self._parse(value, name, place)
                if not isinstance(value, dict):
                    raise ConfigError(
                        f"{name}: {dotted(place)} must be a group of options, "
                        f"such as {{{next(iter(schema.fields(_struct(hint))))}: ...}}; "
                        "or set one option by a longer name"
                    )
            self.origins[place] = name
            _put(tree, place, value)

    def _place_of(self, name: str) -> tuple[Place, Any]:
        place: list[str] = []
        hint: Any = Config
        for part in name.removeprefix(schema.ENV_PREFIX).split("__"):
            struct = schema.struct_in(hint)
            if struct is not None:
                known = schema.fields(struct)
                option = part.lower()
                if option not in known:
                    raise ConfigError(f"{name}: {self._unknown_variable(place, option, known)}")
                place.append(option)
                hint = known[option]
            elif mapping := schema.accepts(hint, dict):
                if not part:
                    raise ConfigError(f"{name}: a name is missing after {dotted(tuple(place))}")
                place.append(part)
                hint = typing.get_args(mapping)[1]
            else:
                raise ConfigError(
                    f"{name}: {dotted(tuple(place))} has no options inside; "
                    f"set {schema.environment_name('.'.join(place))}"
                    + (" to a YAML list" if schema.accepts(hint, list) else "")
                )
        return tuple(place), hint

    def _unknown_variable(self, place: list[str], option: str, known: dict[str, Any]) -> str:
        at = ".".join([*place, option])
        meant = _meant(tuple(place), option, list(known))
        advice = (
            f"did you mean {schema.environment_name(meant)}?"
            if meant
            else f"known here: {', '.join(known)}"
        )
        return f"there is no option {at}; {advice}"

    # ------------------------------------------------ building

    def build(self, value: Any, hint: Any, place: Place) -> Any:
        """`value` as `hint` wants it, bounds checked; structs are made here so that errors know their place."""
        if isinstance(value, _Loose):
            value = self._typed(value, hint, place)
        _, _, optional = schema.parts(hint)
        struct = schema.struct_in(hint)
        if value is None:
            if optional:
                return None
            # `models:` with everything below commented out means "none".
            if struct is not None or schema.accepts(hint, list) or schema.accepts(hint, dict):
                value = [] if schema.accepts(hint, list) else {}
        if struct is not None:
            return self._struct(value, struct, place)
        mapping, sequence = schema.accepts(hint, dict), schema.accepts(hint, list)
        if mapping and isinstance(value, dict):
            inner = typing.get_args(mapping)[1]
            return {k: self.build(v, inner, (*place, k)) for k, v in value.items()}
        if sequence and isinstance(value, list):
            inner = typing.get_args(sequence)[0]
            value = [self.build(v, inner, (*place, i)) for i, v in enumerate(value)]
            if schema.struct_in(inner):
                return value
        return self._leaf(value, hint, place)

    def _typed(self, text: _Loose, hint: Any, place: Place) -> Any:
        if not text and schema.parts(hint)[2]:
            return None
        nested = schema.accepts(hint, dict) or schema.accepts(hint, list)
        if schema.takes_text(hint) and not nested:
            return str(text)
        value = self._parse(str(text), self._origin(place), place)
        if schema.takes_text(hint) and not isinstance(value, (dict, list)):
            return str(text)
        return value

    def _struct(self, value: Any, struct: type[Options], place: Place) -> Options:
        if not isinstance(value, dict):
            raise self._error(
                place,
                f"is {_kind(value)}; must be a group of options, such as {next(iter(schema.fields(struct)))}",
            )
        known = schema.fields(struct)
        given: dict[str, Any] = {}
        for name, inner in value.items():
            if name not in known:
                meant = _meant(place, name, list(known))
                advice = f"did you mean {meant}?" if meant else f"known here: {', '.join(known)}"
                raise self._error((*place, name), f"is not an option; {advice}")
            given[name] = self.build(inner, known[name], (*place, name))
        for option in msgspec.structs.fields(struct):
            if option.required and option.encode_name not in given:
                words = schema.in_words(known[option.encode_name], option.encode_name)
                raise self._error((*place, option.encode_name), f"is missing; must be {words}")
        attributes = {f.encode_name: f.name for f in msgspec.structs.fields(struct)}
        try:
            return struct(**{attributes[name]: inner for name, inner in given.items()})
        except ValueError as error:
            prefix = f"{dotted(place)}: " if place else ""
            raise ConfigError(f"{self._origin(place)}: {prefix}{one_line(str(error))}") from None

    def _leaf(self, value: Any, hint: Any, place: Place) -> Any:
        if isinstance(value, float) and value == value and value not in (_INF, -_INF):
            # 4e6 is a float to YAML, and a whole number to people.
            if schema.accepts(hint, int) and not schema.accepts(hint, float) and value.is_integer():
                value = int(value)
        elif isinstance(value, float):
            raise self._error(place, f"is {value}; must be {self._words(hint, place)}")
        try:
            return msgspec.convert(value, hint, dec_hook=_secret)
        except msgspec.ValidationError:
            message = f"is {_shown(value, hint)}; must be {self._words(hint, place)}"
            raise self._error(place, message + _advice(value, hint)) from None

    def _words(self, hint: Any, place: Place) -> str:
        named = [p for p in place if isinstance(p, str)]
        return schema.in_words(hint, named[-1] if named else "")

    def _error(self, place: Place, message: str) -> ConfigError:
        origin = self._origin(place)
        return ConfigError(f"{origin}: {dotted(place)} {message}")

    def _origin(self, place: Place) -> str:
        for length in range(len(place), 0, -1):
            if origin := self.origins.get(place[:length]):
                return origin
        return str(self.path) if self.path is not None else "configuration"


_INF = float("inf")


def _secret(kind: type, value: Any) -> Any:
    if kind is Secret and isinstance(value, str):
        return Secret(value)
    raise ValueError("not a text")


def _struct(hint: Any) -> type[Options]:
    struct = schema.struct_in(hint)
    assert struct is not None
    return struct


def _put(tree: dict[str, Any], place: Place, value: Any) -> None:
    """Set `value` at `place`; a mapping is merged into what is there."""
    for part in place[:-1]:
        inner = tree.get(part)  # type: ignore[arg-type]
        if not isinstance(inner, dict):
            inner = tree[part] = {}  # type: ignore[index]
        tree = inner
    last = place[-1]
    assert isinstance(last, str)
    if isinstance(value, dict) and isinstance(tree.get(last), dict):
        for name, inner in value.items():
            _put(tree[last], (name,), inner)
    else:
        tree[last] = value


def _meant(place: Place, name: str, known: list[str]) -> str | None:
    """Path of the option that was probably meant: a near name here, or this very name elsewhere."""
    if near := schema.nearest(name, known):
        return ".".join([*(str(p) for p in place), near])
    same = [p for p in schema.option_paths() if p.rpartition(".")[2] == name and "[]" not in p]
    return same[0] if len(same) == 1 else None


def _advice(value: Any, hint: Any) -> str:
    """What to do next, where the mistake is a common one."""
    words = schema.choices(hint)
    if isinstance(value, str):
        if meant := (schema.nearest(value, words) if words else None):
            return f"; did you mean {meant}?"
        if schema.accepts(hint, list):
            return "; write it as [a, b]"
        if schema.accepts(hint, int) or schema.accepts(hint, float):
            return "; write a plain number, without quotes or unit"
        if schema.accepts(hint, bool):
            return "; write it without quotes"
    elif schema.takes_text(hint) and isinstance(value, (int, float)):
        return "; put it in quotes"
    return ""


def _shown(value: Any, hint: Any) -> str:
    if schema.holds_secret(hint):
        return f"*** ({_kind(value)})"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (dict, list)):
        return _kind(value)
    text = str(value).replace("\n", " ")
    if isinstance(value, str):
        is_address = "://" in text or "@" in text
        text = f'"{shown_address(text) if is_address else text}"'
    return text if len(text) <= 80 else f"{text[:77]}..."


def _kind(value: Any) -> str:
    match value:
        case None:
            return "nothing"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "text"
        case list():
            return "a list" if value else "an empty list"
        case dict():
            return "a group"
    return type(value).__name__


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _named_files(group: Options, path: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for option in msgspec.structs.fields(type(group)):
        name = option.encode_name
        at = f"{path}.{name}" if path else name
        value = getattr(group, option.name)
        if isinstance(value, Options):
            found += _named_files(value, at)
        elif name.endswith("_file") and value:
            found.append((at, value))
    return found


def _masked(value: Any, option: str) -> Any:
    """`value` of `option`, addresses masked. Paths of `url`, a webhook's, are its secret more often than not."""
    if isinstance(value, dict):
        return {k: _masked(v, k) for k, v in value.items()}
    if isinstance(value, list):
        return [_masked(v, option) for v in value]
    if isinstance(value, str) and (option in ("url", "urls") or option.endswith("endpoint")):
        return shown_address(value, path=option != "url")
    return shown_address(value) if isinstance(value, str) and "://" in value else value

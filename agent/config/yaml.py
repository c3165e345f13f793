"""YAML as plain data that remembers its lines: the YAML 1.2 core schema, each key once.

`no`, `on` and `12:30` are text, `1e3` is a number; tags beyond the core schema and merge keys are
refused. Keys are always text, as written.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import yaml

from agent.errors import ConfigError

Place = tuple[str | int, ...]
Replace = Callable[[str, int, Place], str]

_MAX_NODES = 100_000  # aliases can grow a small file without end
_TAG = "tag:yaml.org,2002:"


def yaml_tree(
    text: str, source: str, place: Place, replace: Replace | None = None
) -> tuple[Any, dict[Place, int]]:
    """Parse `text`; return its value and the line of every key and item below `place`.

    `replace(text, line, place)` may change each text value. `source` names the text in errors, with
    the line when `replace` is given (a file). Raises ConfigError.
    """
    loader = _Loader(text)
    tree = _Tree(source, replace)
    try:
        node = loader.get_single_node()
        return (None if node is None else tree.value(node, place)), tree.lines
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise ConfigError(
            f"{source}{line}: not YAML: {one_line(error.problem or error.context or '')}"
            "; check indentation and quotes there"
        ) from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: not YAML: {one_line(str(error))}") from None
    except RecursionError:
        raise ConfigError(f"{source}: nested too deeply, or an alias holds itself") from None
    finally:
        loader.dispose()


def dotted(place: Place) -> str:
    """`("models", 0, "name")` -> `models[0].name`."""
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f"{'.' if text else ''}{part}"
    return text or "the file"


def one_line(text: str) -> str:
    return " ".join(text.split())


class _Loader(yaml.SafeLoader):
    """Scalars of the core schema; everything else is text."""


_Loader.yaml_implicit_resolvers = {}
for _name, _pattern, _first in (
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"^(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$", list("-+0123456789")),
    (
        "float",
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
        list("-+.0123456789"),
    ),
):
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(_pattern), _first)


class _Tree:
    def __init__(self, source: str, replace: Replace | None) -> None:
        self.lines: dict[Place, int] = {}
        self._source = source
        self._replace = replace
        self._n_nodes = 0

    def value(self, node: yaml.Node, place: Place) -> Any:
        self._n_nodes += 1
        if self._n_nodes > _MAX_NODES:
            raise ConfigError(f"{self._source}: more than {_MAX_NODES} values; remove aliases")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, place)
        if isinstance(node, yaml.SequenceNode):
            values = []
            for index, item in enumerate(node.value):
                self.lines[(*place, index)] = item.start_mark.line + 1
                values.append(self.value(item, (*place, index)))
            return values
        assert isinstance(node, yaml.ScalarNode)
        value = self._scalar(node, place)
        if self._replace is not None and isinstance(value, str):
            return self._replace(value, node.start_mark.line + 1, place)
        return value

    def _mapping(self, node: yaml.MappingNode, place: Place) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key, item in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise ConfigError(f"{self._at(line)}: a name must be plain text")
            name = str(key.value)
            at = (*place, name)
            if name == "<<":
                raise ConfigError(
                    f"{self._at(line)}: merge keys (<<) are not supported; write the options out"
                )
            if name in values:
                raise ConfigError(
                    f"{self._at(line)}: {dotted(at)} is given twice, "
                    f"first in line {self.lines[at]}; remove one"
                )
            self.lines[at] = line
            values[name] = self.value(item, at)
        return values

    def _scalar(self, node: yaml.ScalarNode, place: Place) -> Any:
        text = str(node.value)
        try:
            match node.tag.removeprefix(_TAG):
                case "null":
                    return None
                case "bool":
                    return {"true": True, "false": False}[text.lower()]
                case "int":
                    return int(text, 0) if text[:2] in ("0x", "0o") else int(text)
                case "float":
                    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
                case "str":
                    return text
        except (ValueError, KeyError):  # a tag written by hand on text that does not fit
            pass
        where = self._at(node.start_mark.line + 1)
        raise ConfigError(f"{where}: {dotted(place)} has the tag {node.tag}; remove it")

    def _at(self, line: int) -> str:
        return self._source if self._replace is None else f"{self._source}:{line}"

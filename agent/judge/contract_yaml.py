"""The contract as YAML that people review and commit, and back."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from agent.config.contract import ContractFile, ModelContract
from agent.config.source import load_group

_HEAD = """\
# Data-quality contract, inferred by `inferometer profile contract` from {origin}.
# Review and commit it, then set judge.contract_file to this file. A rate is broken when more rows break it
# than chance explains (exact bound at 1e-6, at least 20 rows); so small rates are room for chance, not aims.
"""
_PLAIN: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
#: What a reader of YAML 1.1 or 1.2 takes for something else than a text.
_WORDS: Final = frozenset(
    ("true", "false", "null", "yes", "no", "on", "off", "y", "n", "inf", "nan")
)


def to_yaml(contract: ContractFile, origin: str) -> str:
    """The text of a contract file. `origin`: what it was made from."""
    lines = [_HEAD.format(origin=" ".join(origin.split())) + "contract:"]
    for model in contract.contract:
        lines.append(f"  - model: {_text(model.model)}")
        if model.version is not None:
            lines.append(f"    version: {_text(model.version)}")
        lines.append(f"    rows: {_flow(msgspec.to_builtins(model.rows))}")
        for group in ("features", "predictions"):
            rules = getattr(model, group)
            lines += [f"    {group}:"] if rules else []
            for name, rule in rules.items():
                lines.append(f"      {_text(name)}: {_flow(msgspec.to_builtins(rule))}")
        if model.new_features:
            lines.append("    new_features: true")
    return "\n".join(lines) + "\n"


def _text(text: str) -> str:
    """A text as a YAML scalar: plain where no reader can take it for something else."""
    plain = _PLAIN.fullmatch(text) and text.lower() not in _WORDS
    return text if plain else json.dumps(text, ensure_ascii=False)


def _flow(value: Any) -> str:
    """Plain data on one line."""
    match value:
        case dict():
            return "{" + ", ".join(f"{_text(k)}: {_flow(v)}" for k, v in value.items()) + "}"
        case list():
            return "[" + ", ".join(_flow(item) for item in value) + "]"
        case str():
            return _text(value)
        case float():
            return f"{value:.12g}"
    return json.dumps(value)


def read_contract(path: Path, env: Mapping[str, str]) -> list[ModelContract]:
    """Raises ConfigError: file and line, the option, its value, the bound, and what to do."""
    group = load_group(path, env, ContractFile)
    assert isinstance(group, ContractFile)
    return group.contract

"""The references and contracts that a configuration names, read from their files."""

from __future__ import annotations

from pathlib import Path

from agent.config import Config
from agent.config.contract import ModelContract
from agent.config.source import environment
from agent.judge.contract_yaml import read_contract
from agent.judge.reference import Reference, read_reference


def given(
    config: Config, baseline: Path | None = None, contract: Path | None = None
) -> tuple[list[Reference], list[ModelContract]]:
    """References and contracts of the configuration, or those named instead. Raises ConfigError."""
    path = baseline or (Path(config.judge.baseline_file) if config.judge.baseline_file else None)
    references = [] if path is None else [read_reference(path)]
    rules = contract or (Path(config.judge.contract_file) if config.judge.contract_file else None)
    contracts = [] if rules is None else read_contract(rules, environment())
    return references, contracts


def given_by_name(config: Config) -> dict[str, Reference]:
    """References of `baselines` that are files, by name. Raises ConfigError."""
    return {
        name: read_reference(Path(spec.file))
        for name, spec in config.baselines.items()
        if spec.file is not None
    }

"""What a configuration watches, as one document: what `/v1/state` shows, and `inferometer plan --url` compares.

Only what changes verdicts, each part by its name, so that two of them can be told apart part by part.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from agent.config import Config
from agent.types import Json

#: Options of `judge` that are the defaults' own; limits of memory and the like are not.
_RULES: Final = (
    "baseline_file",
    "contract_file",
    "days_per_false_page",
    "allowed_psi",
    "wanted_effect",
    "severity",
    "learn_windows",
    "silence_s",
)


def watching(config: Config) -> Json:
    """Monitors (the defaults among them), baselines and sources, each by name; empty where nothing is judged.

    Values are as the configuration has them: names of files, never what is in them.
    """
    if not config.judge.enabled:
        return {"window_s": config.windows.width_s, "monitors": {}, "baselines": {}, "sources": {}}
    monitors: Json = {}
    if config.judge.defaults:
        monitors["defaults"] = {name: _plain(getattr(config.judge, name)) for name in _RULES}
    for monitor in config.monitors:
        monitors[monitor.name] = _without(_plain(monitor), "name")
    return {
        "window_s": config.windows.width_s,
        "monitors": monitors,
        "baselines": {name: _plain(spec) for name, spec in config.baselines.items()},
        "sources": {source.name: _without(_plain(source), "name") for source in config.sources},
    }


def _plain(value: Any) -> Any:
    return msgspec.to_builtins(value)


def _without(document: Json, name: str) -> Json:
    return {key: value for key, value in document.items() if key != name}

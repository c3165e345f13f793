"""Everything about a configuration that can be judged without starting: used by `check`, and first by `run`.

Talks to no network. Reads the files that are named, because a missing certificate is found at the
first connection otherwise, which is too late for a rollout.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from agent.config import Config
from agent.config_source import check_files, require_topics


def check(config: Config, env: Mapping[str, str]) -> list[Path]:
    """Raise ConfigError for the first mistake; return the files that were read."""
    from agent.decode.fields import FieldMap
    from agent.emit.environment import resolve

    require_topics(config)
    files = check_files(config)
    FieldMap(config.decode.fields)
    if config.kafka.security_protocol != "PLAINTEXT":
        # aiokafka is slow to import: only where there is something to judge.
        from agent.ingest.security import client_security

        client_security(config.kafka)
    otlp = resolve(config.export, env)
    for signal in (otlp.metrics, otlp.traces):
        files += check_files(signal.tls, f"OTLP {signal.signal} tls")
    return sorted(set(files))

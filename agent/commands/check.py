"""Everything about a configuration that can be judged without starting: used by `check`, and first by `run`.

Talks to no network. Reads the files that are named, because a missing certificate is found at the
first connection otherwise, which is too late for a rollout.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from agent.config import Config
from agent.config.source import check_files, require_topics
from agent.emit.environment import SignalSettings, own_endpoint_of, resolve
from agent.errors import ConfigError
from agent.judge.sources import matches

#: What gRPC resolves by itself, besides http and https that say whether TLS is used.
_GRPC_SCHEMES = frozenset(
    ("dns", "unix", "unix-abstract", "vsock", "ipv4", "ipv6", "xds", "http", "https")
)


def check(config: Config, env: Mapping[str, str], source: Path | None = None) -> list[Path]:
    """Raise ConfigError for the first mistake; return the files that were read.

    `source`: the configuration's file, for messages. Values by themselves were judged when it was read.
    """
    require_topics(config, source)
    files = [*check_files(config), *_judge_files(config, env)]
    if config.monitors:
        from agent.commands.check_monitors import check_monitors

        check_monitors(config, source)
    if config.kafka.security_protocol != "PLAINTEXT":
        # aiokafka is slow to import: only where there is something to judge.
        from agent.ingest.security import client_security

        client_security(config.kafka)
    for index, action in enumerate(config.respond.actions):
        files += check_files(action, f"respond.actions[{index}]")
    if config.respond.actions:
        from agent.respond import responder

        responder.check(config.respond, config.kafka)
    if config.judge.enabled and (config.judge.baseline_file or config.judge.contract_file):
        from agent.judging import judge_maker

        judge_maker(config)
    otlp = resolve(config.export, env)
    for signal in (otlp.metrics, otlp.traces, otlp.logs):
        _require_known_scheme(config, env, signal)
        files += check_files(signal.tls, f"OTLP {signal.signal} tls")
    return sorted(set(files))


def warnings(config: Config, env: Mapping[str, str]) -> list[str]:
    """What is allowed but hardly meant, a line each. Raises ConfigError as `check` does."""
    found: list[str] = []
    export = config.export
    otlp = resolve(export, env)
    signals = [otlp.metrics, *([otlp.traces] if config.traces.enabled else []), otlp.logs]
    is_scraped = export.prometheus and config.web.enabled
    if not is_scraped and not export.console and not any(s.enabled for s in signals):
        found.append(
            "nothing is exported; set export.otlp.endpoint, or export.prometheus with web.enabled, "
            "or export.console"
        )
    for signal in signals:
        if not signal.enabled or signal.protocol != "grpc" or not signal.secure:
            continue
        origin, endpoint = _endpoint(config, env, signal)
        if endpoint.lower().startswith("https://"):
            continue
        line = (
            f"{origin} has no scheme http or https, so TLS is used; write https:// to say so, "
            "or http:// (or export.otlp.insecure: true) for none"
        )
        if line not in found:
            found.append(line)
    return found + _judging(config) + _widths(config) + _too_few_rows(config)


def _judge_files(config: Config, env: Mapping[str, str]) -> list[Path]:
    """Read the references and the contract that are named, as a start would."""
    named = {"judge.baseline_file": config.judge.baseline_file}
    named |= {f"baselines.{name}.file": b.file for name, b in config.baselines.items()}
    paths = {at: Path(name) for at, name in named.items() if name}
    if config.judge.enabled and (paths or config.judge.contract_file):
        # Sketches are slow to import: only where there is something to read.
        from agent.judge.contract_yaml import read_contract
        from agent.judge.reference import read_reference

        for at, path in paths.items():
            try:
                read_reference(path)
            except ConfigError as error:
                raise ConfigError(f"{at}: {error}") from None
        if config.judge.contract_file:
            read_contract(Path(config.judge.contract_file), env)
    return list(paths.values())


def _judging(config: Config) -> list[str]:
    """Monitors that cannot see anything."""
    found = []
    if config.monitors and not config.judge.enabled:
        found.append("judge.enabled is false, so monitors watch nothing; remove one of the two")
    if config.monitors:
        from agent.commands.check_monitors import check_monitors

        found += check_monitors(config)
    names = [model.name for model in config.models]
    for index, monitor in enumerate(config.monitors):
        if names and not any(matches(monitor.select.model, name) for name in names):
            found.append(
                f'monitors[{index}] ("{monitor.name}") selects none of the declared models: '
                f"select.model is {monitor.select.model}; declare the model, or correct the pattern"
            )
    return found


def _widths(config: Config) -> list[str]:
    """References of windows of another width."""
    files = [config.judge.baseline_file, *(b.file for b in config.baselines.values())]
    if not config.judge.enabled or not any(files):
        return []
    from agent.judge.reference import read_reference
    from agent.judge.widths import notes

    width_ms = int(config.windows.width_s * 1000)
    return notes([read_reference(Path(file)) for file in files if file], width_ms)


def _too_few_rows(config: Config) -> list[str]:
    """Models that had too few rows in the baseline for windows of this width."""
    if not config.judge.enabled or not config.judge.baseline_file:
        return []
    from agent.judge.few import too_few
    from agent.judge.reference import read_reference

    width_s = config.windows.width_s
    models = [
        (f"{key.model} {key.version}".strip(), whole.profile.rows, seen_s, rows)
        for key, whole in sorted(read_reference(Path(config.judge.baseline_file)).models.items())
        if whole.windows
        for seen_s in ((whole.end_ms - whole.start_ms) / 1000,)
        for rows in (whole.profile.rows * width_s / max(width_s, seen_s),)
    ]
    return too_few(models, width_s)


def _require_known_scheme(config: Config, env: Mapping[str, str], signal: SignalSettings) -> None:
    """ConfigError for an endpoint such as `ftp://c:4317`. Of HTTP `resolve` has judged it."""
    if not signal.enabled or signal.protocol != "grpc":
        return
    origin, endpoint = _endpoint(config, env, signal)
    scheme, separator, _ = endpoint.partition("://")
    if separator and scheme.lower() not in _GRPC_SCHEMES:
        raise ConfigError(
            f"{origin} begins with {scheme[:40]}://; must be http:// or https://, as in http://host:4317"
        )


def _endpoint(config: Config, env: Mapping[str, str], signal: SignalSettings) -> tuple[str, str]:
    """The endpoint as it was written, and the option or variable that it comes from."""
    otlp = config.export.otlp
    own = own_endpoint_of(otlp, signal.signal)
    variable = f"OTEL_EXPORTER_OTLP_{signal.signal.upper()}_ENDPOINT"
    for origin, endpoint in (
        (f"export.otlp.{signal.signal}_endpoint", own),
        ("export.otlp.endpoint", otlp.endpoint),
        (variable, env.get(variable)),
    ):
        if endpoint and endpoint.strip():
            return origin, endpoint.strip()
    name = "OTEL_EXPORTER_OTLP_ENDPOINT"
    return name, env.get(name, "").strip() or "http://"

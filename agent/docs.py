"""Writes the generated pages: `docs/configuration.md` and `docs/inferometer.schema.json` from the option structs,
`docs/metrics.md` and the semantic conventions in `deploy/semconv/` from the registry.

    python -m agent.docs [--check]

`--check` writes nothing and exits with 1 when a page is stale.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import msgspec

from agent.config import Config, schema

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"

_INTRODUCTION = """\
# Configuration

Generated from `agent/config/` by `make docs`; do not edit.

`inferometer run -c inferometer.yaml` reads a YAML file. Ten lines are enough:

```yaml
kafka:
  bootstrap_servers: [kafka:9092]
  topics: [predictions]
  group_id: inferometer
export:
  otlp:
    endpoint: http://collector:4317
web:
  host: 0.0.0.0
```

`inferometer check -c inferometer.yaml` says whether a file is right, and `--show` prints every option with the
value it has. An editor that knows JSON
Schema helps with `docs/inferometer.schema.json` (`# yaml-language-server: $schema=inferometer.schema.json`).
A mistake is one line: the file and line, the option, the value, the bound and what to do.

```
inferometer.yaml:3: kafka.session_timeout_s is 900; must be a number from 1 to 300 (seconds)
inferometer.yaml:2: kafka.bootstrap_server is not an option; did you mean kafka.bootstrap_servers?
```

## Where a value comes from

Later wins:

1. the default, in the tables below;
2. the file. It is read as YAML 1.2 (`no` and `on` are text, `1e3` is a number); a key that stands twice is an error;
3. `${env:NAME}` or `${env:NAME:-default}` inside a value of the file. Without a default the variable must be set;
   the default also stands in for a variable that is set but empty. `$${` is a plain `${`;
4. a variable `INFEROMETER__GROUP__OPTION` (two underscores). An unknown one is an error. Names of your own, such as
   a feature's, are written as they are: `INFEROMETER__FEATURES__dep_hour__KIND=numeric`.

What comes from the environment is text where the option takes text, and is read as YAML everywhere else:
`INFEROMETER__KAFKA__TOPICS='[predictions, scores]'`. An option that may be "not set" is not set when it is empty.

Secrets: write `password: ${env:KAFKA_PASSWORD}`, or better name a file (`password_file`). Secret values never
appear in messages, logs or `check --show`.

`OTEL_EXPORTER_OTLP_*`, `OTEL_METRIC_EXPORT_INTERVAL`, `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` apply where
the option here is not set. `INFEROMETER_KERNEL_CACHE` (one underscore, not an option) is the folder where compiled kernels are kept.
"""


def configuration() -> str:
    """The text of `docs/configuration.md`."""
    lines = [_INTRODUCTION]
    for group in schema.groups():
        if not group.options:
            continue
        title = f"`{group.path}`" if group.path else "At the top"
        lines += [f"## {title}", "", group.description, ""]
        lines += ["| option | type, bound (unit) | default | what | variable |"]
        lines += ["| --- | --- | --- | --- | --- |"]
        lines += [_row(option) for option in group.options]
        lines.append("")
    return "\n".join(lines)


def metrics() -> str:
    """The text of `docs/metrics.md`."""
    from agent.emit.registry import markdown

    return markdown()


def json_schema() -> str:
    """The text of `docs/inferometer.schema.json`, for editors: JSON Schema of a configuration file.

    Where a value may come from the environment, text of that form is allowed too.
    """
    found = msgspec.json.schema(Config, schema_hook=lambda kind: {"type": "string"})
    definitions = {name: _for_editors(body) for name, body in sorted(found["$defs"].items())}
    document = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "inferometer.yaml",
        "$ref": found["$ref"],
        "$defs": definitions,
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _for_editors(body: Any) -> Any:
    """Numbers and booleans may also be `${env:NAME}`; groups may be left empty, as in `kafka:`."""
    if isinstance(body, list):
        return [_for_editors(item) for item in body]
    if not isinstance(body, dict):
        return body
    found = {key: _for_editors(value) for key, value in body.items() if key != "properties"}
    if "properties" in body:
        found["properties"] = {k: _for_editors(v) for k, v in body["properties"].items()}
    if found.get("type") in ("number", "integer", "boolean"):
        kept = {k: found.pop(k) for k in ("description", "default") if k in found}
        return kept | {"anyOf": [found, {"type": "string", "pattern": r"\$\{env:"}]}
    return found


def pages() -> dict[str, str]:
    """Text of every generated file, by its path below the root."""
    from agent.emit import semconv

    return {
        "docs/configuration.md": configuration(),
        "docs/metrics.md": metrics(),
        "docs/inferometer.schema.json": json_schema(),
    } | {f"deploy/semconv/{name}": text for name, text in semconv.files().items()}


def stale() -> dict[str, str]:
    """Pages that are not what the code says: the text that they should have."""
    return {
        name: text
        for name, text in pages().items()
        if not (ROOT / name).is_file() or (ROOT / name).read_text() != text
    }


def main(arguments: list[str]) -> int:
    if arguments == ["--check"]:
        found = stale()
        for name in found:
            print(f"{name} is stale; run make docs", file=sys.stderr)
        return 1 if found else 0
    if arguments:
        print("usage: python -m agent.docs [--check]", file=sys.stderr)
        return 2
    for name, text in stale().items():
        (ROOT / name).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / name).write_text(text)
        print(f"wrote {name}", file=sys.stderr)
    return 0


def _row(option: schema.Option) -> str:
    name = option.path.rpartition(".")[2]
    variable = f"`{option.environment}`" if option.environment else ""
    cells = [f"`{name}`", _cell(option.type), _default(option), _cell(option.description), variable]
    return f"| {' | '.join(cells)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _default(option: schema.Option) -> str:
    text = option.default
    if text in ("required", "not set"):
        return text
    if option.unit == "bytes" and text.isdigit() and int(text) >= 1 << 20:
        return f"`{text}` ({int(text) / (1 << 20):.4g} MiB)"
    return f"`{_cell(text) or ' '}`"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

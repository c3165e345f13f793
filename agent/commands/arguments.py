"""What may be written on the command line, and what `--help` teaches about it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NoReturn

from agent import __version__

_DESCRIPTION = """\
Reads the inference events that model servers publish to Kafka, keeps fixed-memory
sketches of every model, version, segment, feature and prediction, and speaks
OpenTelemetry: metrics, traces and, for Prometheus, a scrape page.
"""

_EXAMPLES = """\
a first look, without Kafka:
  inferometer demo                          a real model, a real stream, a break to be caught
  inferometer replay events.jsonl           sketches of a file: JSONL (.gz, .zst), CSV, Parquet

on your own topic:
  inferometer check -c inferometer.yaml     is the configuration right?
  inferometer plan -c inferometer.yaml      how many series, how much memory?
  inferometer run -c inferometer.yaml       consume until SIGTERM

the smallest inferometer.yaml:
  kafka:
    bootstrap_servers: [localhost:9092]
    topics: [predictions]
  export:
    otlp:
      endpoint: http://localhost:4317

Any option may come from the environment: INFEROMETER__KAFKA__TOPICS='[predictions]'.
docs/configuration.md lists all of them.
"""
_RUN = """\
example:
  inferometer run -c inferometer.yaml

SIGTERM and Ctrl-C drain in order: stop fetching, export what is folded, commit, leave the group.
A second signal exits at once. Pages: /livez, /readyz, /metrics and /v1/state on web.port.
"""
_AGGREGATE = """\
example:
  inferometer aggregate -c inferometer.yaml --shard 0

Takes its agents' configuration (delivery.mode: fleet), and keeps what it folds in aggregate.volume_path. Run
one for each shard, 0 to delivery.shards - 1. SIGTERM and Ctrl-C drain in order. Pages as those of `run`.
"""
_CHECK = """\
examples:
  inferometer check -c inferometer.yaml
  inferometer check -c inferometer.yaml --show      all options with their values, secrets masked
  INFEROMETER__KAFKA__TOPICS='[predictions]' inferometer check

Also opens the files that the configuration names. Talks to no broker.
"""
_PLAN = """\
examples:
  inferometer plan -c inferometer.yaml                       from the declared models
  inferometer plan -c inferometer.yaml --sample day.jsonl    from what the sample really holds
  inferometer plan -c new.yaml --url http://127.0.0.1:9464   and what would change in a running agent
"""
_REPLAY = """\
examples:
  inferometer replay monday.jsonl.zst tuesday.jsonl.zst
  inferometer replay scores.parquet --model churn --json | jq '.streams[].features'

The same decode, window and sketch code as `run`. By name, .csv, .tsv and .parquet are tables; everything
else is JSON, one event a line, or a .json file with an array of events. JSON, CSV and TSV may be packed
with gzip or zstd. A file that cannot be read to its end is an error: nothing is printed on stdout then.
"""
_PROFILE = """\
examples:
  inferometer profile build january.jsonl -o ref.profile
  inferometer profile build scores.parquet --model churn -o ref.profile
  inferometer profile show ref.profile
  inferometer profile diff ref.profile february.profile
  inferometer profile contract ref.profile > contract.yaml

A reference holds sketches, never rows: the distributions, the volume and worst windows, and the calibration
of the change detector. Files are read as `replay` reads them, twice. Without times in the rows, or out of
their order, windows are blocks of rows in the order of the files.
"""
_BACKTEST = """\
examples:
  inferometer backtest --baseline ref.profile february.jsonl
  inferometer backtest -c inferometer.yaml --fail-on firing january.jsonl february.jsonl
  inferometer backtest --baseline ref.profile february.jsonl --html timeline.html

Without a baseline, models learn from their first windows. Without monitors, defaults watch quality, drift,
volume and freshness of every model. Exit status 1 with --fail-on when an alarm gets that far.
"""
_INVENTORY = """\
examples:
  inferometer inventory --url http://127.0.0.1:9464
  inferometer inventory -c inferometer.yaml monday.jsonl
"""
_WARMUP = """\
example:
  INFEROMETER_KERNEL_CACHE=/var/cache/inferometer inferometer warmup

`run` warms up by itself; a container image does it once, when it is built. NUMBA_CPU_NAME and
NUMBA_CPU_FEATURES fix the CPU that the kernels are made for, which need not be this one. Exit status 1 when
they cannot be compiled or kept.
"""
_DEMO = """\
examples:
  inferometer demo
  inferometer demo --headless --duration 60 --json
  inferometer demo --otlp http://localhost:4317
"""
_HEALTH = """\
examples:
  inferometer health -c inferometer.yaml
  inferometer health --ready --url http://127.0.0.1:9464

Exit status 0 when the answer is yes. For images without curl; Kubernetes can ask the pages itself.
"""


class _Parser(argparse.ArgumentParser):
    """Usage errors are one line, like every other error."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        options.setdefault("allow_abbrev", False)
        super().__init__(**options)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def parser() -> argparse.ArgumentParser:
    """Of all commands: `command` of what it returns is the name of one."""
    whole = _Parser(prog="inferometer", description=_DESCRIPTION, epilog=_EXAMPLES)
    whole.add_argument("--version", action="version", version=f"inferometer {__version__}")
    commands = whole.add_subparsers(metavar="COMMAND", required=True, title="commands")

    def add(name: str, help: str, text: str) -> _Parser:
        command: _Parser = commands.add_parser(name, help=help, description=help, epilog=text)
        command.set_defaults(command=name)
        _add_config(command)
        return command

    add("run", "Consume, sketch and export until SIGTERM.", _RUN)
    check = add("check", "Validate a configuration without starting anything.", _CHECK)
    check.add_argument("--show", action="store_true", help="print the effective configuration")
    _add_json(check)
    plan = add("plan", "Print the series and bytes that a configuration can produce.", _PLAN)
    plan.add_argument("--sample", type=Path, metavar="FILE", help="count exactly, from real events")
    plan.add_argument(
        "--url", help="what would change in a running agent, as http://127.0.0.1:9464"
    )
    _add_json(plan)
    _add_replay(add("replay", "Sketch files instead of a topic.", _REPLAY))
    _add_profile(commands)
    _add_backtest(add("backtest", "What monitors would have said of recorded events.", _BACKTEST))
    inventory = add("inventory", "Every model seen, declared or not.", _INVENTORY)
    inventory.add_argument("files", nargs="*", type=Path, metavar="FILE", help="recorded events")
    inventory.add_argument("--url", help="a running agent instead, such as http://127.0.0.1:9464")
    inventory.add_argument("--model", metavar="NAME", help="model of events that name none")
    inventory.add_argument("-q", "--quiet", action="store_true", help="no progress bar on stderr")
    _add_json(inventory)
    warmup = add("warmup", "Compile all kernels into their cache.", _WARMUP)
    warmup.add_argument("-q", "--quiet", action="store_true", help="no progress on stderr")
    _add_json(warmup)
    _add_demo(add("demo", "A whole pipeline on this machine, with real data.", _DEMO))
    _add_aggregate(add("aggregate", "Fold what a fleet of agents wrote, one shard.", _AGGREGATE))
    health = add("health", "Ask a running agent whether it lives.", _HEALTH)
    health.add_argument("--ready", action="store_true", help="ask for readiness instead")
    health.add_argument("--url", help="address of the agent; default: from the configuration")
    return whole


def _add_config(parser: _Parser) -> None:
    parser.add_argument(
        "-c",
        "--config",
        type=Path,
        metavar="FILE",
        help="YAML configuration; without it, defaults and INFEROMETER__... variables",
    )


def _add_profile(commands: Any) -> None:
    """`profile`, whose subcommands take the same options as commands do."""
    help = "References: the known good that windows are judged against."
    profile: _Parser = commands.add_parser("profile", help=help, description=help, epilog=_PROFILE)
    parts = profile.add_subparsers(metavar="WHAT", required=True, title="what")

    def add(name: str, help: str) -> _Parser:
        part: _Parser = parts.add_parser(name, help=help, description=help)
        part.set_defaults(command="profile", what=name)
        _add_config(part)
        _add_json(part)
        return part

    build = add("build", "Sketch files into a reference.")
    build.add_argument("files", nargs="+", type=Path, metavar="FILE", help="events, oldest first")
    _add_output(build)
    build.add_argument("--model", metavar="NAME", help="model of events that name none")
    build.add_argument(
        "--window", type=float, metavar="S", help="window, seconds (windows.width_s)"
    )
    build.add_argument("--rows", type=_count, metavar="N", help="windows of N rows instead of time")
    build.add_argument("-q", "--quiet", action="store_true", help="nothing on stderr")
    show = add("show", "Print a reference: columns, small histograms, windows.")
    show.add_argument("file", type=Path, metavar="FILE")
    merge = add("merge", "Several references as one.")
    merge.add_argument("files", nargs="+", type=Path, metavar="FILE")
    _add_output(merge)
    diff = add("diff", "Distances of one reference from another, with their bounds.")
    diff.add_argument("baseline", type=Path, metavar="BASELINE")
    diff.add_argument("compared", type=Path, metavar="FILE")
    contract = add("contract", "The data-quality contract that a reference implies, as YAML.")
    contract.add_argument("file", type=Path, metavar="FILE")


def _add_backtest(parser: _Parser) -> None:
    parser.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help="events, oldest first; - is stdin"
    )
    parser.add_argument("--baseline", type=Path, metavar="FILE", help="of `profile build`")
    parser.add_argument("--contract", type=Path, metavar="FILE", help="of `profile contract`")
    parser.add_argument("--model", metavar="NAME", help="model of events that name none")
    parser.add_argument("--window", type=float, metavar="S", help="seconds (windows.width_s)")
    parser.add_argument("--rows", type=_count, metavar="N", help="windows of N rows, not of time")
    parser.add_argument(
        "--learn-budget",
        type=_days,
        metavar="DAYS",
        help="bounds of monitors that files like these would pass once in so many days",
    )
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write the timeline, a page")
    parser.add_argument("--png", type=Path, metavar="FILE", help="also as a picture (matplotlib)")
    parser.add_argument(
        "--fail-on", choices=("firing", "pending"), help="exit with 1 when an alarm gets there"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar on stderr")
    _add_json(parser)


def _add_output(parser: _Parser) -> None:
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="FILE", help="written")


def _count(text: str) -> int:
    """A number of rows: at least 20, which any rule asks for."""
    if not text.isascii() or not text.isdigit() or not 20 <= int(text) <= 1_000_000_000:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 20 to 1,000,000,000")
    return int(text)


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--json", action="store_true", help="print one JSON document on stdout, and nothing else"
    )


def _add_aggregate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--shard", type=int, metavar="N", help="instead of aggregate.shard: which one, from 0"
    )


def _add_replay(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help="events, oldest first; - is stdin"
    )
    parser.add_argument("--model", metavar="NAME", help="model of events that name none")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar on stderr")
    _add_json(parser)


def _add_demo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--headless", action="store_true", help="no live view; a report at the end")
    parser.add_argument("--duration", type=_seconds, metavar="S", help="seconds to run")
    parser.add_argument("--rate", type=_rate, metavar="N", help="events a second")
    parser.add_argument("--seed", type=int, metavar="N", help="seed of all random choices")
    parser.add_argument("--otlp", metavar="ENDPOINT", help="also export there")
    parser.add_argument("--kafka", metavar="BOOTSTRAP", help="use this broker, not the embedded")
    _add_json(parser)


def _seconds(text: str) -> float:
    return _within(text, 86_400, "seconds")


def _rate(text: str) -> float:
    return _within(text, 1_000_000, "events a second")


def _days(text: str) -> float:
    return _within(text, 3650, "days")


def _within(text: str, most: int, unit: str) -> float:
    """The number, from 1 to `most`."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 1 <= value <= most:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 1 to {most} ({unit})")
    return value

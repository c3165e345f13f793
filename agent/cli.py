"""Every command. Documents and tables go to stdout, everything else to stderr.

Exit status: 0 done, 1 failed at run time, 2 wrong usage or configuration (one line says what),
130 interrupted. Parts are imported by the command that needs them, so `--help` and `check` are quick.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from agent import __version__
from agent.errors import ConfigError, InferometerError

if TYPE_CHECKING:
    from agent.config import Config

INTERRUPTED = 130

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


class _Parser(argparse.ArgumentParser):
    """Usage errors are one line, like every other error."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        options.setdefault("allow_abbrev", False)
        super().__init__(**options)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status. As the program itself, it loads kernels from files."""
    try:
        if arguments is None:
            from agent.compiled import mode

            mode.use_files()
            # Before numpy is loaded. Products of matrices are small here, and BLAS threads spin between them.
            os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        options = _parser().parse_args(arguments)
        command: Callable[[argparse.Namespace], int] = options.command
        status = command(options)
        sys.stdout.flush()
        return status
    except InferometerError as error:
        print(f"inferometer: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of stdout has gone (`| head`): nothing more can be said there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


# ---------------------------------------------------------------- arguments


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="inferometer", description=_DESCRIPTION, epilog=_EXAMPLES)
    parser.add_argument("--version", action="version", version=f"inferometer {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, title="commands")

    def add(name: str, run: Callable[[argparse.Namespace], int], help: str, text: str) -> _Parser:
        command: _Parser = commands.add_parser(name, help=help, description=help, epilog=text)
        command.set_defaults(command=run)
        _add_config(command)
        return command

    add("run", _run, "Consume, sketch and export until SIGTERM.", _RUN)
    check = add("check", _check, "Validate a configuration without starting anything.", _CHECK)
    check.add_argument("--show", action="store_true", help="print the effective configuration")
    _add_json(check)
    plan = add("plan", _plan, "Print the series and bytes that a configuration can produce.", _PLAN)
    plan.add_argument("--sample", type=Path, metavar="FILE", help="count exactly, from real events")
    plan.add_argument(
        "--url", help="what would change in a running agent, as http://127.0.0.1:9464"
    )
    _add_json(plan)
    _add_replay(add("replay", _replay, "Sketch files instead of a topic.", _REPLAY))
    _add_profile(commands)
    _add_backtest(
        add("backtest", _backtest, "What monitors would have said of recorded events.", _BACKTEST)
    )
    inventory = add("inventory", _inventory, "Every model seen, declared or not.", _INVENTORY)
    inventory.add_argument("files", nargs="*", type=Path, metavar="FILE", help="recorded events")
    inventory.add_argument("--url", help="a running agent instead, such as http://127.0.0.1:9464")
    inventory.add_argument("--model", metavar="NAME", help="model of events that name none")
    inventory.add_argument("-q", "--quiet", action="store_true", help="no progress bar on stderr")
    _add_json(inventory)
    warmup = add("warmup", _warmup, "Compile all kernels into their cache.", _WARMUP)
    warmup.add_argument("-q", "--quiet", action="store_true", help="no progress on stderr")
    _add_json(warmup)
    _add_demo(add("demo", _demo, "A whole pipeline on this machine, with real data.", _DEMO))
    _add_aggregate(
        add("aggregate", _aggregate, "Fold what a fleet of agents wrote, one shard.", _AGGREGATE)
    )
    health = add("health", _health, "Ask a running agent whether it lives.", _HEALTH)
    health.add_argument("--ready", action="store_true", help="ask for readiness instead")
    health.add_argument("--url", help="address of the agent; default: from the configuration")
    return parser


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
        part.set_defaults(command=_profile, what=name)
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


# ---------------------------------------------------------------- commands


def _run(options: argparse.Namespace) -> int:
    # Until the pipeline takes the signal over: as the first process of a container it would be ignored.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    from agent.check import check, warnings
    from agent.config.source import environment

    config = _config(options)
    check(config, environment(), options.config)
    _logs(config)
    for warning in warnings(config, environment()):
        logging.getLogger(__name__).warning("%s", warning)
    from agent import pipeline

    return pipeline.run(config, environment())


def _aggregate(options: argparse.Namespace) -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # as in `_run`
    from agent.check import check, warnings
    from agent.config.source import environment

    variables = environment()
    if options.shard is not None:
        variables["INFEROMETER__AGGREGATE__SHARD"] = str(options.shard)
    config = _config(options, variables)
    check(config, environment(), options.config)
    _logs(config)
    for warning in warnings(config, environment()):
        logging.getLogger(__name__).warning("%s", warning)
    from agent.aggregate import run

    run.check(config)
    return run.run(config, environment())


def _check(options: argparse.Namespace) -> int:
    from agent.check import check, warnings
    from agent.config.source import environment, masked, masked_yaml

    try:
        config = _config(options)
        files = check(config, environment(), options.config)
        warned = warnings(config, environment())
    except ConfigError as error:
        if options.json:
            _print_json({"ok": False, "error": str(error)})
        raise
    name = str(options.config) if options.config else "the environment's configuration"
    for warning in warned:
        print(f"inferometer: warning: {warning}", file=sys.stderr)
    if options.json:
        document: dict[str, Any] = {
            "ok": True,
            "files": [str(f) for f in files],
            "warnings": warned,
        }
        _print_json(document | ({"config": masked(config)} if options.show else {}))
    elif options.show:
        print(masked_yaml(config), end="")
    else:
        print(f"{name} is valid", file=sys.stderr)
    return 0


def _plan(options: argparse.Namespace) -> int:
    from agent import plan

    config = _config(options)
    result = plan.predict(config, sample=options.sample)
    document, table = plan.as_json(result), plan.as_table(result)
    if options.url:
        from agent import plan_diff

        found = plan_diff.against(config, result, options.url)
        document["running"] = plan_diff.as_json(found)
        table += plan_diff.as_text(found)
    if options.json:
        _print_json(document)
    else:
        print(table, end="")
    return 0


def _replay(options: argparse.Namespace) -> int:
    config = _config(options)
    _logs(config)
    from agent import replay

    return replay.run(
        options.files,
        config,
        json=options.json,
        quiet=options.quiet,
        model=options.model,
    )


def _profile(options: argparse.Namespace) -> int:
    config = _config(options)
    _logs(config)
    from agent import profile_command

    command: Callable[[argparse.Namespace, Config], int] = getattr(profile_command, options.what)
    return command(options, config)


def _backtest(options: argparse.Namespace) -> int:
    config = _config(options)
    _logs(config)
    from agent.backtest_command import backtest

    return backtest(options, config)


def _inventory(options: argparse.Namespace) -> int:
    config = _config(options)
    _logs(config)
    from agent.inventory_command import inventory

    return inventory(options, config)


def _warmup(options: argparse.Namespace) -> int:
    import time

    _config(options)
    began = time.monotonic()
    tty = sys.stderr.isatty()

    def progress(name: str, done: int, total: int) -> None:
        if not options.quiet and tty:
            print(f"\r\x1b[Kcompiling {done + 1}/{total} {name}", end="", file=sys.stderr)

    from agent.sketch.kernels.warm import fill_cache, kernel_store

    took, unkept = fill_cache(progress)
    elapsed = time.monotonic() - began
    folder = None if unkept else kernel_store().folder
    if not options.quiet:
        end = "\r\x1b[K" if tty else ""
        where = f" in {folder}" if folder else ", and not kept"
        print(f"{end}{len(took)} kernels ready after {elapsed:.1f} s{where}", file=sys.stderr)
    if options.json:
        _print_json(
            {"kernels": took, "seconds": elapsed, "folder": str(folder) if folder else None}
        )
    if unkept:
        raise InferometerError(f"kernels are compiled but not kept: {unkept}")
    return 0


def _demo(options: argparse.Namespace) -> int:
    from agent.demo import main as demo

    return demo.run(
        config=_config(options) if options.config else None,
        headless=options.headless or options.json,
        duration_s=options.duration,
        rate=options.rate,
        seed=options.seed,
        otlp=options.otlp,
        kafka=options.kafka,
        json=options.json,
    )


def _health(options: argparse.Namespace) -> int:
    from agent.web.health import ask

    base, tls = options.url, None
    if base is None:
        from agent.web.health import local_url

        web = _config(options).web
        if not web.enabled or web.port == 0:
            raise ConfigError(
                "web.enabled is false or web.port is 0: there is no known page to ask; give --url"
            )
        tls = web.tls
        base = local_url(web.host, web.port, secure=tls is not None)
    healthy, answer = ask(base, "/readyz" if options.ready else "/livez", tls)
    print(answer, file=sys.stderr)
    return 0 if healthy else 1


# ---------------------------------------------------------------- shared by commands


def _config(options: argparse.Namespace, variables: Mapping[str, str] | None = None) -> Config:
    from agent.config.source import environment, load_config

    return load_config(options.config, environment() if variables is None else variables)


def _logs(config: Config) -> None:
    from agent import logs

    logs.set_up(config.log)


def _print_json(document: dict[str, Any]) -> None:
    import orjson

    sys.stdout.buffer.write(orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE))

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
from typing import TYPE_CHECKING, Any

from agent.commands.arguments import parser
from agent.errors import ConfigError, InferometerError

if TYPE_CHECKING:
    from agent.config import Config

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status. As the program itself, it loads kernels from files."""
    try:
        if arguments is None:
            from agent.compiled import mode

            mode.use_files()
            # Before numpy is loaded. Products of matrices are small here, and BLAS threads spin between them.
            os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        options = parser().parse_args(arguments)
        status = _COMMANDS[options.command](options)
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


# ---------------------------------------------------------------- commands


def _run(options: argparse.Namespace) -> int:
    # Until the pipeline takes the signal over: as the first process of a container it would be ignored.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    from agent.commands.check import check, warnings
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
    from agent.commands.check import check, warnings
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
    from agent.commands.check import check, warnings
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
    from agent.commands import plan

    config = _config(options)
    if config.monitors:
        from agent.commands.check_monitors import require_bounds

        require_bounds(config.monitors, options.config)
    result = plan.predict(config, sample=options.sample)
    document, table = plan.as_json(result), plan.as_table(result)
    if options.url:
        from agent.commands import plan_diff

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
    from agent.commands import profile

    command: Callable[[argparse.Namespace, Config], int] = getattr(profile, options.what)
    return command(options, config)


def _backtest(options: argparse.Namespace) -> int:
    config = _config(options)
    _logs(config)
    from agent.commands.backtest import backtest

    return backtest(options, config)


def _inventory(options: argparse.Namespace) -> int:
    config = _config(options)
    _logs(config)
    from agent.commands.inventory import inventory

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


_COMMANDS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "run": _run,
    "check": _check,
    "plan": _plan,
    "replay": _replay,
    "profile": _profile,
    "backtest": _backtest,
    "inventory": _inventory,
    "warmup": _warmup,
    "demo": _demo,
    "aggregate": _aggregate,
    "health": _health,
}


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

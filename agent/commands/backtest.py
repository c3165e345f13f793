"""`inferometer backtest`: what monitors would have said of recorded events."""

from __future__ import annotations

import argparse
import sys

import msgspec

from agent.commands.profile import adapted, named, require_folder, write_json, write_lines
from agent.config import Config
from agent.errors import ConfigError
from agent.judge.given import given, given_by_name


def backtest(options: argparse.Namespace, config: Config) -> int:
    """Judge files; returns the exit status."""
    from agent.backtest import html, learn, png, run, text
    from agent.judge.explanation import how_many
    from agent.replay import progress_bar
    from agent.verdict import State

    if options.window is not None and options.rows is not None:
        raise ConfigError("--window and --rows are both given; windows have one of them")
    for output in (options.html, options.png):
        if output is not None:
            require_folder(output)
    if options.png is not None:
        png.require()
    config = named(adapted(config, options.window, options.model))
    references, contracts = given(config, options.baseline, options.contract)
    if config.monitors:
        _check_monitors(config, options)
    with progress_bar(quiet=options.quiet or not sys.stderr.isatty()) as show:
        timeline = run.run(
            options.files,
            config,
            references,
            contracts,
            named=given_by_name(config),
            rows_per_window=options.rows,
            on_progress=show,
        )
    for note in timeline.notes:
        print(f"inferometer: note: {note}", file=sys.stderr)
    if options.html is not None:
        options.html.write_text(html.page(timeline))
    if options.png is not None:
        png.write(timeline, options.png)
    learned = []
    if options.learn_budget is not None:
        learned = timeline.learning.bounds(options.learn_budget, timeline.width_ms / 1000)
    if options.json:
        document = run.document(timeline)
        if options.learn_budget is not None:
            document["learned"] = learn.learned_json(learned)
        write_json(document)
    else:
        write_lines(text.lines(timeline))
        if options.learn_budget is not None:
            write_lines(["", *learn.learned_lines(learned, options.learn_budget)])
    failing = {"firing": {State.FIRING}, "pending": {State.FIRING, State.PENDING}}
    states = failing.get(options.fail_on or "", set())
    broken = [alarm for alarm in timeline.alarms if any(v.state in states for v in alarm)]
    if broken:
        first = text.worst(broken[0])
        print(
            f"inferometer: --fail-on {options.fail_on}: {how_many(len(broken), 'alarm')}, the first: {first.why}",
            file=sys.stderr,
        )
    return 1 if broken else 0


def _check_monitors(config: Config, options: argparse.Namespace) -> None:
    """Refuse what `check` refuses of the configuration with the baseline of the command line."""
    from agent.commands.check_monitors import check_monitors

    if options.baseline is not None:
        judge = msgspec.structs.replace(config.judge, baseline_file=str(options.baseline))
        config = msgspec.structs.replace(config, judge=judge)
    check_monitors(config, options.config, knows_all=False)

"""`inferometer inventory`: every model seen on the stream, declared or not."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import Any

from agent.config import Config
from agent.errors import ConfigError

_MOST_NAMES = 8


def inventory(options: argparse.Namespace, config: Config) -> int:
    """From files, or from a running agent; returns the exit status."""
    from agent.commands.profile import adapted, write_json, write_lines

    if bool(options.files) == bool(options.url):
        raise ConfigError("inventory needs files, or --url of a running agent; give one of them")
    if options.url:
        document = _of_agent(options.url)
    else:
        document = _of_files(options, adapted(config, None, options.model))
    if options.json:
        write_json(document)
    else:
        write_lines(lines(document))
    return 0


def _of_files(options: argparse.Namespace, config: Config) -> Any:
    from agent.judge.inventory import Inventory
    from agent.judge.read import read_json, read_notes
    from agent.replay import progress_bar, sketch_files

    found = Inventory(config)
    with progress_bar(quiet=options.quiet or not sys.stderr.isatty()) as show:
        fold = sketch_files(
            options.files,
            config,
            on_progress=show,
            on_effects=lambda effects: found.sealed(effects.sealed, 0),
        )
    for note in read_notes(fold.tally):
        print(f"inferometer: note: {note}", file=sys.stderr)
    return found.document() | read_json(fold.tally)


def _of_agent(url: str) -> Any:
    """What the agent at this address has seen. Raises ConfigError for what is no address, SourceError for no answer."""
    from agent.running import judging_of, state_of

    return judging_of(url, state_of(url))["inventory"]


def lines(document: Any) -> Iterator[str]:
    """A table for people."""
    from agent.backtest.text import when
    from agent.judge.profile_text import table

    declares = any(model["declared"] for model in document["models"])
    head = ["model", "version", "rows", "rows/s", "windows", "first seen", "last seen"]
    head += ["topics", "features"]
    rows = [head]
    for model in document["models"]:
        name = model["model"]
        if declares and not model["declared"]:
            name += " (not declared)"
        if not model["versions"]:
            rows.append([name, "never seen", "", "", "", "", "", "", ""])
        for version in model["versions"]:
            names = list(version["features"])
            shown = ", ".join(names[:_MOST_NAMES])
            if len(names) > _MOST_NAMES:
                shown += f", ... ({len(names):,})"
            rows.append(
                [
                    name,
                    version["version"] or "-",
                    f"{version['rows']:,}",
                    f"{version['rows_per_s']:,.1f}",
                    f"{version['windows']:,}",
                    when(version["first_seen_ms"]),
                    when(version["last_seen_ms"]),
                    ", ".join(map(_topic, version.get("topics", ()))) or "-",
                    shown,
                ]
            )
    yield from table(rows, left=(0, 1, 5, 6, 7, 8))
    if document["unlisted"]:
        yield f"  ... and {document['unlisted']:,} more windows of models past the limit"


def _topic(place: Any) -> str:
    """A topic with the partitions that are known: `predictions[0-3,7]`."""
    runs: list[list[int]] = []
    for number in place["partitions"]:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    spans = [f"{run[0]}" if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]
    return f"{place['topic']}[{','.join(spans)}]" if spans else str(place["topic"])

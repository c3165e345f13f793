"""`inferometer profile build|show|merge|diff|contract`: references, the known good that windows are judged against."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from agent.config import Config
from agent.errors import ConfigError


def build(options: argparse.Namespace, config: Config) -> int:
    """Sketch files into a reference."""
    from agent.judge.read import read_json
    from agent.judge.reference import write_reference
    from agent.judge.reference_build import build as build_reference
    from agent.replay import progress_bar

    if options.window is not None and options.rows is not None:
        raise ConfigError("--window and --rows are both given; windows have one of them")
    config = adapted(config, options.window, options.model)
    require_folder(options.output)
    began = time.monotonic()
    with progress_bar(quiet=options.quiet or not sys.stderr.isatty()) as show:
        built = build_reference(
            options.files,
            config,
            created_ms=time.time_ns() // 1_000_000,
            rows_per_window=options.rows,
            on_progress=show,
        )
    size = write_reference(built.reference, options.output)
    rows = sum(whole.profile.rows for whole in built.reference.models.values())
    for note in built.notes:
        print(f"inferometer: note: {note}", file=sys.stderr)
    if not options.quiet:
        took = time.monotonic() - began
        print(
            f"{options.output}: reference {built.reference.id} of {rows:,} rows, "
            f"{len(built.reference.models):,} models, {size / 1024:,.0f} KiB, {took:.1f} s",
            file=sys.stderr,
        )
    if options.json:
        document = reference_document(built.reference, config)
        write_json(document | read_json(built.read) | {"notes": built.notes})
    return 0


def show(options: argparse.Namespace, config: Config) -> int:
    """Print a reference."""
    from agent.judge.profile_text import reference_lines
    from agent.judge.reference import read_reference

    reference = read_reference(options.file)
    if options.json:
        write_json(reference_document(reference, config))
    else:
        write_lines(reference_lines(reference, _shown(config)))
    return 0


def merge(options: argparse.Namespace, config: Config) -> int:
    """Several references as one."""
    from agent.judge.reference import read_reference, write_reference
    from agent.judge.reference_merge import merged

    references = [read_reference(path) for path in options.files]
    if len({reference.id for reference in references}) < len(references):
        raise ConfigError("a reference is given twice; its rows would be counted twice")
    found = merged(references, created_ms=time.time_ns() // 1_000_000)
    size = write_reference(found, options.output)
    print(f"{options.output}: reference {found.id}, {size / 1024:,.0f} KiB", file=sys.stderr)
    if options.json:
        write_json(reference_document(found, config))
    return 0


def diff(options: argparse.Namespace, config: Config) -> int:
    """How far a reference is from another."""
    from agent.judge.profile_text import difference_json, difference_lines
    from agent.judge.reference import read_reference

    del config
    before, after = read_reference(options.baseline), read_reference(options.compared)
    if options.json:
        write_json(difference_json(before, after))
    else:
        write_lines(difference_lines(before, after))
    return 0


def contract(options: argparse.Namespace, config: Config) -> int:
    """The data-quality contract that a reference implies, as YAML."""
    from agent.judge.contract_infer import infer
    from agent.judge.contract_yaml import to_yaml
    from agent.judge.reference import read_reference

    del config
    reference = read_reference(options.file)
    inferred = infer(reference)
    if options.json:
        write_json(msgspec.to_builtins(inferred))
    else:
        sys.stdout.write(to_yaml(inferred, f"{options.file} ({reference.id})"))
    return 0


# ---------------------------------------------------------------- shared


def adapted(config: Config, window_s: float | None, model: str | None) -> Config:
    """The configuration with the window's width and the default model of the command line."""
    if window_s is not None:
        if window_s != int(window_s) or not 1 <= window_s <= 86_400:
            raise ConfigError(
                f"--window is {window_s:g}; must be a whole number from 1 to 86,400 (seconds)"
            )
        windows = msgspec.structs.replace(config.windows, width_s=window_s)
        config = msgspec.structs.replace(config, windows=windows)
    if model is not None:
        decode = msgspec.structs.replace(config.decode, default_model=model)
        config = msgspec.structs.replace(config, decode=decode)
    return config


def named(config: Config) -> Config:
    """Texts by their names: who can run this can read the files. What is configured stays."""
    if config.privacy.values is not None:
        return config
    privacy = msgspec.structs.replace(config.privacy, values="names")
    return msgspec.structs.replace(config, privacy=privacy)


def reference_document(reference: Any, config: Config) -> Any:
    """The JSON document of a reference."""
    from agent.judge.profile_text import reference_json

    return reference_json(reference, _shown(config))


def _shown(config: Config) -> Any:
    from agent.fold.shown import Shown

    return Shown(named(config))


def require_folder(path: Path) -> None:
    """A wrong -o must not cost the work done before it."""
    folder = path.parent
    if not folder.is_dir():
        raise ConfigError(f"-o {path}: {folder} is not a directory; make it first")
    if path.is_dir() or not os.access(folder, os.W_OK):
        raise ConfigError(f"-o {path}: cannot be written; name another file")


def write_json(document: Any) -> None:
    """One JSON document on stdout."""
    import orjson

    sys.stdout.buffer.write(orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE))


def write_lines(lines: Iterable[str]) -> None:
    """Text on stdout, in whatever letters it knows."""
    encoding = sys.stdout.encoding or "ascii"
    for line in lines:
        print(line.encode(encoding, "replace").decode(encoding))

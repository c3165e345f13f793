"""Run all benchmarks, each in a process of its own, and write docs/benchmarks.md with tables and plots.

    python -m benchmarks.report                     all of them
    python -m benchmarks.report --only decode,sketch  some; what was measured before stays in the report
    python -m benchmarks.report --page              write the page again from docs/benchmarks.json

The documents are kept in docs/benchmarks.json, so every figure of the page has its raw form, its
machine and its commit. A benchmark that cannot run here, or that fails, is in the report with the
reason. Progress goes to stderr.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import orjson

from benchmarks.page import write_page

Json = dict[str, Any]
ROOT = Path(__file__).resolve().parents[1]
#: In the order of the page; seconds each may take before it is ended.
BENCHMARKS = {
    "hotpath": 600,
    "profile": 120,
    "decode": 600,
    "sketch": 300,
    "scale": 600,
    "export": 300,
    "footprint": 600,
    "state": 600,
    "pipeline": 1200,
    "peers": 3600,
}
#: What must be made first; when it cannot be, the benchmark itself says what is missing.
SETUP = {"peers": ["-m", "benchmarks.peers.setup"]}
_TAIL_LINES = 15


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("--only", default="", help="names, separated by commas")
    parser.add_argument("--without", default="", help="names to leave out")
    parser.add_argument("--page", action="store_true", help="measure nothing")
    parser.add_argument("--tiny", action="store_true", help="smallest sizes; figures mean nothing")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="folder to write to")
    options = parser.parse_args()
    names = _wanted(parser, options.only, options.without)
    kept = options.docs / "benchmarks.json"
    documents: dict[str, Json] = orjson.loads(kept.read_bytes()) if kept.exists() else {}
    began = time.monotonic()
    for at, name in enumerate([] if options.page else names):
        say(f"[{at + 1}/{len(names)}] {name}")
        if name in SETUP and not options.tiny:
            command = [sys.executable, *SETUP[name]]
            subprocess.run(command, cwd=ROOT, stdout=sys.stderr, timeout=1800, check=False)
        found = run_one(name, ["--tiny"] if options.tiny else [])
        earlier = documents.get(name, {})
        if "cannot_run" in found and earlier.get("bars"):
            say(f"{name} cannot run here: {found['cannot_run']}; what was measured before stays")
            continue
        documents[name] = found
        options.docs.mkdir(parents=True, exist_ok=True)
        text = orjson.dumps(documents, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS)
        kept.write_bytes(text + b"\n")
        _say_bars(documents[name])
    write_page(documents, list(BENCHMARKS), options.docs)
    say(f"{options.docs / 'benchmarks.md'} written after {time.monotonic() - began:.0f} s")
    if any("failed" in documents[name] for name in names if name in documents):
        sys.exit(1)


def _wanted(parser: argparse.ArgumentParser, only: str, without: str) -> list[str]:
    wanted = [name for name in only.split(",") if name] or list(BENCHMARKS)
    left_out = [name for name in without.split(",") if name]
    unknown = [name for name in (*wanted, *left_out) if name not in BENCHMARKS]
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    return [name for name in wanted if name not in left_out]


def run_one(name: str, arguments: list[str]) -> Json:
    """Its document; or one with `cannot_run` or `failed`, and no bars."""
    command = [sys.executable, "-m", f"benchmarks.{name}", "--json", *arguments]
    tail: list[str] = []
    began = time.monotonic()
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        reader = threading.Thread(target=_pass_on, args=(child.stderr, tail), daemon=True)
        reader.start()
        try:
            out, status = _finish(child, BENCHMARKS.get(name, 600))
        finally:
            if child.poll() is None:
                child.kill()
            reader.join(5.0)
    seconds = round(time.monotonic() - began, 1)
    try:
        document: Json = orjson.loads(out)
    except orjson.JSONDecodeError:
        why = (
            f"took longer than {BENCHMARKS.get(name, 600)} s"
            if status is None
            else f"status {status}"
        )
        return {
            "benchmark": name,
            "failed": f"{why}: {' | '.join(tail[-3:]) or 'no output'}",
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "seconds": seconds,
            "bars": {},
        }
    document["process_seconds"] = seconds
    return document


def _finish(child: subprocess.Popen[str], limit_s: float) -> tuple[str, int | None]:
    """What it wrote and its exit status; None when it had to be ended."""
    assert child.stdout is not None
    timer = threading.Timer(limit_s, child.kill)
    timer.start()
    try:
        began = time.monotonic()
        out = child.stdout.read()
        child.wait()
        late = time.monotonic() - began >= limit_s
    finally:
        timer.cancel()
    return out, None if late else child.returncode


def _pass_on(stream: Any, tail: list[str]) -> None:
    """A child's stderr to ours, line by line; the last lines are remembered."""
    for line in stream:
        sys.stderr.write(line)
        sys.stderr.flush()
        tail.append(line.strip())
        del tail[:-_TAIL_LINES]


def _say_bars(document: Json) -> None:
    for reason in ("cannot_run", "failed"):
        if reason in document:
            say(f"    {reason.replace('_', ' ')}: {document[reason]}")
    for name, bar in document.get("bars", {}).items():
        say(f"    {'met   ' if bar['met'] else 'MISSED'} {name}: {bar['value']} (bar {bar['bar']})")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()

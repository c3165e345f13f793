"""Writes the tables of docs/verdicts.md from documents of `python -m benchmarks.verdicts --json`.

python -m benchmarks.verdicts.page DOCUMENT.json ...

Parts are measured apart, since all together take hours: what no document has stays as it is, and a table says which
command, commit and machine each part is from.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import orjson

from benchmarks.page import bar_table, with_parts

PAGE = Path(__file__).resolve().parents[2] / "docs" / "verdicts.md"
Json = dict[str, Any]
_PART = re.compile(r"(<!-- (runs|bars|table: .+?) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
_RUNS = ["| command | commit | machine | day |", "|---|---|---|---|"]


def updated(text: str, documents: Sequence[Json]) -> str:
    """The page with its marked parts written anew where a document has them."""
    # The page is the benchmark's own: its bars need no link to it.
    fresh = with_parts(text, documents).replace("[verdicts](benchmarks.md#verdicts)", "verdicts")
    parts = {name: body for _, name, body, _ in _PART.findall(fresh)}
    runs = [_run(document) for document in documents]

    def part(found: re.Match[str]) -> str:
        begin, name, old, end = found.groups()
        match name:
            case "bars":
                body = _merged(old, bar_table(documents), _first_cell)
                body = body.replace("[verdicts](benchmarks.md#verdicts)", "verdicts")
            case "runs":
                body = _merged(old, [*_RUNS, *runs], _first_cell)
            case _:
                body = old if "has not measured it)" in parts[name] else parts[name]
        return f"{begin}{body}{end}"

    return _PART.sub(part, text)


def _run(document: Json) -> str:
    options, machine = document["options"], document["machine"]
    words = ["python -m benchmarks.verdicts"]
    for name, plain in (("only", ""), ("match", ""), ("runs", 200), ("break_runs", 20)):
        if options.get(name, plain) != plain:
            words.append(f"--{name.replace('_', '-')} {options[name]}")
    commits = document["figures"].get("commits of quiet streams") or [machine["commit"]]
    where = f"{machine['cpu']}, {machine['cores']} cores"
    return f"| `{' '.join(words)}` | {', '.join(commits)} | {where} | {document['at'][:10]} |"


def _merged(old: str, new: Sequence[str], key: Callable[[str], str]) -> str:
    """The rows of a table, those of `new` in place of old ones with the same key; new ones last."""
    rows = {key(row): row for row in old.splitlines() if row.startswith("|")}
    rows |= {key(row): row for row in new if row.startswith("|")}
    head = [rows.pop(key(row)) for row in new[:2]]
    return "\n".join([*head, *rows.values()]) + "\n"


def _first_cell(row: str) -> str:
    return row.split(" | ")[0]


def main() -> None:
    documents = [orjson.loads(Path(name).read_bytes()) for name in sys.argv[1:]]
    if not documents:
        sys.exit("no document; python -m benchmarks.verdicts --json > DOCUMENT.json")
    PAGE.write_text(updated(PAGE.read_text(), documents))


if __name__ == "__main__":
    main()

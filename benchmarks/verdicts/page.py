"""Writes the tables of docs/verdicts.md from documents of `benchmarks.verdicts` and `benchmarks.verdicts.peers`.

Tables that no document has stay as they are.

python -m benchmarks.verdicts.page DOCUMENT.json ...
"""

from __future__ import annotations

import sys
from pathlib import Path

import orjson

from benchmarks.page import with_parts

PAGE = Path(__file__).resolve().parents[2] / "docs" / "verdicts.md"


def main() -> None:
    documents = [orjson.loads(Path(name).read_bytes()) for name in sys.argv[1:]]
    if not documents:
        sys.exit("no document; python -m benchmarks.verdicts --json > DOCUMENT.json")
    text = with_parts(PAGE.read_text(), documents, keeps=True)
    # The page is the benchmark's own: its bars need no link to it.
    PAGE.write_text(text.replace("[verdicts](benchmarks.md#verdicts)", "verdicts"))


if __name__ == "__main__":
    main()

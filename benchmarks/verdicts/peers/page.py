"""Writes the tables of docs/verdicts-peers.md from documents of `python -m benchmarks.verdicts.peers --json`.

python -m benchmarks.verdicts.peers.page DOCUMENT.json ...

Settings are measured apart, since all together take hours: tables that no document has stay as they are.
"""

from __future__ import annotations

import sys
from pathlib import Path

import orjson

from benchmarks.page import with_parts

PAGE = Path(__file__).resolve().parents[3] / "docs" / "verdicts-peers.md"


def main() -> None:
    documents = [orjson.loads(Path(name).read_bytes()) for name in sys.argv[1:]]
    if not documents:
        sys.exit("no document; python -m benchmarks.verdicts.peers --json > DOCUMENT.json")
    PAGE.write_text(with_parts(PAGE.read_text(), documents, keeps=True))


if __name__ == "__main__":
    main()

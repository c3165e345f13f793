"""`python -m tests.fuzz --cases N --seed S [--tier template|scan|all] [--first] [--json]`: exits 1 when anything differs."""

from __future__ import annotations

import argparse
import json
import random
import sys

from tests.fuzz.run import SUBJECTS, Report, fuzz


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=None, help="default: a random one, printed")
    parser.add_argument("--tier", choices=sorted(SUBJECTS), default="all")
    parser.add_argument("--first", action="store_true", help="stop at the first difference")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    arguments = parser.parse_args()
    seed = random.SystemRandom().randrange(10**9) if arguments.seed is None else arguments.seed

    def tell(report: Report) -> None:
        rate = report.cases / report.seconds
        print(
            f"\r{report.cases:,} of {arguments.cases:,} cases, {rate:,.0f}/s, "
            f"{report.mismatches} mismatches ",
            end="",
            file=sys.stderr,
            flush=True,
        )

    report = fuzz(
        arguments.tier, arguments.cases, seed, is_first_enough=arguments.first, progress=tell
    )
    print(file=sys.stderr)
    found = {"tier": arguments.tier, "seed": seed, **report.document()}
    if arguments.json:
        print(json.dumps(found))
    else:
        for shown in found.pop("shown"):
            print(shown)
        print(found)
    return 1 if report.mismatches else 0


if __name__ == "__main__":
    sys.exit(main())

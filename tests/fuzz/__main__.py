"""`python -m tests.fuzz --cases N --seed S [--tier template|scan|all|each] [--first] [--json]`: exits 1 when anything differs.

`each`: the scan tier alone, the template tier alone, then all of them joined, which costs five times
as much a case; one report for each.
"""

from __future__ import annotations

import argparse
import json
import random
import sys

from tests.fuzz.run import SUBJECTS, Report, fuzz

#: Shares of the cases with `--tier each`.
_EACH = {"scan": 0.45, "template": 0.45, "all": 0.1}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=None, help="default: a random one, printed")
    parser.add_argument("--tier", choices=sorted([*SUBJECTS, "each"]), default="all")
    parser.add_argument("--first", action="store_true", help="stop at the first difference")
    parser.add_argument(
        "--json", action="store_true", help="one JSON document for each tier on stdout"
    )
    arguments = parser.parse_args()
    seed = random.SystemRandom().randrange(10**9) if arguments.seed is None else arguments.seed

    shares = _EACH if arguments.tier == "each" else {arguments.tier: 1.0}
    n_mismatches = 0
    for tier, share in shares.items():
        n_cases = round(arguments.cases * share)

        def tell(report: Report, tier: str = tier, n_cases: int = n_cases) -> None:
            rate = report.cases / report.seconds
            print(
                f"\r{tier}: {report.cases:,} of {n_cases:,} cases, {rate:,.0f}/s, "
                f"{report.mismatches} mismatches ",
                end="",
                file=sys.stderr,
                flush=True,
            )

        report = fuzz(tier, n_cases, seed, is_first_enough=arguments.first, progress=tell)
        print(file=sys.stderr)
        n_mismatches += report.mismatches
        found = {"tier": tier, "seed": seed, **report.document()}
        if arguments.json:
            print(json.dumps(found), flush=True)
        else:
            for shown in found.pop("shown"):
                print(shown)
            print(found)
    return 1 if n_mismatches else 0


if __name__ == "__main__":
    sys.exit(main())

"""Look up every package of the lock files in the advisory database, by pip-audit.

    python .ci/audit.py LOCK...

Exit status 0: no known vulnerability, or the database could not be reached, which is said. 1: one is known;
or, with CI=true, the database was reached and does not know a package.
"""

import json
import os
import subprocess
import sys

_COMMAND = ["--require-hashes", "--disable-pip", "--format", "json", "--progress-spinner", "off"]
_LIMIT_S = 300


def main(locks: list[str], program: list[str]) -> int:
    """Audit each lock; the worst exit status. `program` is pip-audit."""
    return max((_audit(lock, program) for lock in locks), default=0)


def _audit(lock: str, program: list[str]) -> int:
    try:
        done = subprocess.run(
            [*program, "-r", lock, *_COMMAND],
            capture_output=True, text=True, timeout=_LIMIT_S, check=False,
        )  # fmt: skip
        packages = json.loads(done.stdout)["dependencies"]
    except subprocess.TimeoutExpired:
        return _not_reached(lock, f"no answer in {_LIMIT_S} s")
    except (ValueError, KeyError, TypeError):
        return _not_reached(lock, (done.stderr.strip().splitlines() or ["no answer"])[-1])
    known = [p for p in packages if "skip_reason" not in p]
    unknown = [p["name"] for p in packages if "skip_reason" in p]
    if not known:
        return _not_reached(lock, f"none of {len(packages)} packages was found in it")
    bad = [p for p in known if p["vulns"]]
    for package in bad:
        for found in package["vulns"]:
            fixed = ", ".join(found["fix_versions"]) or "no version yet"
            print(
                f"{lock}: {package['name']} {package['version']}: {found['id']}, fixed in {fixed}"
            )
    if unknown:
        print(f"{lock}: not in the advisory database: {', '.join(unknown)}")
    print(f"{lock}: {len(known)} packages audited, {len(bad)} with known vulnerabilities")
    return 1 if bad or (unknown and os.environ.get("CI") == "true") else 0


def _not_reached(lock: str, why: str) -> int:
    print(f"{lock}: NOT audited, the advisory database could not be reached ({why})")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], [sys.executable, "-m", "pip_audit"]))

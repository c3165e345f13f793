"""The totals held against the account, number by number."""

from __future__ import annotations

from collections import Counter

from tests.chaos.ledger import Account


class Verdict:
    """Of one check: rows lost, rows counted twice beyond what is allowed, repeats within it."""

    def __init__(self) -> None:
        self.lost = self.double = self.repeated = 0
        self.gone = 0  # rows that went with a topic, unread
        self.troubles: list[str] = []

    @property
    def good(self) -> bool:
        return not (self.lost or self.double or self.troubles)


def judge(
    wanted: Account, found: Account, allowed: Account, losable: Account | None = None
) -> Verdict:
    """Rows by stream and slot, which tells lost from repeated; then every other count and sum.

    `allowed` may be counted again, `losable` may be missing.
    """
    out = Verdict()
    may_miss = Counter() if losable is None else losable.of
    for key in sorted({*wanted.of, *found.of}):
        n = found.of[key] - wanted.of[key]
        (model, version), what = key
        if what.startswith("slot "):
            out.lost += max(0, -n - may_miss[key])
            out.gone += max(0, min(-n, may_miss[key]))
            out.double += max(0, n - allowed.of[key])
            out.repeated += max(0, min(n, allowed.of[key]))
        # Sums of a column have one sign: what is repeated moves them its way, what is missing the other.
        ends = (allowed.of[key], -may_miss[key])
        if not min(0, *ends) <= n <= max(0, *ends):
            out.troubles.append(
                f"{model} {version} {what}: {found.of[key]}, not {wanted.of[key]}"
                + (f" (at most {allowed.of[key]} more)" if allowed.of[key] else "")
            )
    return out

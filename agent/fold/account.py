"""What the fold says of itself: budget, folded streams, columns without a sketch, lag of the watermark."""

from __future__ import annotations

from dataclasses import dataclass

from agent.types import Json, Metric, NumberPoint


@dataclass(frozen=True, slots=True)
class Account:
    """One moment of the fold's own numbers. `budget` by name: (used, limit)."""

    start_ns: int  # of the counters
    budget: dict[str, tuple[int, int]]
    granted_series: int
    granted_memory_bytes: int
    folded_names: list[str]  # the first ones
    n_folded: int
    n_unsketched_columns: int  # now; of each stream at most `register.MAX_UNSKETCHED`
    n_unsketched_values: int  # ever
    watermark_ms: int | None

    def metrics(self, time_ns: int) -> list[Metric]:
        """`inferometer.*` points."""
        metrics = []
        for name, (used, limit) in self.budget.items():
            points = [
                NumberPoint((("inferometer.budget.state", state),), value, 0, time_ns)
                for state, value in (("used", used), ("limit", limit))
            ]
            metrics.append(Metric(f"inferometer.budget.{name}", points))
        for name, n in (
            ("inferometer.overflow.folded", self.n_folded),
            ("inferometer.unsketched.values", self.n_unsketched_values),
        ):
            metrics.append(Metric(name, [NumberPoint((), n, self.start_ns, time_ns)]))
        columns = NumberPoint((), self.n_unsketched_columns, 0, time_ns)
        metrics.append(Metric("inferometer.unsketched.columns", [columns]))
        if self.watermark_ms is not None:
            lag = time_ns / 1e9 - self.watermark_ms / 1e3
            metrics.append(Metric("inferometer.watermark.lag", [NumberPoint((), lag, 0, time_ns)]))
        return metrics

    def budget_state(self) -> Json:
        """`budget` on the state page."""
        return {
            "streams": _share(self.budget["streams"]),
            "series": {**_share(self.budget["series"]), "granted": self.granted_series},
            "memory_bytes": {
                **_share(self.budget["memory"]),
                "granted": self.granted_memory_bytes,
            },
            "folded": self.folded_names,
            "folded_streams": self.n_folded,
        }


def _share(used_and_limit: tuple[int, int]) -> Json:
    used, limit = used_and_limit
    return {"used": used, "limit": limit}

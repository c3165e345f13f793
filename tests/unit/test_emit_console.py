"""The console's table."""

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.emit.console import Console, quantile
from agent.types import HistogramPoint, Metric, NumberPoint, Snapshot
from tests.unit.test_emit_prometheus import exponential


def stream(model: str, **segments: str) -> tuple[tuple[str, str], ...]:
    pairs = {f"inference.segment.{k}": v for k, v in segments.items()}
    return tuple(sorted({"inference.model.name": model, **pairs}.items()))


def test_busiest_streams_come_first_with_what_was_added() -> None:
    written: list[str] = []
    console = Console(written.append)

    def show(a: int, b: int) -> list[list[str]]:
        points = [NumberPoint(stream("a"), a, 1, 2), NumberPoint(stream("b", region="eu"), b, 1, 2)]
        errors = [NumberPoint(stream("b", region="eu"), 3, 1, 2)]
        latency = [exponential([0.25] * 10, 4, attributes=stream("a"))]
        console.show(
            Snapshot(
                2,
                [
                    Metric("inference.rows", points),
                    Metric("inference.errors", errors),
                    Metric("inference.latency", latency),
                ],
                {},
            )
        )
        return [line.split() for line in written[-1].splitlines()]

    head, first, second = show(10, 2000)
    assert head == [
        "model",
        "version",
        "segment",
        "rows",
        "+rows",
        "errors",
        "p50",
        "ms",
        "p99",
        "ms",
    ]
    assert first == ["b", "region=eu", "2,000", "2,000", "3", "-", "-"]
    assert second[:4] == ["a", "10", "10", "0"]
    assert abs(float(second[4]) - 250) < 10
    assert show(10, 2500)[1][:4] == ["b", "region=eu", "2,500", "500"]


def test_before_the_first_row_it_says_so() -> None:
    assert "no rows yet" in Console(lambda text: None).table(Snapshot(1, [], {}))


def test_many_streams_are_cut() -> None:
    points = [NumberPoint(stream(f"m{i}"), i, 1, 2) for i in range(100)]
    table = Console(lambda text: None).table(Snapshot(2, [Metric("inference.rows", points)], {}))
    assert table.splitlines()[-1] == "... and 80 more streams"


@settings(deadline=None)
@given(
    st.lists(
        st.floats(-1e9, 1e9).filter(lambda x: x == 0 or abs(x) > 1e-9), min_size=1, max_size=60
    ),
    st.integers(0, 4),
    st.floats(0, 1),
)
def test_quantiles_keep_their_relative_error(values: list[float], scale: int, q: float) -> None:
    point: HistogramPoint = exponential(values, scale)
    base = 2.0 ** (2.0**-scale)
    exact = float(np.quantile(values, q, method="lower"))
    found = quantile(point, q)
    assert found is not None
    assert math.isclose(
        found, exact, rel_tol=1e-9, abs_tol=(base - 1) / (base + 1) * abs(exact) * (1 + 1e-9)
    )

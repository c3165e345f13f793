"""Delta temporality: what receivers add up to is what was counted."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.emit.delta import DeltaConverter, difference, downscale
from agent.types import HistogramPoint, Metric, NumberPoint

MODEL = (("inference.model.name", "m"),)


def rows(value: int, time_ns: int, start_ns: int = 1, **changes: Any) -> Metric:
    return Metric("inference.rows", [NumberPoint(MODEL, value, start_ns, time_ns, **changes)])


def latency(
    buckets: dict[int, int],
    negative: dict[int, int] | None = None,
    *,
    time_ns: int,
    scale: int = 3,
    zeros: int = 0,
    start_ns: int = 1,
) -> HistogramPoint:
    offset, counts = dense(buckets)
    negative_offset, negative_counts = dense(negative or {})
    return HistogramPoint(
        attributes=MODEL,
        start_ns=start_ns,
        time_ns=time_ns,
        count=sum(buckets.values()) + sum((negative or {}).values()) + zeros,
        sum=None if negative else float(sum(buckets.values())),
        scale=scale,
        zero_count=zeros,
        zero_threshold=0.0,
        positive_offset=offset,
        positive=counts,
        negative_offset=negative_offset,
        negative=negative_counts,
    )


def dense(buckets: dict[int, int]) -> tuple[int, "np.ndarray[Any, np.dtype[np.uint64]]"]:
    if not buckets:
        return 0, np.zeros(0, np.uint64)
    first = min(buckets)
    counts = np.zeros(max(buckets) - first + 1, np.uint64)
    for index, n in buckets.items():
        counts[index - first] = n
    return first, counts


def sparse(offset: int, counts: Any) -> Counter[int]:
    return Counter({offset + i: n for i, n in enumerate(counts.tolist()) if n})


def values(metrics: list[Metric]) -> list[tuple[float, int, int]]:
    return [(p.value, p.start_ns, p.time_ns) for m in metrics for p in m.points]  # type: ignore[union-attr]


def accept(converter: DeltaConverter, metrics: list[Metric]) -> None:
    converter.accept((m.name, p) for m in metrics for p in m.points)


def test_the_first_delta_is_the_whole_value_since_the_series_start() -> None:
    assert values(DeltaConverter().convert([rows(5, 10)])) == [(5, 1, 10)]


def test_accepted_deltas_abut_and_add_up() -> None:
    converter = DeltaConverter()
    sent = []
    for value, time_ns in ((5, 10), (9, 20), (9, 30), (12, 40)):
        delta = converter.convert([rows(value, time_ns)])
        sent += values(delta)
        accept(converter, delta)
    assert sent == [(5, 1, 10), (4, 10, 20), (3, 20, 40)]


def test_what_was_not_accepted_is_in_the_next_delta() -> None:
    converter = DeltaConverter()
    accept(converter, converter.convert([rows(5, 10)]))
    converter.convert([rows(9, 20)])
    assert values(converter.convert([rows(11, 30)])) == [(6, 10, 30)]


def test_a_new_start_time_begins_from_zero() -> None:
    converter = DeltaConverter()
    accept(converter, converter.convert([rows(5, 10)]))
    assert values(converter.convert([rows(3, 30, start_ns=20)])) == [(3, 20, 30)]


def test_an_ended_series_is_forgotten_when_its_end_was_accepted() -> None:
    converter = DeltaConverter()
    accept(converter, converter.convert([rows(5, 10)]))
    (ended,) = converter.convert([rows(0, 20, ended=True)])
    assert ended.points[0].ended and len(converter) == 1
    accept(converter, [ended])
    assert len(converter) == 0


def test_gauges_and_sums_that_may_fall_pass_unchanged() -> None:
    converter = DeltaConverter()
    metrics = [
        Metric("inference.window.rows", [NumberPoint(MODEL, 5, 0, 10)]),
        Metric("inference.feature.sum", [NumberPoint(MODEL, -5.0, 1, 10)]),
    ]
    accept(converter, converter.convert(metrics))
    assert converter.convert(metrics) == metrics


def test_a_count_that_falls_loses_one_step_and_not_the_export() -> None:
    converter = DeltaConverter()
    accept(converter, converter.convert([rows(5, 10)]))
    assert converter.convert([rows(3, 20)]) == []
    assert values(converter.convert([rows(4, 30)])) == [(1, 20, 30)]


def test_exemplars_are_not_kept_from_one_export_to_the_next() -> None:
    converter = DeltaConverter()
    point = latency({0: 1}, time_ns=10)
    point.exemplars = (object(),)  # type: ignore[assignment]
    accept(converter, converter.convert([Metric("inference.latency", [point])]))
    assert all(not p.exemplars for p in converter._accepted.values())  # type: ignore[union-attr]


buckets = st.dictionaries(st.integers(-300, 300), st.integers(1, 1000), max_size=30)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(buckets, buckets, st.integers(0, 5), st.integers(0, 2), st.booleans()),
        min_size=1,
        max_size=6,
    )
)
def test_deltas_of_a_histogram_add_up_to_it_while_its_scale_falls(
    steps: list[tuple[dict[int, int], dict[int, int], int, int, bool]],
) -> None:
    """Each step adds values at the current scale, then may lose scale; some exports are refused."""
    converter = DeltaConverter()
    positive: Counter[int] = Counter()
    negative: Counter[int] = Counter()
    received_positive: Counter[int] = Counter()
    received_negative: Counter[int] = Counter()
    scale, zeros, received_zeros, received_scale = 8, 0, 0, 8
    last_end, received_count, accepted_count = 1, 0, 0
    for i, (more, less, more_zeros, loss, is_accepted) in enumerate(steps):
        positive.update(more)
        negative.update(less)
        zeros += more_zeros
        scale -= loss
        positive = lowered(positive, loss)
        negative = lowered(negative, loss)
        point = latency(
            dict(positive), dict(negative), time_ns=10 * (i + 1), scale=scale, zeros=zeros
        )
        deltas = converter.convert([Metric("inference.latency", [point])])
        if not is_accepted:
            continue
        accepted_count = point.count
        accept(converter, deltas)
        for metric in deltas:
            (delta,) = metric.points
            assert isinstance(delta, HistogramPoint)
            assert delta.start_ns == last_end and delta.time_ns == point.time_ns
            last_end = delta.time_ns
            received_positive = lowered(received_positive, received_scale - delta.scale)
            received_negative = lowered(received_negative, received_scale - delta.scale)
            received_scale = delta.scale
            received_positive.update(sparse(delta.positive_offset, delta.positive))
            received_negative.update(sparse(delta.negative_offset, delta.negative))
            received_zeros += delta.zero_count
            received_count += delta.count
            assert (
                delta.count == int(delta.positive.sum() + delta.negative.sum()) + delta.zero_count
            )
    assert received_count == accepted_count
    # The last delta of all must bring the receiver to exactly what is held.
    final = converter.convert(
        [
            Metric(
                "inference.latency",
                [latency(dict(positive), dict(negative), time_ns=10_000, scale=scale, zeros=zeros)],
            )
        ]
    )
    for metric in final:
        (delta,) = metric.points
        assert isinstance(delta, HistogramPoint)
        received_positive = lowered(received_positive, received_scale - delta.scale)
        received_negative = lowered(received_negative, received_scale - delta.scale)
        received_scale = delta.scale
        received_positive.update(sparse(delta.positive_offset, delta.positive))
        received_negative.update(sparse(delta.negative_offset, delta.negative))
        received_zeros += delta.zero_count
    assert lowered(received_positive, received_scale - scale) == positive
    assert lowered(received_negative, received_scale - scale) == negative
    assert received_zeros == zeros


def lowered(counts: Counter[int], steps: int) -> Counter[int]:
    out: Counter[int] = Counter()
    for index, n in counts.items():
        out[index >> steps] += n
    return out


@settings(deadline=None)
@given(buckets, st.integers(0, 12))
def test_downscaling_moves_every_count_to_its_wider_bucket(
    given_buckets: dict[int, int], steps: int
) -> None:
    offset, counts = downscale(*dense(given_buckets), steps)
    assert sparse(offset, counts) == lowered(Counter(given_buckets), steps)


def test_a_scale_that_rises_is_an_error() -> None:
    before = latency({0: 1}, time_ns=10, scale=2)
    with pytest.raises(ValueError, match="scale rose from 2 to 3"):
        difference(latency({0: 2}, time_ns=20, scale=3), before)


def test_a_bucket_that_falls_is_an_error() -> None:
    before = latency({0: 1, 4: 2}, time_ns=10)
    with pytest.raises(ValueError, match="bucket counts fell"):
        difference(latency({0: 1, 4: 1, 5: 2}, time_ns=20), before)


def test_the_cumulative_point_is_not_altered() -> None:
    converter = DeltaConverter()
    accept(
        converter, converter.convert([Metric("inference.latency", [latency({0: 1}, time_ns=1)])])
    )
    point = latency({0: 5}, time_ns=10)
    converter.convert([Metric("inference.latency", [point])])
    assert point.positive.tolist() == [5] and point.count == 5

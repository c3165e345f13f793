"""What history says of noise: phi by size, tails, and what is kept of it."""

from __future__ import annotations

from functools import reduce

import numpy as np
import pytest

from agent.errors import DecodeError
from agent.judge.calibration import (
    NOTHING_LEARNED,
    Calibration,
    CellNoise,
    calibrate,
    calibrate_by_hour,
    without_location,
)
from agent.judge.cells import CellKey, Prepared, Statistic, measure
from agent.judge.counted import Counted, merged
from agent.judge.noise import Noise
from benchmarks.verdicts.families import cells
from benchmarks.verdicts.windows import column, counted_of

NAMES = [f"x{i}" for i in range(10)]


def blocks_of(make, n_blocks: int = 128, rows: int = 200) -> list[Counted]:
    return [counted_of(make(i, rows)) for i in range(n_blocks)]


def learned(blocks: list[Counted], **more) -> Calibration:
    return calibrate(Prepared(reduce(merged, blocks)), blocks, **more)


def noise_of(calibration: Calibration, name: str, statistic=Statistic.LOC) -> CellNoise:
    key = CellKey(column(name), statistic)
    return next(c for c in calibration.cells if c.key == key)


def independent(seed: int):
    rng = np.random.default_rng(seed)
    return lambda i, n: {name: rng.normal(size=n) for name in NAMES}


def test_independent_rows_have_no_more_noise_than_independent_rows() -> None:
    found = learned(blocks_of(independent(1)))
    for statistic in (Statistic.LOC, Statistic.SHAPE):
        phi = [noise_of(found, name, statistic).phi_at(200) for name in NAMES]
        assert np.mean(phi) == pytest.approx(1.0, abs=0.05)
        far = [noise_of(found, name, statistic).phi_at(10_000) for name in NAMES]
        assert max(far) < 1.6
    assert max(factor for _, factor in found.stretch) < 1.15
    assert (found.windows, found.rows, found.is_learning) == (128, 25_600.0, False)


def test_rows_in_clusters_have_the_design_effect_at_every_size() -> None:
    """Clusters of 10 with half of the variance in common: phi of the mean is 1 + 9 / 2."""
    rng = np.random.default_rng(2)

    def make(i: int, n: int) -> dict:
        common = np.repeat(rng.normal(size=(n // 10, len(NAMES))), 10, axis=0)
        z = (common + rng.normal(size=(n, len(NAMES)))) * np.sqrt(0.5)
        return {name: z[:, j] for j, name in enumerate(NAMES)}

    found = learned(blocks_of(make))
    for rows in (200, 800, 3_000):
        phi = np.mean([noise_of(found, name).phi_at(rows) for name in NAMES])
        assert phi == pytest.approx(5.2, rel=0.25), rows


def test_a_level_that_wanders_grows_with_the_size_of_windows() -> None:
    """Blocks with a mean of their own of .1 sd, each lasting 8 blocks: variance grows as 1 + .01 n."""
    rng = np.random.default_rng(3)
    levels = 0.1 * rng.normal(size=(64, len(NAMES)))

    def make(i: int, n: int) -> dict:
        return {name: rng.normal(levels[i // 8, j], 1.0, n) for j, name in enumerate(NAMES)}

    found = learned(blocks_of(make, 256))
    small = np.mean([noise_of(found, name).phi_at(200) for name in NAMES])
    large = np.mean([noise_of(found, name).phi_at(1600) for name in NAMES])
    assert small == pytest.approx(1 + 0.01 * 200, rel=0.3)
    assert large == pytest.approx(1 + 0.01 * 1600, rel=0.4)


def test_one_noisy_column_is_not_lent_to_the_others() -> None:
    rng = np.random.default_rng(4)

    def make(i: int, n: int) -> dict:
        table = {name: rng.normal(size=n) for name in NAMES}
        table["x0"] = table["x0"] + rng.normal()
        return table

    found = learned(blocks_of(make))
    assert noise_of(found, "x0").phi_at(200) > 30.0
    others = [noise_of(found, name).phi_at(200) for name in NAMES[1:]]
    assert max(others) < 1.8


def test_windows_that_repeat_each_other_count_less() -> None:
    rising = CellNoise(
        CellKey(None, Statistic.LOC), [100.0, 200.0, 400.0, 800.0], [1, 2, 4, 8], [0] * 4
    )
    assert rising.lasting_at(100) > 3.0
    flat = CellNoise(rising.key, rising.sizes, [5.0] * 4, [0.0] * 4)
    assert flat.lasting_at(100) == 1.0
    assert flat.phi_at(1e6) == 5.0
    assert rising.phi_at(1600) == pytest.approx(16.0)
    assert rising.phi_at(1) == 1.0


def test_rare_texts_of_a_stream_that_keeps_making_new_ones_are_expected() -> None:
    def make(i: int, n: int) -> dict:
        fresh = [f"new{i}"] * 6
        return {"c": np.array(["a"] * (n - len(fresh)) + fresh)}

    blocks = blocks_of(make, 64)
    found = learned(blocks)
    noise = noise_of(found, "c", Statistic.UNSEEN)
    assert noise.rate >= 0.03
    base = Prepared(reduce(merged, blocks))
    cells = [c for c in measure(base, counted_of(make(999, 200))) if c.key == noise.key]
    assert Noise(found, 3).deviations(cells).z[0] < 3.0


def test_few_blocks_are_learning() -> None:
    found = learned(blocks_of(independent(5), 7))
    assert found.is_learning
    assert found.cells == []
    assert NOTHING_LEARNED.is_learning


def test_volume_is_learned_from_windows_of_time_only() -> None:
    rng = np.random.default_rng(6)
    blocks = [counted_of({"x": rng.normal(size=int(n))}) for n in rng.normal(1000, 50, 40)]
    assert not [c for c in learned(blocks).cells if c.key.column is None]
    volume = learned(blocks, is_windows=True).cells[-1]
    assert volume.key.statistic is Statistic.VOLUME
    assert volume.rate == pytest.approx(np.log(1000), abs=0.03)
    assert volume.phi[0] ** 0.5 == pytest.approx(0.05, rel=0.5)


def test_a_calibration_is_read_back_as_it_was_written() -> None:
    found = learned(blocks_of(independent(7), 32))
    assert Calibration.from_bytes(found.to_bytes()) == found


@pytest.mark.parametrize(
    "cell",
    [
        CellNoise(CellKey(None, Statistic.LOC), [], [], []),
        CellNoise(CellKey(None, Statistic.LOC), [1.0], [1.0, 2.0], [0.0]),
        CellNoise(CellKey(None, Statistic.LOC), [2.0, 1.0], [1.0, 2.0], [0.0, 0.0]),
    ],
)
def test_a_calibration_that_makes_no_sense_is_refused(cell: CellNoise) -> None:
    with pytest.raises(DecodeError, match="sizes"):
        Calibration.from_bytes(Calibration(9, 1.0, [cell]).to_bytes())


def test_bytes_that_are_no_calibration_are_refused() -> None:
    with pytest.raises(DecodeError, match="calibration"):
        Calibration.from_bytes(b"\x93")


def test_columns_that_history_lacked_get_the_noisiest_of_their_statistic() -> None:
    found = learned(blocks_of(independent(8)))
    rng = np.random.default_rng(9)
    base = Prepared(counted_of({"y": rng.normal(size=5_000)}))
    cells = measure(base, counted_of({"y": rng.normal(size=1_000)}))
    assert np.isfinite(Noise(found, 3).deviations(cells).past).all()
    assert np.isfinite(Noise(NOTHING_LEARNED, 3).deviations(cells).past).all()


# ---------------------------------------------------------------- what lasts


def test_what_a_day_does_to_all_its_hours_is_noise_that_lasts_and_the_hour_is_none() -> None:
    """A shift of d sd moves the location by sqrt(3 / pi) d sqrt(n) errors: phi is 1 + .955 n d^2 for days of sd .1."""
    rng = np.random.default_rng(10)
    n, days = 400, 30
    curve = np.sin(np.arange(24) * np.pi / 12)[:, None] * np.ones(len(NAMES))
    history = []
    for _ in range(days):
        day = 0.1 * rng.normal(size=len(NAMES))
        for hour in range(24):
            means = curve[hour] + day
            table = {name: rng.normal(means[j], 1.0, n) for j, name in enumerate(NAMES)}
            history.append((hour, counted_of(table)))
    hours = {h: reduce(merged, [w for hour, w in history if hour == h]) for h in range(24)}
    found = calibrate_by_hour(hours, history)
    noise = [noise_of(found, name) for name in NAMES]
    assert np.mean([c.phi_at(n) for c in noise]) == pytest.approx(1 + 0.955 * n * 0.01, rel=0.3)
    together = np.mean([c.phi_at(4 * n) for c in noise])
    assert together == pytest.approx(1 + 0.955 * 4 * n * 0.01, rel=0.3)
    assert np.mean([c.lasting_at(n) for c in noise]) > 3.0
    assert found.together == n


def test_location_is_taken_off_a_distance_and_nothing_else() -> None:
    rng = np.random.default_rng(11)
    base = Prepared(counted_of({"x": rng.normal(size=100_000)}))

    def left(values: np.ndarray) -> tuple[float, float]:
        """The distance over what chance makes of it, all of it and without location."""
        found = measure(base, counted_of({"x": values}))
        whole, rest = (
            next(c for c in some if c.key.statistic is Statistic.SHAPE)
            for some in (found, without_location(found))
        )
        assert rest.df == whole.df - 1
        return np.exp(whole.x), np.exp(rest.x)

    moved = [left(rng.normal(0.1, 1.0, 20_000)) for _ in range(10)]
    wider = [left(rng.normal(0.0, 1.2, 20_000)) for _ in range(10)]
    alike = [left(rng.normal(size=20_000)) for _ in range(40)]
    # 20,000 x .01 / 1.2 over 23 degrees of freedom is 7.2 more than 1; ranks leave 4.5 % of it.
    assert np.mean([whole for whole, _ in moved]) == pytest.approx(8.2, rel=0.15)
    assert np.mean([rest for _, rest in moved]) == pytest.approx(1.3, abs=0.3)
    assert np.mean([rest for _, rest in wider]) > 0.95 * np.mean([whole for whole, _ in wider])
    assert np.mean([rest for _, rest in alike]) == pytest.approx(1.0, abs=0.15)


def test_distances_that_last_over_many_blocks_repeat_each_other() -> None:
    rng = np.random.default_rng(12)
    widths = 1.0 + 0.1 * rng.normal(size=(40, len(NAMES)))

    def lasting(i: int, n: int) -> dict:
        return {name: rng.normal(0.0, widths[i // 8, j], n) for j, name in enumerate(NAMES)}

    blocks = blocks_of(lasting, 320, 400)
    wanders, alone = learned(blocks), learned([blocks[i] for i in rng.permutation(len(blocks))])
    first = [
        np.mean([noise_of(c, name, Statistic.SHAPE).repeats[0] for name in NAMES])
        for c in (wanders, alone)
    ]
    assert first[0] > 2.0
    assert first[1] < 1.3


@pytest.mark.parametrize(
    ("family", "seed", "run"),
    [("days, baseline of the same hour", 7, 0), ("levels that wander", 6, 7)],
)
def test_a_level_that_wanders_does_not_page(family: str, seed: int, run: int) -> None:
    """Two streams that paged, with evidence of 1e10 and 1e8, before distances were judged without their location."""
    cell = next(cell for cell in cells() if cell.family == family)
    assert cell.run(seed, run).highest < 20.0

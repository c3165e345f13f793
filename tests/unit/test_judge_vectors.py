"""Embeddings judged from files: silent while nothing changes, and what moved is named when it does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import orjson
import pytest
from numpy.typing import NDArray

from agent.backtest.run import Timeline
from agent.backtest.run import run as backtest
from agent.config import Config
from agent.fold.profile import Profile, merge
from agent.fold.shown import Shown
from agent.judge.contract_infer import infer_model
from agent.judge.counted import counted, merged, scaled
from agent.judge.profile_text import reference_json
from agent.judge.reference import ModelKey, Reference
from agent.judge.reference_build import build
from agent.judge.vector_cells import Cloud, moved
from agent.judge.wave_tables import wave_tables
from agent.sketch.vector_sums import from_bytes
from agent.types import Column, Role
from agent.verdict import State

DIMENSIONS, LATENT, CLUSTERS = 24, 8, 5
ROWS, REFERENCE_ROWS = 2_400, 24_000
EMB = Column(Role.FEATURE, "emb")
Rows = NDArray[np.float64]


class World:
    """Unit vectors of a few clusters, as text embeddings are; each call draws new rows of the same clusters."""

    def __init__(self, seed: int) -> None:
        fixed = np.random.default_rng(11)
        self.centres = fixed.normal(size=(CLUSTERS, LATENT)) * 2.5
        self.projection = fixed.normal(size=(LATENT, DIMENSIONS))
        self.rng = np.random.default_rng(seed)
        self.shares = np.array([0.3, 0.25, 0.2, 0.15, 0.1])

    def draw(self, n: int, shares: Rows | None = None, projection: Rows | None = None) -> Rows:
        weights = self.shares if shares is None else shares
        cluster = self.rng.choice(CLUSTERS, n, p=weights / weights.sum())
        latent = self.centres[cluster] + self.rng.normal(size=(n, LATENT))
        vectors = latent @ (self.projection if projection is None else projection)
        vectors += 0.3 * self.rng.normal(size=vectors.shape)
        unit: Rows = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit


def write(path: Path, vectors: Rows | list[list[float]]) -> Path:
    rows = vectors if isinstance(vectors, list) else vectors.round(5).tolist()
    others = np.random.default_rng(len(rows)).normal(size=(len(rows), 6)).round(4).tolist()
    events = (
        {
            "model": "m",
            "ts": 1_700_000_000,
            "features": {"emb": row, **dict(zip("abcdef", o, strict=False))},
        }
        for row, o in zip(rows, others, strict=True)
    )
    path.write_bytes(b"".join(orjson.dumps(e, option=orjson.OPT_APPEND_NEWLINE) for e in events))
    return path


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    path = write(
        tmp_path_factory.mktemp("vectors") / "reference.jsonl", World(1).draw(REFERENCE_ROWS)
    )
    return build([path], Config(), created_ms=0, rows_per_window=250).reference


def judged(path: Path, vectors: Rows | list[list[float]], *references: Reference) -> Timeline:
    return backtest([write(path, vectors)], Config(), references, rows_per_window=ROWS)


def rotated(world: World, n: int) -> Rows:
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(DIMENSIONS, DIMENSIONS)))[0]
    turned: Rows = world.draw(n) @ turn
    return turned


def of_another_model(world: World, n: int) -> Rows:
    projection = np.random.default_rng(2).normal(size=(LATENT, DIMENSIONS))
    return world.draw(n, projection=projection)


def without_a_cluster(world: World, n: int) -> Rows:
    return world.draw(n, shares=np.array([0.0, 0.25, 0.2, 0.15, 0.1]))


def test_unchanged_embeddings_are_quiet(tmp_path: Path, reference: Reference) -> None:
    timeline = judged(tmp_path / "stream.jsonl", World(2).draw(8 * ROWS), reference)
    assert len(timeline.windows) == 8
    assert not timeline.pages


@pytest.mark.parametrize(
    ("broken", "windows"), [(rotated, 3), (of_another_model, 3), (without_a_cluster, 6)]
)
def test_a_cloud_that_changes_pages_soon_and_is_named(
    tmp_path: Path, reference: Reference, broken: Callable[[World, int], Rows], windows: int
) -> None:
    # 150 of a window's vectors are looked at.
    world = World(3)
    vectors = np.concatenate((world.draw(3 * ROWS), broken(world, windows * ROWS)))
    timeline = judged(tmp_path / "stream.jsonl", vectors, reference)
    (page,) = timeline.pages
    firing = next(v for v in page if v.state is State.FIRING)
    assert timeline.windows.index(firing.window_start_ms) >= 3
    cause = firing.attribution[0]
    assert cause.feature == "emb"
    assert cause.statistic in ("centroid", "rff")
    assert "mean direction moved" in firing.why


def test_a_model_learns_its_embeddings_from_its_first_windows(tmp_path: Path) -> None:
    world = World(4)
    vectors = np.concatenate((world.draw(14 * ROWS), rotated(world, 4 * ROWS)))
    timeline = judged(tmp_path / "stream.jsonl", vectors)
    named = [v for v in timeline.verdicts if v.attribution]
    assert timeline.windows.index(named[0].window_start_ms) >= 14
    assert {cause.feature for v in named for cause in v.attribution} == {"emb"}
    assert named[-1].attribution[0].statistic == "centroid"


def test_another_dimension_and_vectors_of_zeros_break_the_contract(
    tmp_path: Path, reference: Reference
) -> None:
    rule = infer_model(reference.models[ModelKey("m", "")], 60_000).features["emb"]
    assert rule.dimension == DIMENSIONS
    assert rule.zeros is not None
    assert rule.zeros < 0.05
    world = World(5)
    longer = np.concatenate((world.draw(ROWS), world.draw(ROWS)), axis=1).tolist()
    zeros = [[0.0] * DIMENSIONS] * (ROWS // 5) + world.draw(ROWS - ROWS // 5).tolist()
    for broken, statistic, words in (
        (longer, "dimension", "do not have 24 elements: 48"),
        (zeros, "zeros", "20.0% of vectors are all zero"),
    ):
        vectors = world.draw(ROWS).tolist() + broken
        timeline = judged(tmp_path / "stream.jsonl", vectors, reference)
        (page,) = timeline.pages
        firing = next(v for v in page if v.state is State.FIRING)
        assert firing.window_start_ms == timeline.windows[1]
        assert statistic in {c.statistic for c in firing.attribution}
        assert words in " ".join(c.detail for c in firing.attribution)


def test_a_reference_keeps_waves_of_its_own_rows_and_says_what_it_holds(
    reference: Reference,
) -> None:
    profile = reference.models[ModelKey("m", "")].profile
    (part,) = from_bytes(profile.vectors)
    assert part.waves is not None
    assert part.waves.table_id == wave_tables(profile)[EMB].id
    assert part.waves.rows == part.rows - part.undirected
    read = Reference.from_bytes(reference.to_bytes())
    assert read.models[ModelKey("m", "")].profile.vectors == profile.vectors
    body = reference_json(reference, Shown(Config()))["streams"][0]["columns"]["emb"]["vectors"]
    assert (body["dimension"], body["others"], body["sampled"]) == (DIMENSIONS, [], part.rows)


def test_judging_a_merge_is_judging_the_union(reference: Reference) -> None:
    profile = reference.models[ModelKey("m", "")].profile
    both = merge(profile, profile)
    assert Profile.from_bytes(both.to_bytes()).vectors == both.vectors
    united, summed = counted(both), merged(counted(profile), counted(profile))
    for read in (united.columns[EMB].vectors, summed.columns[EMB].vectors):
        assert read is not None
        cloud = read[DIMENSIONS]
        assert cloud.sums is not None
        once = (counted(profile).columns[EMB].vectors or {})[DIMENSIONS]
        assert once.sums is not None
        assert (cloud.rows, cloud.n_waves) == (2 * once.rows, 2 * once.n_waves)
        assert np.allclose(cloud.sums, 2 * once.sums)
    half = (scaled(united, profile.rows).columns[EMB].vectors or {})[DIMENSIONS]
    assert half.rows == pytest.approx(from_bytes(profile.vectors)[0].rows)


def test_the_ratio_of_independent_rows_is_one_on_average() -> None:
    rng = np.random.default_rng(5)
    ratios = []
    for _ in range(400):
        drawn = rng.normal(size=(500, 10)) + 0.3
        drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
        before, now = (Cloud(len(x), len(x), x.sum(axis=0)) for x in (drawn[:400], drawn[400:]))
        (found,) = moved({10: before}, {10: now})
        ratios.append(np.exp(found.log_ratio))
    # Standard error of the mean: sqrt(2 / 9 / 400) = .024.
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.1)

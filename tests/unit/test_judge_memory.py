"""What judging keeps: little of each window, bounded in bytes, and forgotten when it is gone for good."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from agent.judge.counted import counted
from agent.judge.hour_share import HourShare, explained
from agent.judge.pane_bytes import packed, unpacked
from agent.types import Column, Role
from tests.support.profiles import profiles

X = Column(Role.FEATURE, "x")


def test_sums_by_the_hour_are_those_of_the_windows_means_and_survive_bytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(10)
    rows = [[{"x": float(x)} for x in rng.normal(w % 5, 1.0, 40)] for w in range(40)]
    parts = profiles(tmp_path, rows)
    spread = [replace(part, window=w * 5, width_ms=3_600_000) for w, part in enumerate(parts)]
    share = HourShare()
    for part in spread[:20]:
        share.add(part)
    again = HourShare()
    again.restore(msgspec.convert(msgspec.to_builtins(share.kept()), type(share.kept())))
    for part in spread[20:]:
        share.add(part)
        again.add(part)
    assert again.kept() == share.kept()
    hours = dict(share.kept().hours)
    seen = [(part.start_ms // 3_600_000 % 24, part.columns[X].numbers) for part in spread]
    for hour, [(n, mean, squares)] in hours.items():
        means = [view.mean for at, view in seen if at == hour and view is not None]
        assert n == len(means)
        assert mean == pytest.approx(np.mean(means))
        assert squares == pytest.approx(((np.array(means) - np.mean(means)) ** 2).sum())
    assert share.matters() is (explained([h[0] for h in hours.values()]) > 0.2)


def test_a_pane_that_waits_has_few_buckets_and_all_its_values(tmp_path: Path) -> None:
    rng = np.random.default_rng(11)
    wide = [{"x": float(x)} for x in rng.normal(0.0, 1.0, 3000)]
    pane = profiles(tmp_path, [wide])[0]
    few = unpacked(packed(pane, 200))
    fine, coarse = counted(pane).columns[X].numbers, counted(few).columns[X].numbers
    assert fine is not None and coarse is not None
    in_use = np.count_nonzero(coarse.positive) + np.count_nonzero(coarse.negative)
    assert 100 < in_use <= 200
    assert (coarse.count, coarse.low, coarse.high) == (3000, fine.low, fine.high)
    for positive in (True, False):
        values = np.abs([r["x"] for r in wide if (r["x"] > 0) is positive])
        buckets = np.ceil(np.log2(values) * 2.0**coarse.scale).astype(int) - 1
        first = coarse.first_positive if positive else coarse.first_negative
        held = coarse.positive if positive else coarse.negative
        assert np.bincount(buckets - first, minlength=len(held)).tolist() == held.tolist()

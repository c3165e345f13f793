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
from agent.judge.seen import SeenStream
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


def test_hours_that_are_over_wait_packed_and_add_up_to_all_windows(tmp_path: Path) -> None:
    rows = [[{"x": float(w % 24)} for _ in range(25 + w % 7)] for w in range(144)]
    parts = [
        replace(part, window=w, width_ms=3_600_000)  # six days, from midnight on
        for w, part in enumerate(profiles(tmp_path, rows))
    ]
    seen = SeenStream(parts[0].stream, None)
    for part in parts[:50]:
        seen.add(part)
    again = SeenStream(parts[0].stream, None)
    again.restore(seen.kept())
    for part in parts[50:]:
        seen.add(part)
        again.add(part)
    found = seen.reference(by_time=True)
    assert again.kept() == seen.kept()
    assert found.profile.rows == sum(part.rows for part in parts)
    assert found.profile.columns[X].facts.distinct == 24
    assert {hour: p.rows for hour, p in found.hours.items()} == {
        hour: sum(part.rows for part in parts[hour::24]) for hour in range(24)
    }
    held = {hour: counted(p).columns[X].numbers for hour, p in found.hours.items()}
    assert all(n is not None and n.low == n.high == hour for hour, n in held.items())


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

"""A shard's volume that is lost, set back, damaged or another's is found out by what the group was told."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from agent.aggregate.resume import Standing, Start, compare
from agent.errors import StateError
from agent.ingest.fence import Committed
from tests.support.shard_life import Group, life, told

OURS, OTHER = "0" * 15 + "1", "0" * 15 + "2"


def whole(position: int, folded: int) -> Standing:
    return Standing(position, folded, {OURS}, True)


BLANK = whole(0, 0)
DAMAGED = Standing(3, 1, {OURS}, False)


@pytest.mark.parametrize(
    ("volume", "offset", "position", "begins_late", "reason"),
    [
        (BLANK, None, 0, False, ""),
        (BLANK, told(OTHER, 0, 0), 0, False, ""),
        (BLANK, told(OTHER, 7, 4), 7, True, "volume"),
        (BLANK, told(OURS, 7, 0), 7, True, "volume"),  # a crash before the journal had it
        (BLANK, Committed(7, "by hand"), 7, True, "volume"),
        (whole(9, 5), None, 9, False, ""),
        (whole(9, 5), Committed(2, "by hand"), 9, False, ""),
        (whole(9, 5), told(OURS, 9, 5), 9, False, ""),
        (whole(9, 5), told(OURS, 8, 4), 9, False, ""),
        (whole(9, 5), told(OURS, 12, 6), 12, True, "rolled_back"),
        (
            whole(9, 5),
            told(OURS, 9, 6),
            9,
            True,
            "rolled_back",
        ),  # an old record is still waited for
        (DAMAGED, None, 3, True, ""),
        (DAMAGED, told(OURS, 3, 1), 3, True, ""),
        (DAMAGED, told(OURS, 9, 5), 9, True, "missing"),
        (DAMAGED, told(OTHER, 9, 5), 9, True, "missing"),  # what said so is among what is lost
    ],
)
def test_the_volume_and_what_the_group_was_told(
    volume: Standing, offset: Committed | None, position: int, begins_late: bool, reason: str
) -> None:
    start: Start = compare(volume, offset)
    assert (start.position, start.begins_late, start.reason) == (position, begins_late, reason)
    assert bool(start.lost) == bool(reason)


def test_a_shard_that_another_volume_has_is_refused() -> None:
    with pytest.raises(StateError, match=f"run {OTHER} folded this shard last"):
        compare(whole(9, 5), told(OTHER, 3, 1))


async def test_a_restart_goes_on_with_the_same_series(tmp_path: Path) -> None:
    group = Group()
    async with life(tmp_path / "v", group) as first:
        await first.open()
        await first.take(1)
        before = await first.export()
    async with life(tmp_path / "v", group) as second:
        assert (await second.open()).oldest == 1
        await second.take(2)
        after = await second.export()
    assert (before[0], after[0]) == (5, 10)
    assert before[1] == after[1]
    assert second.telemetry.total("inferometer.state.fallbacks") == 0


async def test_a_volume_that_was_set_back_goes_on_at_the_groups_position_with_new_start_times(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    group = Group()
    async with life(tmp_path / "v", group) as first:
        await first.open()
        await first.take(1)
        shutil.copytree(tmp_path / "v", tmp_path / "old")
        await first.take(2)
        rows, _, exported_ns = await first.export()
    assert rows == 10
    async with life(tmp_path / "old", group) as second:
        assert (await second.open()).oldest == 2  # what was exported is not folded again
        rows, start_ns, _ = await second.export()
    assert rows == 5  # fewer than before,
    assert start_ns > exported_ns  # so not under the same start time
    assert second.telemetry.total("inferometer.state.fallbacks") == 1
    assert "it was set back, and the group is at position 2" in caplog.text
    async with life(tmp_path / "old", group) as third:  # once, not at each start
        assert (await third.open()).oldest == 2
        assert (await third.export())[1] == start_ns


async def test_a_damaged_volume_does_not_fold_again_what_was_exported(tmp_path: Path) -> None:
    group = Group()
    async with life(tmp_path / "v", group) as first:
        await first.open()
        await first.take(1)
        await first.take(2)
    for path in (tmp_path / "v").iterdir():
        if path.name != "lock":
            path.write_bytes(b"\0" * 64)
    async with life(tmp_path / "v", group) as second:
        assert (await second.open()).oldest == 2
    async with life(tmp_path / "v", group) as third:
        assert (await third.open()).oldest == 2
        await third.take(3)
        assert (await third.export())[0] == 5


async def test_a_crash_between_the_takeover_and_the_journal_comes_to_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = Group()
    group.told = told(OTHER, 7, 4)
    async with life(tmp_path / "v", group) as first:
        monkeypatch.setattr("agent.aggregate.folding._begin_anew", lambda volume, start: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            await first.open()
        monkeypatch.undo()
    async with life(tmp_path / "v", group) as second:
        assert (await second.open()).oldest == 7


async def test_a_volume_that_another_one_has_replaced_is_refused_before_it_joins(
    tmp_path: Path,
) -> None:
    group = Group()
    async with life(tmp_path / "v", group) as first:
        await first.open()
        await first.take(1)
    async with life(tmp_path / "w", group) as second:
        await second.open()
        await second.take(2)
    joined = group.n_joined
    async with life(tmp_path / "v", group) as third:
        with pytest.raises(
            StateError, match="another aggregator with a volume of its own"
        ) as raised:
            await third.open()
    assert str(tmp_path / "v") in str(raised.value)
    assert not third.fold.may_join.is_set()
    assert group.n_joined == joined

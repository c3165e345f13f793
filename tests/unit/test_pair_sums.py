"""Pair sums: numpy on raw rows says the same, and unions are sums."""

from __future__ import annotations

import math
import struct

import numpy as np
import pytest

from agent.config import Config, Judge
from agent.errors import DecodeError
from agent.fold.base import Fold
from agent.fold.persist import dump, load
from agent.fold.profile import Profile, merge
from agent.judge.union import united
from agent.sketch.delta import Delta
from agent.sketch.pair_scorer import PairScorer
from agent.sketch.pair_sums import (
    UNIT,
    PairSums,
    ScoredColumn,
    ScoreTable,
    pairs_of,
    united_pairs,
)
from agent.state.chunk import from_bytes, merge_digest, to_bytes
from agent.types import JsonType, StreamKey
from tests.support.blocks import LaneTable, Row, block_of, chunk_of, feature

A = StreamKey("m", "1", (("region", "eu"),))
B = StreamKey("m", "1", (("region", "us"),))
OTHER = StreamKey("other", "1")
T0 = 1_700_000_040_000
SHIFT, HALF = 48, 8 * 16  # 4 bits: cells of |x| from 2^-4 to 2^4
LOW = ((1023 - 4) << 4) - 1


def cell_by_hand(x: float) -> int:
    """The cell of a number, from the text of `ScoredColumn`."""
    if x == 0.0:
        return 0
    fraction, exponent = math.frexp(abs(x))  # abs(x) = fraction * 2^exponent, fraction in [1/2, 1)
    rounded = math.floor(fraction * 32 + 0.5)  # five bits with the leading one
    if rounded == 32:
        rounded, exponent = 16, exponent + 1
    key = ((exponent - 1 + 1023) << 4) + rounded - 16
    return int(math.copysign(min(HALF, max(0, key - LOW)), x))


def number(name: str) -> ScoredColumn:
    rng = np.random.default_rng(len(name))
    cells = rng.integers(-59, 60, (2, 2 * HALF + 1)).astype(np.int8)
    levels, peaks = cells.tobytes(), [3.0, 3.9]
    return ScoredColumn(feature(name), JsonType.NUMBER, 0.0, SHIFT, LOW, [], levels, peaks)


def text(name: str, *known: str) -> ScoredColumn:
    from agent.sketch.hash import merge_hash

    keys = [int(merge_hash(k.encode())) for k in known]
    cells = np.full((len(keys), len(keys) + 1), -5, np.int8)
    np.fill_diagonal(cells, 11)
    return ScoredColumn(
        feature(name), JsonType.STRING, 0.0, 0, 0, keys, cells.tobytes(), [4.0] * len(keys)
    )


X, FLAG, TEXT = number("x"), number("flag"), text("carrier", "AA", "UA")
FLAG = ScoredColumn(
    feature("flag"), JsonType.BOOLEAN, 0.0, 52, 1022, [], bytes([0, 256 - 6, 10]), [3.0]
)
TABLE = ScoreTable([X, TEXT, FLAG])


def rows_of(n: int, seed: int) -> list[Row]:
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        values: dict[object, object] = {}
        if i % 7:
            values[feature("x")] = float(rng.normal() * 10.0 ** rng.integers(-2, 3))
        if i % 5:
            values[feature("carrier")] = ["AA", "UA", "DL", None][int(rng.integers(4))]
        if i % 3:
            values[feature("flag")] = bool(rng.integers(2))
        values[feature("unscored")] = 1.0
        stream = [A, B, OTHER][int(rng.integers(3))]
        rows.append(Row(stream, T0 + 60_000 * int(rng.integers(2)), values))  # type: ignore[arg-type]
    return rows


def scores_by_hand(row: Row) -> list[int]:
    """Ones and scores in the table's order: first of numbers, second of numbers, texts."""
    out = [1]
    x = row.values.get(feature("x"))
    flag = row.values.get(feature("flag"))
    levels = np.frombuffer(X.levels, np.int8).reshape(2, -1)
    place = None if x is None else HALF + cell_by_hand(x)
    out.append(0 if place is None else int(levels[0][place]))
    out.append({None: 0, False: -6, True: 10}[flag])
    out.append(0 if place is None else int(levels[1][place]))
    carrier = row.values.get(feature("carrier"))
    out += [0 if carrier is None else 11 if carrier == known else -5 for known in ("AA", "UA")]
    return out


def expected(rows: list[Row]) -> dict[tuple[StreamKey, int], np.ndarray]:
    found: dict[tuple[StreamKey, int], np.ndarray] = {}
    for row in rows:
        if row.stream == OTHER:
            continue
        scores = np.array(scores_by_hand(row), np.int64)
        key = row.stream, row.time_ms // 60_000
        found[key] = found.get(key, np.zeros((6, 6), np.int64)) + np.outer(scores, scores)
    return found


def frozen(
    rows: list[Row], block_rows: int, table: ScoreTable = TABLE
) -> dict[tuple[StreamKey, int], PairSums]:
    lanes = LaneTable()
    delta = Delta(lanes)
    delta.score({("m", None): table}, 1 << 20)
    for at in range(0, len(rows), block_rows):
        delta.add(block_of(lanes, rows[at : at + block_rows]))
    groups, _, _ = delta.freeze()
    return {(g.stream, g.window): PairSums.from_bytes(pairs_of(g)) for g in groups if pairs_of(g)}


@pytest.mark.parametrize("block_rows", [1, 37, 5000])
def test_sums_are_those_of_the_scores_of_each_row(block_rows: int) -> None:
    rows = rows_of(400 if block_rows == 1 else 5000, 1)
    found = frozen(rows, block_rows)
    wanted = expected(rows)
    assert found.keys() == wanted.keys()
    for key, sums in found.items():
        assert sums.table_id == TABLE.id
        assert sums.triangle.tolist() == wanted[key][np.triu_indices(6)].tolist()


def test_means_and_covariances_are_those_of_numpy() -> None:
    rows = [row for row in rows_of(3000, 2) if row.stream == A and row.time_ms == T0]
    (sums,) = frozen(rows, 500).values()
    scores = np.array([scores_by_hand(row)[1:] for row in rows]) / UNIT
    mean, covariance = sums.moments()
    assert sums.rows == len(rows)
    np.testing.assert_allclose(mean, scores.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(covariance, np.cov(scores.T, bias=True), rtol=1e-9, atol=1e-12)


def test_a_union_has_the_sum_of_its_parts_sums_and_their_difference_gives_a_part() -> None:
    rows = [row for row in rows_of(3000, 3) if row.stream == A and row.time_ms == T0]
    whole, first, second = (
        next(iter(frozen(part, 100).values())) for part in (rows, rows[:300], rows[300:])
    )
    assert united_pairs([first.to_bytes(), b"", second.to_bytes()]) == whole.to_bytes()
    assert (whole - second).to_bytes() == first.to_bytes()


def test_sums_under_another_table_do_not_add_and_the_larger_part_stays() -> None:
    rows = [row for row in rows_of(2000, 4) if row.stream == A and row.time_ms == T0]
    other = ScoreTable([X, FLAG])
    (few,) = frozen(rows[:50], 100).values()
    (many,) = frozen(rows, 100, other).values()
    with pytest.raises(ValueError, match=f"sums of table {other.id.hex()} do not add"):
        few + many
    assert united_pairs([few.to_bytes(), many.to_bytes()]) == many.to_bytes()


def test_late_and_future_rows_are_in_no_sums() -> None:
    rows = [
        Row(A, T0 - 600_000, {feature("x"): 1.0}),
        Row(A, T0, {feature("x"): 1.0}, future=True),
        Row(A, T0, {feature("x"): 1.0}),
    ]
    lanes = LaneTable()
    scorer = PairScorer(lanes, {("m", "1"): TABLE}, 1 << 20)
    scorer.add(block_of(lanes, rows, sealed_until=T0 // 60_000))
    (sums,) = scorer.freeze().values()
    assert PairSums.from_bytes(sums).rows == 1


def test_windows_may_lie_as_far_apart_as_times_can() -> None:
    far = T0 + 60_000 * (1 << 36)
    rows = [Row(s, t, {feature("x"): 1.0}) for s in (A, A, B) for t in (T0, far)]
    rows += [Row(A, T0 + 60_000, {feature("x"): 1.0})]
    found = {key: sums.rows for key, sums in frozen(rows, 100).items()}
    first, last = T0 // 60_000, far // 60_000
    assert found == {(A, first): 2, (A, last): 2, (B, first): 1, (B, last): 1, (A, first + 1): 1}


def test_one_row_in_four_is_taken_evenly_where_the_table_says_so() -> None:
    rows = [Row(A, T0, {feature("x"): float(i % 4)}) for i in range(4000)]
    (sums,) = frozen(rows, 333, ScoreTable([X], sample_bits=2)).values()
    assert abs(sums.rows - 1000) <= 2
    # Values in step with the rows: each is as frequent among those taken.
    levels = np.frombuffer(X.levels, np.int8).reshape(2, -1)[0]
    wanted = np.mean([levels[HALF + cell_by_hand(float(i))] for i in range(4)]) / UNIT
    assert sums.moments()[0][0] == pytest.approx(wanted, abs=0.02)


def test_streams_past_the_bytes_allowed_have_no_sums_until_the_next_freeze() -> None:
    lanes = LaneTable()
    scorer = PairScorer(lanes, {("m", "1"): TABLE}, 8 * 6 * 6)
    block = block_of(lanes, [Row(s, T0, {feature("x"): 1.0}) for s in (A, B, A)])
    scorer.add(block)
    assert list(scorer.freeze()) == [(A, T0 // 60_000)]
    assert scorer.size_bytes == 0


def test_chunks_carry_sums_and_are_as_before_without() -> None:
    rows = rows_of(50, 5)
    plain = chunk_of([[rows]], digest="d")
    assert b"pairs" not in to_bytes(plain)
    lanes = LaneTable()
    delta = Delta(lanes)
    delta.score({("m", "1"): TABLE}, 1 << 20)
    delta.add(block_of(lanes, rows))
    plain.groups = delta.freeze()[0]
    data = to_bytes(plain)
    read = from_bytes(data)
    assert [pairs_of(g) for g in read.groups] == [pairs_of(g) for g in plain.groups]
    assert any(pairs_of(g) for g in read.groups)
    assert to_bytes(read) == data


def test_a_window_s_profile_has_the_sums_of_all_its_chunks_also_after_a_restart() -> None:
    rows = rows_of(600, 6)
    wanted = expected(rows)
    folds = [Fold(Config(), start_ns=1), Fold(Config(), start_ns=1)]
    for number, part in enumerate((rows[:250], rows[250:])):
        lanes = LaneTable()
        delta = Delta(lanes)
        delta.score({("m", "1"): TABLE}, 1 << 20)
        delta.add(block_of(lanes, part))
        groups, numeric, strings = delta.freeze()
        chunk = chunk_of([[]], digest=merge_digest(Config()), number=number + 1)
        chunk.groups, chunk.numeric, chunk.strings = groups, numeric, strings
        for fold in folds:
            fold.apply(chunk, 2)
        folds[1] = load(Config(), dump(folds[1]))
    found = {}
    for fold in folds:
        sealed = fold.seal_all(3).sealed
        for profile in sealed:
            if profile.stream != OTHER:
                sums = PairSums.from_bytes(profile.pairs)
                assert sums.triangle.tolist() == (
                    wanted[profile.stream, profile.window][np.triu_indices(6)].tolist()
                )
            assert bool(profile.pairs) == (profile.stream != OTHER)
            assert Profile.from_bytes(profile.to_bytes()).pairs == profile.pairs
            found[profile.stream, profile.window] = profile
    assert dump(load(Config(), dump(folds[0]))) == dump(folds[0])
    one, other = (found[A, T0 // 60_000], found[B, T0 // 60_000])
    both = united([one, other], StreamKey("m", "1"))
    assert both.pairs == united_pairs([one.pairs, other.pairs])
    assert (
        PairSums.from_bytes(merge(one, one).pairs).rows == 2 * PairSums.from_bytes(one.pairs).rows
    )


def test_bytes_that_are_no_sums_or_no_table_are_refused() -> None:
    (good,) = frozen([Row(A, T0, {feature("x"): 1.0})], 1).values()
    data = good.to_bytes()
    for bad, message in (
        (b"x", "1 bytes"),
        (data[:-1], "bytes for 5 scores"),
        (data[:10] + b"\x03" + data[11:], "scores of 3 bytes"),
        (data[:12] + b"\x00" + data[13:], "no rows"),
    ):
        with pytest.raises(DecodeError, match=message):
            PairSums.from_bytes(bad)
    assert ScoreTable.from_bytes(TABLE.to_bytes()) == TABLE
    uneven = ScoreTable(
        [ScoredColumn(feature("x"), JsonType.NUMBER, 0.0, SHIFT, LOW, [], b"1234", [3.0])]
    )
    for table in (struct.pack("<I", 7), ScoreTable([]).to_bytes(), uneven.to_bytes()):
        with pytest.raises(DecodeError, match="score table"):
            ScoreTable.from_bytes(table)


def test_windows_past_the_bytes_allowed_have_no_sums_and_their_bytes_are_given_back() -> None:
    rows = [Row(s, T0 + 60_000 * w, {feature("x"): 1.0}) for s in (A, B) for w in (0, 1)]
    config = Config(judge=Judge(pairs_max_bytes=65_536))
    fold = Fold(config, start_ns=1)
    fold.pairs_bytes = 65_536 - 100  # as if other windows held them: room for two of 33 to 54 bytes
    lanes = LaneTable()
    delta = Delta(lanes)
    delta.score({("m", "1"): TABLE}, 1 << 20)
    delta.add(block_of(lanes, rows))
    chunk = chunk_of([[]], digest=merge_digest(config))
    chunk.groups, chunk.numeric, chunk.strings = delta.freeze()
    fold.apply(chunk, 2)
    assert fold.pairs_bytes <= 65_536
    assert load(config, dump(fold)).pairs_bytes == fold.pairs_bytes - (65_536 - 100)
    sealed = fold.seal_all(3).sealed
    assert 0 < sum(bool(profile.pairs) for profile in sealed) < len(sealed) == 4
    assert fold.pairs_bytes == 65_536 - 100


def test_where_rows_abound_one_block_in_64_is_scored() -> None:
    lanes = LaneTable()
    block = block_of(lanes, [Row(A, T0, {feature("x"): 1.0})] * 40)
    scorer = PairScorer(lanes, {("m", "1"): TABLE}, 1 << 20, full_rows=100)
    for _ in range(3):
        for _ in range(1_024):
            scorer.add(block)
        (sums,) = scorer.freeze().values()
        # Three blocks after each freeze, and an even part of the other 1,021.
        assert abs(PairSums.from_bytes(sums).rows - 40 * (3 + 1_021 / 64)) <= 80

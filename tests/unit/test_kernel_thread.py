"""A kernel thread between fetches and cuts: what it holds is bounded, and a level of shedding begins at a cut."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import orjson
import pytest

from agent.config import Config, Delivery, Overload
from agent.decode.fast import FastDecoder
from agent.decode.shed import Level, SheddingDecoder, are_chosen, hash_places, salt_of
from agent.kernel_thread import Callbacks, KernelThread, Part
from agent.sketch.pair_scorer import Tables
from agent.types import Drop, Fetch, Partition, Record
from tests.support.wait import eventually

P = Partition("t", 0)
MIB = 1 << 20


class Calls:
    """What the thread called back, on the loop."""

    def __init__(self) -> None:
        self.released = self.full = 0
        self.failures: list[BaseException] = []

    def callbacks(self, make: Callable[..., FastDecoder]) -> Callbacks:
        soon = asyncio.get_running_loop().call_soon_threadsafe

        def release(size_bytes: int) -> None:
            self.released += size_bytes

        def full() -> None:
            self.full += 1

        def later(function: Callable[..., None]) -> Callable[..., None]:
            return lambda *given: (soon(function, *given), None)[1]

        return Callbacks(
            on_sketched=later(release),
            on_full=later(full),
            on_dead=lambda partition, dead: None,
            on_failure=later(self.failures.append),
            make_decoder=make,
        )


@asynccontextmanager
async def running(
    config: Config,
    make: Callable[..., FastDecoder] = FastDecoder,
    tables: Tables | None = None,
) -> AsyncIterator[tuple[KernelThread, Calls]]:
    calls = Calls()
    thread = KernelThread(0, 1, config, calls.callbacks(make), tables)
    thread.start()
    try:
        yield thread, calls
    finally:
        thread.stop(timeout_s=5.0)
        assert calls.failures == []


def fetch_of(values: list[bytes], first: int = 0, epoch: int = 1) -> Fetch:
    records = [Record(first + i, 1_767_225_600_000, None, v, ()) for i, v in enumerate(values)]
    return Fetch(epoch, P, first, first + len(values), records, -1, 1)


def reach(part: Part) -> int:
    (at,) = part.ranges
    return at.to_offset


async def test_a_full_delta_is_told_once_and_nothing_is_decoded_until_it_is_cut() -> None:
    """Each event brings 40 columns of its own, texts: 0.7 kB each while they are young."""
    limit = MIB
    config = Config(delivery=Delivery(cut_max_bytes=limit))
    n = 200
    values = [
        orjson.dumps({"model": f"m{i}", "features": {f"f{i}-{j}": "v" for j in range(40)}})
        for i in range(n)
    ]
    async with running(config) as (thread, calls):
        thread.open(1, {P: 0}, {P: "l"})
        for first in range(0, n, 10):
            thread.put(fetch_of(values[first : first + 10], first))
        reached, sizes = [0], []
        while reached[-1] < n:
            n_full = len(sizes) + 1
            await eventually(
                lambda n_full=n_full: calls.full == n_full or calls.released == n // 10,  # type: ignore[misc]
                timeout_s=60,
            )
            sizes.append(thread._own.delta.size_bytes)
            part = await thread.cut()
            reached.append(reach(part))
            assert part.tally.records == reached[-1] - reached[-2]
        assert calls.full >= len(sizes) - 1
    # One slice beyond the limit: 1,024 values that each need a new cell.
    assert limit <= sizes[0] and max(sizes) < 2 * limit
    assert len(sizes) > 2


async def test_what_an_epoch_left_behind_is_given_back_unread() -> None:
    async with running(Config()) as (thread, calls):
        thread.open(1, {P: 0}, {P: "l"})
        thread.close_epoch()
        for first in range(0, 50, 10):
            thread.put(fetch_of([b'{"model":"m","features":{"a":1}}'] * 10, first))
        await eventually(lambda: calls.released == 5)
        part = await thread.cut()
        assert (part.tally.records, part.ranges) == (0, [])


@pytest.mark.parametrize("bits", [1, 2])
async def test_rows_behind_a_cut_are_of_the_level_that_began_with_it(bits: int) -> None:
    config = Config(overload=Overload(mode="shed"))
    level = Level()
    make: Any = functools.partial(SheddingDecoder, level=level)
    value = b'{"model":"m","features":{"a":1}}'
    async with running(config, make) as (thread, calls):
        thread.open(1, {P: 0}, {P: "l"})
        thread.put(fetch_of([value] * 500))
        await eventually(lambda: calls.released == 1)
        level.bits = bits
        before = await thread.cut()
        thread.put(fetch_of([value] * 500, 500))
        await eventually(lambda: calls.released == 2)
        level.bits = 0
        after = await thread.cut()
        thread.put(fetch_of([value] * 500, 1000))
        await eventually(lambda: calls.released == 3)
        again = await thread.cut()
    n_kept = int(are_chosen(hash_places(salt_of(P), np.arange(500, 1000)), bits).sum())
    assert (before.tally.rows, after.tally.rows, again.tally.rows) == (500, n_kept, 500)
    assert after.tally.dropped == {Drop.SHED: 500 - n_kept}
    assert [reach(part) for part in (before, after, again)] == [500, 1000, 1500]
    assert all(part.tally.records == 500 for part in (before, after, again))

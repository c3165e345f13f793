"""Waiting for a condition, bounded: the only form of waiting that tests use."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def eventually(
    probe: Callable[[], T | Awaitable[T]], *, timeout_s: float = 20.0, every_s: float = 0.02
) -> T:
    """Return the first truthy result of `probe`; raise AssertionError with the last one at the end."""
    deadline = time.monotonic() + timeout_s
    while True:
        result = probe()
        if inspect.isawaitable(result):
            result = await result
        if result:
            return result  # type: ignore[return-value]
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s} s; last result: {result!r}")
        await asyncio.sleep(every_s)


def eventually_sync(probe: Callable[[], T], *, timeout_s: float = 20.0, every_s: float = 0.02) -> T:
    """As `eventually`, for tests without a loop."""
    deadline = time.monotonic() + timeout_s
    while not (result := probe()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s} s; last result: {result!r}")
        time.sleep(every_s)
    return result

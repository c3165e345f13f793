"""Waiting for the pipeline, bounded."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Stuck(AssertionError):
    """The pipeline does not go on."""


def within(probe: Callable[[], T], timeout_s: float, what: str) -> T:
    """The first truthy result; raises Stuck."""
    deadline = time.monotonic() + timeout_s
    while not (result := probe()):
        if time.monotonic() > deadline:
            raise Stuck(f"not within {timeout_s:.0f} s: {what}")
        time.sleep(0.05)
    return result

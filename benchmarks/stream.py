"""Millions of reference events for a topic, made quickly, and what is true of them.

The bodies are a pool of `benchmarks.events.reference`; each event of the stream has an id and an
event time of its own in front of one of them. Event i goes to partition i % partitions.

With sessions an event has one more feature, a text with many values: event i is of session i // 4.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from benchmarks.events import reference

#: Bodies in the pool: more than a branch predictor learns by heart, 20 MB. Batches of two partitions
#: or more never hold the same body twice, so that no codec finds one again.
POOL = 50_000
N_FEATURES = 10
#: The numbers of an event that every tool must sketch.
NUMBERS = (*(f"f{j}" for j in range(N_FEATURES)), "latency_ms", "prediction")
#: Share of events that are late, and by how much at most: within the default out-of-orderness.
LATE_SHARE = 0.05
LATE_MS = 5_000
#: Events of a session, one behind the other.
SESSION_EVENTS = 4
#: Of `Truth.quantiles`.
QUANTILES = (0.05, 0.5, 0.95)


@dataclass(frozen=True)
class Truth:
    """What is true of a part of the stream."""

    rows: int
    models: dict[str, int]
    #: name of a text -> number of its values.
    distinct: dict[str, int]
    #: name of a number -> all its values, sorted; for ranks of quantiles.
    sorted_values: dict[str, np.ndarray]

    def rank(self, name: str, value: float) -> float:
        """Share of the values of `name` that lie at or below `value`."""
        values = self.sorted_values[name]
        return float(np.searchsorted(values, value, side="right")) / len(values)


class Stream:
    """Event i, for any i. `from_ms` is the event time of the first one, `step_ms` between two.

    Not `timed`: events have no time of their own.
    """

    def __init__(
        self,
        seed: int,
        from_ms: int,
        step_ms: float,
        *,
        models: int = 16,
        timed: bool = True,
        sessions: bool = False,
    ) -> None:
        self._timed = timed
        self._sessions = sessions
        rng = random.Random(seed)
        self._from_ms = from_ms
        self._step_ms = step_ms
        self._bodies: list[bytes] = []
        self._late_ms: list[int] = []
        self._model: list[int] = []
        rows = []
        for i in range(POOL):
            model = rng.randrange(models)
            event = reference(rng, i, model, N_FEATURES)
            rows.append(
                [*list(event["features"].values())[:-1], event["latency_ms"], event["prediction"]]
            )
            for name in ("id", "ts"):
                del event[name]
            self._bodies.append(json.dumps(event, separators=(",", ":"))[1:].encode())
            self._late_ms.append(rng.randrange(LATE_MS) if rng.random() < LATE_SHARE else 0)
            self._model.append(model)
        self._rows = np.array(rows)

    def values(self, low: int, high: int) -> Iterator[bytes]:
        """The events from `low` to `high`, exclusive, as record values."""
        bodies, late_ms = self._bodies, self._late_ms
        from_ms, step_ms = self._from_ms, self._step_ms
        if not self._timed:
            for i in range(low, high):
                yield b'{"id":"req-%08d",%b' % (i, bodies[i % POOL])
            return
        for i in range(low, high):
            at = i % POOL
            ts = from_ms + int(i * step_ms) - late_ms[at]
            value = b'{"id":"req-%08d","ts":%d,%b' % (i, ts, bodies[at])
            if self._sessions:
                session = b'"features":{"session":"s-%07d",' % (i // SESSION_EVENTS)
                value = value.replace(b'"features":{', session, 1)
            yield value

    def truth(self, low: int, high: int) -> Truth:
        """Of the events from `low` to `high`, exclusive."""
        drawn = np.arange(low, high) % POOL
        times = np.bincount(drawn, minlength=POOL)
        per_model = np.bincount(np.asarray(self._model), weights=times)
        return Truth(
            rows=high - low,
            models={f"m{at:04d}": int(n) for at, n in enumerate(per_model) if n},
            distinct={
                "country": 4,
                "session": (high - 1) // SESSION_EVENTS - low // SESSION_EVENTS + 1,
            },
            sorted_values={
                name: np.sort(np.repeat(self._rows[:, at], times))
                for at, name in enumerate(NUMBERS)
            },
        )

    def distinct_in_window(self, model: str, from_ms: int, size_ms: int, n: int) -> int:
        """Sessions of one model among the first `n` events whose time lies in a window."""
        i = np.arange(n)
        at = i % POOL
        ts = self._from_ms + (i * self._step_ms).astype(np.int64) - np.asarray(self._late_ms)[at]
        chosen = (ts >= from_ms) & (ts < from_ms + size_ms)
        chosen &= np.asarray(self._model)[at] == int(model[1:])
        return len(np.unique(i[chosen] // SESSION_EVENTS))

"""Who gets a stream of its own, and what is kept of those that do not.

Invariants
 1. What is granted never exceeds the limits (streams, series, memory), overflow streams included in series
    and memory. Room for the bare counts of the last overflow stream (`_overflow`), and for one series of
    labels, is kept from the start: each row and label is counted somewhere.
 2. A sixteenth of series and memory is kept for overflow streams; declared models have reserved room
    that nobody else can take.
 3. Overflow applies to future rows: a stream that is admitted stays until it ends.
 4. Overflow keeps parents. A stream that is refused goes to `(model, version, segment=_overflow)` when this
    model and version have a stream, else to `(model, _overflow)` when the model has one, else to
    `(_overflow, _overflow)`. So overflow streams are at most two for each admitted stream, plus one.
 5. Memory here is bounded whatever names arrive: the first `MAX_NAMES` names folded, and a sketch of how many.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from agent.config import Budget, Model
from agent.fold.costs import Cost, Costs, overflow_share
from agent.types import OVERFLOW, StreamKey

MAX_NAMES = 20


class DistinctNames:
    """How many distinct names were seen: exact to `K`, then an estimate from the K smallest hashes.

    Standard error 1/sqrt(K - 2) = 3.1 %. Memory: K hashes of 8 bytes in a set and a heap, ~ 100 kB.
    """

    K = 1024

    def __init__(self) -> None:
        self._kept: set[int] = set()
        self._heap: list[int] = []  # negated: the largest kept hash first

    def add(self, name: str) -> bool:
        """Count a name; True when it surely is a new one."""
        h = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
        if h in self._kept:
            return False
        if len(self._kept) < self.K:
            self._kept.add(h)
            heapq.heappush(self._heap, -h)
            return True
        if h >= -self._heap[0]:
            return False
        self._kept.add(h)
        self._kept.discard(-heapq.heapreplace(self._heap, -h))
        return True

    def count(self) -> int:
        if len(self._kept) < self.K:
            return len(self._kept)
        # Where the estimate takes over it may be below what was counted before; it only rises then.
        return max(self.K, int((self.K - 1) * 2**64 / -self._heap[0]))

    def hashes(self) -> list[int]:
        """What is kept, ascending; at most K."""
        return sorted(self._kept)

    def restore(self, hashes: Iterable[int]) -> None:
        """Keep what `hashes` gave."""
        self._kept = set(hashes)
        self._heap = sorted(-h for h in self._kept)


@dataclass(slots=True)
class _Account:
    """A declared model's reservation, and what it has been granted."""

    reserved_streams: int
    reserved: Cost
    streams: int = 0
    series: int = 0
    memory_bytes: int = 0

    def unspent(self) -> tuple[int, int, int]:
        return (
            max(0, self.reserved_streams - self.streams),
            max(0, self.reserved.series - self.series),
            max(0, self.reserved.memory_bytes - self.memory_bytes),
        )


@dataclass(slots=True)
class Used:
    """What is granted at this time."""

    streams: int = 0  # overflow streams apart
    series: int = 0
    memory_bytes: int = 0


@dataclass(slots=True)
class _Parent:
    """What is admitted under one (model, version) or model, and the segment names of its overflow stream."""

    children: int = 0
    overflow: StreamKey | None = None


@dataclass(slots=True)
class Folded:
    """What was refused: the first names, and how many."""

    names: list[str] = field(default_factory=list)
    distinct: DistinctNames = field(default_factory=DistinctNames)

    def add(self, key: StreamKey) -> None:
        name = name_of(key)
        if self.distinct.add(name) and len(self.names) < MAX_NAMES:
            self.names.append(name)

    def count(self) -> int:
        """Distinct names folded; never falls."""
        return self.distinct.count()


def name_of(key: StreamKey) -> str:
    """A stream key as one line of text."""
    parts = [key.model]
    if key.version:
        parts.append(key.version)
    parts += [f"{name}={value}" for name, value in key.segment]
    return "/".join(parts)


def is_overflow(key: StreamKey) -> bool:
    """Whether this is one of our overflow streams."""
    return (
        key.model == OVERFLOW
        or key.version == OVERFLOW
        or any(value == OVERFLOW for _, value in key.segment)
    )


class AdmissionState(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """What is not known from the streams themselves."""

    promised_series: int
    promised_memory_bytes: int
    pressed: bool
    names: list[str]
    hashes: list[int]


LABELS = Cost(series=1, memory_bytes=0)
LAST = StreamKey(OVERFLOW, OVERFLOW)


class Admission:
    """The budget. Owned by the fold; see the module's invariants."""

    def __init__(self, budget: Budget, models: list[Model], costs: Costs) -> None:
        self.limits = budget
        self.used = Used()
        self.folded = Folded()
        self.pressed = False  # something was refused since the owner last looked
        self._accounts: dict[str, _Account] = {}
        self._parents: dict[tuple[str, ...], _Parent] = {}
        # Not granted yet, but promised: the last overflow stream, and the overflow series of labels.
        self._promised = costs.stream + LABELS
        self._unspent = [0, 0, 0]  # of all accounts
        for model in models:
            streams = model.versions * model.segments
            whole = costs.declared_stream(model.features, model.categorical).times(streams)
            self._accounts[model.name] = _Account(streams, whole)
        for account in self._accounts.values():
            for k, value in enumerate(account.unspent()):
                self._unspent[k] += value

    def is_declared(self, model: str) -> bool:
        return model in self._accounts

    def _fits(self, model: str, streams: int, cost: Cost, *, overflow: bool) -> bool:
        asked = (streams, cost.series, cost.memory_bytes)
        limits = (
            self.limits.max_streams,
            self.limits.max_series,
            self.limits.max_memory_bytes,
        )
        promised = (0, self._promised.series, self._promised.memory_bytes)
        granted = (self.used.streams, self.used.series, self.used.memory_bytes)
        account = None if overflow else self._accounts.get(model)
        own = account.unspent() if account is not None else (0, 0, 0)
        others = [total - mine for total, mine in zip(self._unspent, own, strict=True)]
        for k in range(3):
            kept = 0 if overflow or k == 0 else overflow_share(limits[k])
            left = limits[k] - kept - promised[k] - granted[k]
            # Its own reservation holds even where reservations together exceed the limit.
            if asked[k] > left or asked[k] > max(left - others[k], min(own[k], left)):
                return False
        return True

    def _charge(self, model: str, streams: int, cost: Cost, sign: int, *, overflow: bool) -> None:
        self.used.streams += sign * streams
        self.used.series += sign * cost.series
        self.used.memory_bytes += sign * cost.memory_bytes
        account = None if overflow else self._accounts.get(model)
        if account is not None:
            before = account.unspent()
            account.streams += sign * streams
            account.series += sign * cost.series
            account.memory_bytes += sign * cost.memory_bytes
            for k, (old, new) in enumerate(zip(before, account.unspent(), strict=True)):
                self._unspent[k] += new - old

    def admit(self, key: StreamKey, cost: Cost, *, whole: Cost) -> bool:
        """Grant a stream of its own, if there is room for the `whole` of it; only `cost` is charged now.

        (Its columns are charged one by one, by `grow`.)
        """
        if is_overflow(key) or not self._fits(key.model, 1, whole, overflow=False):
            self.pressed = True
            return False
        self._charge(key.model, 1, cost, 1, overflow=False)
        self._parent(key.model, key.version).children += 1
        self._parent(key.model).children += 1
        return True

    def grow(self, key: StreamKey, cost: Cost) -> bool:
        """Grant more to an admitted or overflow stream."""
        overflow = is_overflow(key)
        if not self._fits(key.model, 0, cost, overflow=overflow):
            self.pressed = True
            return False
        self._charge(key.model, 0, cost, 1, overflow=overflow)
        return True

    def shrink(self, key: StreamKey, cost: Cost) -> None:
        """Take back from a stream what it does not need."""
        self._charge(key.model, 0, cost, -1, overflow=is_overflow(key))

    def release(self, key: StreamKey, cost: Cost) -> None:
        """A stream has ended: take back all that it was granted."""
        overflow = is_overflow(key)
        self._charge(key.model, 0 if overflow else 1, cost, -1, overflow=overflow)
        for names in ((key.model, key.version), (key.model,)):
            parent = self._parents.get(names)
            if parent is None:
                continue
            if overflow:
                if parent.overflow == key:
                    parent.overflow = None
            else:
                parent.children -= 1
            if parent.children <= 0 and parent.overflow is None:
                del self._parents[names]

    def _parent(self, *names: str) -> _Parent:
        return self._parents.setdefault(names, _Parent())

    def overflow_of(self, key: StreamKey, cost: Cost, exists: set[StreamKey]) -> StreamKey:
        """The stream that takes the rows of a refused one; granted here when it is not in `exists`.

        A stream name that is itself an overflow value (somebody's model called `_overflow`) goes
        the same way, so that it cannot pose as one of ours.
        """
        self.folded.add(key)
        candidates: list[tuple[_Parent, StreamKey]] = []
        segment = tuple((name, OVERFLOW) for name, _ in key.segment)
        by_version = self._parents.get((key.model, key.version))
        if by_version is not None and segment:
            candidates.append((by_version, StreamKey(key.model, key.version, segment)))
        by_model = self._parents.get((key.model,))
        if by_model is not None:
            candidates.append((by_model, StreamKey(key.model, OVERFLOW, segment)))
        for parent, proposed in candidates:
            if parent.overflow is not None:
                return parent.overflow
            if self._fits(key.model, 0, cost, overflow=True):
                self._charge(key.model, 0, cost, 1, overflow=True)
                parent.overflow = proposed
                return proposed
        if LAST not in exists:
            self._keep_promise(cost)
        return LAST

    def admit_labels(self, model: str) -> bool:
        """Grant a series of labels to a model; refused, its labels go to the one `overflow_labels` grants."""
        return self.grow(StreamKey(model, ""), LABELS)

    def overflow_labels(self) -> None:
        """Grant the overflow series of labels. Call it once."""
        self._keep_promise(LABELS)

    def _keep_promise(self, cost: Cost) -> None:
        self._promised += cost.times(-1)
        self._charge(OVERFLOW, 0, cost, 1, overflow=True)

    # -- kept

    def state(self) -> AdmissionState:
        return AdmissionState(
            self._promised.series,
            self._promised.memory_bytes,
            self.pressed,
            list(self.folded.names),
            self.folded.distinct.hashes(),
        )

    def restore(
        self,
        state: AdmissionState,
        streams: Iterable[tuple[StreamKey, Cost]],
        labels: Iterable[str],
    ) -> None:
        """Grant what exists, whether it fits or not: streams at what they cost now, models with labels."""
        self._promised = Cost(state.promised_series, state.promised_memory_bytes)
        self.pressed = state.pressed
        self.folded = Folded(list(state.names))
        self.folded.distinct.restore(state.hashes)
        for key, cost in streams:
            overflow = is_overflow(key)
            self._charge(key.model, 0 if overflow else 1, cost, 1, overflow=overflow)
            if not overflow:
                self._parent(key.model, key.version).children += 1
                self._parent(key.model).children += 1
            elif key != LAST:
                names = (key.model,) if key.version == OVERFLOW else (key.model, key.version)
                self._parent(*names).overflow = key
        for model in labels:
            overflow = is_overflow(StreamKey(model, ""))
            self._charge(model, 0, LABELS, 1, overflow=overflow)

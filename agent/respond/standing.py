"""What is known of verdicts at one entry of the fold: states, open alarms, drift, what is not told yet.

Invariants
1. But for what was told, all of it is a function of the judged inputs, in their order: a replay of the
   journal makes it again, bit by bit.
2. Everything is bounded: subjects and drift are forgotten by event time, drift by a budget too, and
   transitions that nobody told are at most `MAX_UNTOLD`.
3. An alarm is open under one subject: what it is told of as may change, and then that is its subject.
4. A transition stays until every way out has settled it (`told`). So what a crash kept from leaving
   leaves after it, under the same id; what left, and was not settled, leaves twice.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec
from msgspec.structs import replace

from agent.errors import DecodeError
from agent.types import Column, StreamKey
from agent.verdict import Drift, Judged, Severity, State, Verdict

#: Transitions kept until they are told; ordinary ones leave a quarter for what fires and resolves.
MAX_UNTOLD: Final = 4096
_ORDINARY: Final = MAX_UNTOLD * 3 // 4
_URGENT: Final = frozenset((State.FIRING, State.RESOLVED))
#: Of event time: a monitor that has said nothing of a stream for so long has nothing to say any more.
FORGET_SUBJECT_MS: Final = 7 * 86_400_000
FORGET_DRIFT_MS: Final = 86_400_000
#: Longest list of standing verdicts that a page shows.
MAX_SHOWN: Final = 500

_ORDER: Final = {State.FIRING: 0, State.PENDING: 1, State.BLIND: 2, State.LEARNING: 3}


class SubjectKey(NamedTuple):
    monitor: str
    stream: StreamKey


class DriftKey(NamedTuple):
    stream: StreamKey
    column: Column
    metric: str


class StatusKey(NamedTuple):
    state: State
    severity: Severity


class CountKey(NamedTuple):
    model: str
    monitor: str
    state: State
    severity: Severity


class Untold(NamedTuple):
    """A transition and its number; numbers rise by one."""

    number: int
    verdict: Verdict


class Subject(msgspec.Struct, array_like=True):
    """One monitor on one stream. `open`: newest verdict of each alarm that is pending or fires."""

    latest: Verdict
    open: dict[str, Verdict] = msgspec.field(default_factory=dict)
    seen: dict[StatusKey, None] = msgspec.field(default_factory=dict)  # an ordered set

    def note(self) -> None:
        """Remember the state that is shown now, so that it is zero when another is."""
        shown = self.shown()
        self.seen[StatusKey(shown.state, shown.severity)] = None

    def shown(self) -> Verdict:
        """The verdict that matters: one that fires before one that is pending before the latest."""
        return min(
            (*self.open.values(), self.latest),
            key=lambda v: (_ORDER.get(v.state, 9), v.window_end_ms),
        )


class _Dump(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    newest_ms: int
    next_number: int
    subjects: list[tuple[SubjectKey, Subject]]
    counts: list[tuple[CountKey, int]]
    drift: list[tuple[DriftKey, Drift]]
    untold: list[Untold]


_decoder = msgspec.msgpack.Decoder(_Dump)


class Standing:
    """One owner, the fold thread. `max_drift`: distances kept, each of one column of one stream."""

    def __init__(self, max_drift: int) -> None:
        self.subjects: dict[SubjectKey, Subject] = {}
        self.counts: dict[CountKey, int] = {}  # transitions
        self.drift: dict[DriftKey, Drift] = {}
        self._subject_of: dict[str, SubjectKey] = {}  # by open alarm
        self.n_dropped = 0  # transitions that nobody told, of this process
        self._max_drift = max_drift
        self._newest_ms = -1
        self._next_number = 1
        self._told = 0  # transitions up to this number were given to somebody
        self._untold: deque[Untold] = deque()

    # ------------------------------------------------------------ inputs

    def note(self, judged: Judged) -> None:
        """Take in what judging one input brought about."""
        for verdict in judged.verdicts:
            self._note(verdict)
        for drift in sorted(
            judged.drift, key=lambda d: (d.window_start_ms, bool(d.stream.segment))
        ):
            self._note_drift(drift)
        if judged.verdicts or judged.drift:
            self._forget()

    def _note(self, verdict: Verdict) -> None:
        self._newest_ms = max(self._newest_ms, verdict.window_end_ms)
        key = SubjectKey(verdict.monitor, verdict.stream)
        subject = self.subjects.get(key)
        if subject is None:
            subject = self.subjects[key] = Subject(verdict)
        subject.latest = verdict
        if verdict.alarm:
            self._leave(verdict.alarm, key)
            if verdict.state in (State.PENDING, State.FIRING):
                subject.open[verdict.alarm] = verdict
                self._subject_of[verdict.alarm] = key
        subject.note()
        if verdict.is_transition:
            count = CountKey(verdict.stream.model, verdict.monitor, verdict.state, verdict.severity)
            self.counts[count] = self.counts.get(count, 0) + 1
            self._keep(verdict)

    def _leave(self, alarm: str, to: SubjectKey) -> None:
        """The alarm is no more open where it was; a subject that it leaves for another has nothing to say."""
        at = self._subject_of.pop(alarm, None)
        if at is None:
            return
        subject = self.subjects[at]
        was = subject.open.pop(alarm)
        if at != to and subject.latest.alarm == alarm:
            subject.latest = replace(was, state=State.OK, previous=State.OK, alarm="")
            subject.note()

    def _keep(self, verdict: Verdict) -> None:
        number = self._next_number
        self._next_number += 1
        limit = MAX_UNTOLD if verdict.state in _URGENT else _ORDINARY
        if len(self._untold) >= limit:
            if self._untold[0].number <= self._told:
                self._untold.popleft()  # somebody has it: only a repeat after a crash is given up
            else:
                self.n_dropped += 1
                return
        self._untold.append(Untold(number, verdict))

    def _note_drift(self, drift: Drift) -> None:
        self._newest_ms = max(self._newest_ms, drift.window_end_ms)
        key = DriftKey(drift.stream, drift.column, drift.metric)
        if key in self.drift or len(self.drift) < self._max_drift:
            self.drift[key] = drift

    def _forget(self) -> None:
        """Neither list is in the order of its times, and neither is long."""
        before = self._newest_ms - FORGET_SUBJECT_MS
        for key in [
            k for k, s in self.subjects.items() if s.latest.window_end_ms < before and not s.open
        ]:
            del self.subjects[key]
        before = self._newest_ms - FORGET_DRIFT_MS
        for gone in [k for k, d in self.drift.items() if d.window_end_ms < before]:
            del self.drift[gone]

    # ------------------------------------------------------------ telling

    def has_untold(self, after: int) -> bool:
        """Whether `untold` has any."""
        return bool(self._untold) and self._untold[-1].number > after

    def untold(self, after: int, n: int) -> list[Untold]:
        """The oldest `n` transitions above number `after`, which the caller tells now."""
        found = [each for each in self._untold if each.number > after][:n]
        if found:
            self._told = max(self._told, found[-1].number)
        return found

    def settle(self, upto: int) -> None:
        """Transitions up to this number have left, or never will."""
        while self._untold and self._untold[0].number <= upto:
            self._untold.popleft()

    # ------------------------------------------------------------ what is shown

    def firing(self) -> list[Verdict]:
        """Newest verdict of each alarm that fires, for actions that have to go on with them."""
        return [
            verdict
            for subject in self.subjects.values()
            for verdict in subject.open.values()
            if verdict.state is State.FIRING
        ]

    def shown(self) -> list[Verdict]:
        """Standing verdicts, what fires first; at most `MAX_SHOWN`."""
        verdicts = [subject.shown() for subject in self.subjects.values()]
        verdicts.sort(key=lambda v: (_ORDER.get(v.state, 9), v.monitor, v.stream))
        return verdicts[:MAX_SHOWN]

    # ------------------------------------------------------------ bytes

    def dump(self) -> bytes:
        """All but what was told: that is no business of a replay."""
        return msgspec.msgpack.encode(
            _Dump(
                self._newest_ms,
                self._next_number,
                list(self.subjects.items()),
                list(self.counts.items()),
                list(self.drift.items()),
                list(self._untold),
            )
        )

    def load(self, data: bytes) -> None:
        """What `dump` wrote. Raises DecodeError when the bytes are something else."""
        try:
            read = _decoder.decode(data)
        except (msgspec.DecodeError, ValueError) as error:
            raise DecodeError(f"standing verdicts: {error}") from None
        self._newest_ms, self._next_number = read.newest_ms, read.next_number
        self.subjects = dict(read.subjects)
        self._subject_of = {alarm: key for key, s in read.subjects for alarm in s.open}
        self.counts = dict(read.counts)
        self.drift = dict(read.drift[: self._max_drift])
        self._untold = deque(read.untold)


def by_state(verdicts: Iterable[Verdict]) -> dict[str, int]:
    """How many verdicts are in each state."""
    found: dict[str, int] = {}
    for verdict in verdicts:
        found[verdict.state.value] = found.get(verdict.state.value, 0) + 1
    return found

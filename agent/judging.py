"""A fold that judges what it seals: verdicts are as exact as the counts they rest on.

    Chunk, Tick -> Fold -> sealed profiles -> Judge -> Judged -> Standing -> metrics, `/v1/state`, `telling`

Invariants
1. Judging follows the fold's inputs, in their order and with their times, and nothing else. So what a
   replay of the journal folds again it judges again, with the same verdicts under the same ids.
2. Only sealed windows are judged, and time that passed (silence, stalls).
3. Time that passes is the events': the newest one's, and what has passed since it was folded. So neither
   recorded events nor a backlog read as silence.
4. A mistake in judging costs verdicts, said and counted; never a count, never the fold.
"""

from __future__ import annotations

import logging
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import msgspec

from agent.config import Config
from agent.emit.complaints import Complaints
from agent.emit.verdict_points import VerdictPoints
from agent.errors import DecodeError
from agent.fold import persist
from agent.fold.base import Fold
from agent.fold.effects import Effects
from agent.fold.persist_records import joined
from agent.fold.profile import Profile
from agent.judge.origins import Origins, OriginsKept
from agent.judge.watching import watching
from agent.respond.event import verdict_json
from agent.respond.standing import Standing, by_state
from agent.sketch.links import is_link
from agent.state.frame import open_frame, seal_frame
from agent.state.recovery import FoldCodec
from agent.state.shards import shard_of
from agent.telemetry import Telemetry
from agent.types import Chunk, Exemplar, Json, Snapshot
from agent.verdict import UNJUDGED, Judged

log = logging.getLogger(__name__)

MAGIC: Final = b"IFJF"
VERSION: Final = 1
_LENGTH: Final = struct.Struct("<4sQ")  # MAGIC, bytes of the part that is not the fold's


class Judge(Protocol):
    """What judging is asked (`judge.engine`). A function of its inputs: no clock, no randomness."""

    def linked(self, links: Sequence[Exemplar]) -> None:
        """Which bins kept requests are in (`sketch.links`), before their windows seal."""

    def sealed(self, profiles: Sequence[Profile], sealed_until: int, now_ns: int) -> Judged:
        """Windows below `sealed_until` are sealed; these are their profiles, oldest window first."""

    def tick(self, now_ns: int) -> Judged:
        """Time has passed, of the events' clock."""

    def dump(self) -> bytes: ...

    def load(self, data: bytes) -> None:
        """Go on where `dump` was made. Raises DecodeError."""

    def state(self) -> Json:
        """Its part of `/v1/state`."""

    @property
    def memory_bytes(self) -> tuple[int, int]:
        """Memory of judging by estimate, and its limit."""


def judge_maker(config: Config) -> Callable[[], Judge] | None:
    """What makes the judge of this configuration; None where nothing is judged.

    Of a fleet only aggregators judge, each the models of its shard, which has all of their streams
    (`state.shards`). Raises ConfigError for a baseline or a contract that cannot be used.
    """
    if not config.judge.enabled:
        return None
    if config.delivery.mode == "fleet":
        shard, n_shards = config.aggregate.shard, config.delivery.shards
        own = [model for model in config.models if shard_of(model.name, n_shards) == shard]
        config = msgspec.structs.replace(config, models=own)
    from agent.judge import engine
    from agent.judge.given import given, given_by_name

    references, contracts = given(config)
    named = given_by_name(config)

    def make() -> Judge:
        return engine.Judge(config, references, contracts, named=named)

    make()  # what cannot be used is said now
    return make


class JudgingFold(Fold):
    """See the module, and `Fold`. One owner, the fold thread."""

    def __init__(
        self, config: Config, *, start_ns: int, judge: Judge, telemetry: Telemetry
    ) -> None:
        super().__init__(config, start_ns=start_ns)
        self.judge = judge
        self.newest_at_ns = start_ns  # when the newest event was folded
        self._telemetry = telemetry
        self._points = VerdictPoints(config.export.drift, config.export.max_drift_series)
        self.standing = Standing(self._points.max_drift)
        self.origins = Origins()
        self._complaints = Complaints(log)

    # ------------------------------------------------------------ inputs

    def apply(self, chunk: Chunk, now_ns: int) -> Effects:
        self._note(lambda: self._linked(chunk))
        return self._judged(lambda: super(JudgingFold, self).apply(chunk, now_ns))

    def tick(self, now_ns: int) -> Effects:
        effects = self._judged(lambda: super(JudgingFold, self).tick(now_ns))
        if self.newest_event_ms >= 0:
            self._note(lambda: self.judge.tick(self._event_now_ns()))
        return effects

    def seal_all(self, now_ns: int) -> Effects:
        return self._judged(lambda: super(JudgingFold, self).seal_all(now_ns))

    def _judged(self, fold: Callable[[], Effects]) -> Effects:
        """Fold an input, and judge what it sealed: profiles, or windows that nobody had a row in."""
        before, newest_ms = self.sealed_until, self.newest_event_ms
        effects = fold()
        if self.newest_event_ms > newest_ms:
            self.newest_at_ns = self._now_ns
        if effects.sealed or self.sealed_until > before:
            began = time.thread_time()
            self._note(lambda: self.judge.sealed(effects.sealed, self.sealed_until, self._now_ns))
            self._telemetry.record("inferometer.judge.duration", time.thread_time() - began)
        return effects

    def _linked(self, chunk: Chunk) -> Judged:
        """Note where it comes from, and hand on which requests were kept, of columns that may be shown beside a
        trace."""
        self.origins.add(chunk)
        links = [e for e in chunk.exemplars if is_link(e) and self._shown.exemplars(e.column)]
        if links:
            self.judge.linked(links)
        return Judged()

    def _event_now_ns(self) -> int:
        return self.newest_event_ms * 1_000_000 + self._now_ns - self.newest_at_ns

    def _note(self, judge: Callable[[], Judged]) -> None:
        n_dropped = self.standing.n_dropped
        try:
            judged = judge()
            self.standing.note(judged)
            self._say_memory(judged)
        except Exception as error:
            self._telemetry.add("inferometer.judge.errors")
            self._complaints.say("judge", f"judging failed: {type(error).__name__}: {error}")
            log.debug("judging failed", exc_info=True)
        self._telemetry.add("inferometer.verdicts.dropped", self.standing.n_dropped - n_dropped)

    def _say_memory(self, judged: Judged) -> None:
        """What judging holds, and what it had no room for."""
        for state, size in zip(("used", "limit"), self.judge.memory_bytes, strict=True):
            self._telemetry.set("inferometer.budget.judge", size, state=state)
        self._telemetry.add("inferometer.judge.refused", judged.n_refused)
        if judged.n_refused:
            names = [v.stream.model for v in judged.verdicts if v.metric == UNJUDGED]
            which = f", new among them: {', '.join(names[:5])}" if names else ""
            self._complaints.say(
                "judge-memory",
                f"{judged.n_refused:,} windows are not judged: the memory of judging is used up"
                f"{which}; raise judge.max_memory_bytes",
            )

    # ------------------------------------------------------------ what leaves

    def export(self, now_ns: int, *, zeros: bool = True) -> Snapshot:
        snapshot = super().export(now_ns, zeros=zeros)
        snapshot.metrics += self._points.metrics(self.standing, self._start_ns, snapshot.time_ns)
        return snapshot

    def snapshot(self, now_ns: int) -> Snapshot:
        snapshot = super().snapshot(now_ns)
        snapshot.metrics += self._points.metrics(self.standing, self._start_ns, snapshot.time_ns)
        return snapshot

    def state(self, now_ns: int, made: Callable[[Json], Any] | None = None) -> Json:
        """As the fold's, with what stands of verdicts, and what the judge knows."""
        document = super().state(now_ns, made) if made is not None else super().state(now_ns)
        verdicts = self.standing.shown()
        document["verdicts"] = [verdict_json(verdict) for verdict in verdicts]
        document["verdict_counts"] = by_state(verdicts)
        document["judge"] = self.judge.state() | {"watching": watching(self._config)}
        if "inventory" in document["judge"]:
            self.origins.into(document["judge"]["inventory"])
        return document


class _Own(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """What judging keeps beside the fold."""

    newest_at_ns: int
    judge: bytes
    standing: bytes
    origins: OriginsKept | None = None


def _restore(fold: JudgingFold, data: bytes) -> None:
    """Raises DecodeError."""
    _, body = open_frame(MAGIC, VERSION, data, "state of judging")
    try:
        own = msgspec.msgpack.decode(body, type=_Own)
    except msgspec.DecodeError as error:
        raise DecodeError(f"state of judging: {error}") from None
    fold.newest_at_ns = own.newest_at_ns
    fold.judge.load(own.judge)
    fold.standing.load(own.standing)
    if own.origins is not None:
        fold.origins.restore(own.origins)


@dataclass(frozen=True)
class Folds:
    """How the folds of a process are made, written and read: judging ones, where there is a judge.

    `make_judge` makes one that knows nothing of windows yet.
    """

    config: Config
    telemetry: Telemetry
    make_judge: Callable[[], Judge] | None

    def codec(self) -> FoldCodec:
        """For a volume."""
        return FoldCodec(self.make, self.dump, self.load)

    def make(self, start_ns: int) -> Fold:
        """An empty fold whose series start at a time (epoch ns)."""
        return self._make(self.config, start_ns=start_ns)

    def dump(self, fold: Fold) -> bytes:
        """The fold, and behind a length what judging knows."""
        data = persist.dump(fold)
        if not isinstance(fold, JudgingFold):
            return data
        own = _Own(fold.newest_at_ns, fold.judge.dump(), fold.standing.dump(), fold.origins.kept())
        frame = seal_frame(MAGIC, VERSION, b"", msgspec.msgpack.encode(own))
        return joined([_LENGTH.pack(MAGIC, len(frame)), frame, data])

    def load(self, data: bytes) -> Fold:
        """What `dump` wrote; of a fold that judged nothing, judging begins anew.

        Raises as `persist.load` does. What another version wrote of judging is left out, and said.
        """
        own = b""
        if data[:4] == MAGIC:
            _, length = _LENGTH.unpack_from(data)
            own, data = data[_LENGTH.size : _LENGTH.size + length], data[_LENGTH.size + length :]
        fold = persist.load(self.config, data, self._make)
        if own and isinstance(fold, JudgingFold):
            try:
                _restore(fold, own)
            except DecodeError as error:
                fresh = self._make(self.config, start_ns=0)
                assert isinstance(fresh, JudgingFold)
                fold.judge, fold.standing = fresh.judge, fresh.standing
                fold.origins = fresh.origins
                log.warning("judging begins anew, the counts do not: %s", error)
        return fold

    def _make(self, config: Config, *, start_ns: int) -> Fold:
        if self.make_judge is None:
            return Fold(config, start_ns=start_ns)
        return JudgingFold(
            config, start_ns=start_ns, judge=self.make_judge(), telemetry=self.telemetry
        )

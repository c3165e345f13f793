"""One model and version: its baseline, given or learned, and the judges that its rules ask for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from agent.config import Config
from agent.fold.profile import Profile
from agent.judge.learner import Learner, LearnerKept, whole_of
from agent.judge.model_judge import ModelJudge, ModelKept
from agent.judge.reference import ModelKey, Reference
from agent.judge.rules import Selected
from agent.judge.sources import Sources
from agent.judge.standing import Known, Standing
from agent.types import Json, StreamKey
from agent.verdict import Judged, State, stream_json


class WatchedKept(msgspec.Struct, array_like=True):
    key: ModelKey
    learned: bytes  # the reference that was learned; b"": none
    learner: LearnerKept | None
    last_end_ms: int | None
    standing: str  # id of what is judged against
    judges: list[tuple[str, ModelKept]]


class Watched:
    """See the module. Windows are told in order, each once, with or without rows."""

    def __init__(
        self,
        key: ModelKey,
        config: Config,
        rules: Sequence[Selected],
        known: Known,
        sources: Sources,
    ) -> None:
        self.key = key
        self._config = config
        self._known = known
        self._width_ms = int(config.windows.width_s * 1000)
        self._standing = known.standing(key)
        self._learner: Learner | None = None
        self._learned: Reference | None = None
        if self._standing is None:
            self._learner = Learner(key, config.judge.learn_windows)
        stream = StreamKey(key.model, key.version)
        self.judges = [ModelJudge(stream, s.rule, sources) for s in rules if s.takes(key)]
        if self._standing is not None:
            self._stand(self._standing)
        self._last_end_ms: int | None = None

    def _stand(self, standing: Standing) -> None:
        self._standing = standing
        for judge in self.judges:
            judge.stand(standing)

    @property
    def allowed_silence_s(self) -> float | None:
        """Seconds that may pass without a row; None: not known."""
        if self._config.judge.silence_s is not None:
            return self._config.judge.silence_s
        return self._standing.contract.rows.silence_s if self._standing is not None else None

    # ------------------------------------------------------------ inputs

    def window(
        self, profiles: Sequence[Profile], others: Mapping[ModelKey, Sequence[Profile]]
    ) -> Judged:
        """A window with rows. `others`: all models' profiles of it."""
        del others
        judged = Judged(n_windows=1)
        learning = self._learner.progress if self._learner is not None else None
        for judge in self.judges:
            one = judge.window(profiles, learning=learning)
            judged.verdicts += one.verdicts
            judged.drift = judged.drift or one.drift
        self._last_end_ms = profiles[0].end_ms
        self._learn(profiles)
        return judged

    def _learn(self, profiles: Sequence[Profile]) -> None:
        learner = self._learner
        if learner is None or any(judge.alarms.is_open for judge in self.judges):
            return
        if learner.add(whole_of(self.key, profiles), profiles):
            self._stand_learned(learner.reference(self._width_ms))
        if learner.is_done:
            self._learner = None

    def _stand_learned(self, reference: Reference) -> None:
        self._learned = reference
        segments = {stream.segment: s for stream, s in reference.segments.items()}
        whole = reference.models[self.key]
        self._stand(
            self._known.standing_of(
                reference.id, self.key, whole, segments, self._width_ms, is_learned=True
            )
        )

    def empty(self, window: int) -> Judged:
        """A window that sealed without a row of this model."""
        return self._silent(window * self._width_ms, (window + 1) * self._width_ms, 0.0)

    def tick(self, now_ms: int) -> Judged:
        """Wall time, for streams on which nothing at all arrives, so that no window seals."""
        windows = self._config.windows
        slack_s = windows.width_s + windows.out_of_orderness_s + windows.idle_timeout_s
        end_ms = now_ms - int(1000 * slack_s)
        end_ms -= end_ms % self._width_ms
        return self._silent(end_ms - self._width_ms, end_ms, 0.0)

    def _silent(self, start_ms: int, end_ms: int, slack_s: float) -> Judged:
        allowed_s = self.allowed_silence_s
        if self._last_end_ms is None or allowed_s is None or start_ms < self._last_end_ms:
            return Judged()
        silent_s = (end_ms - self._last_end_ms) / 1000 - slack_s
        judged = Judged(n_windows=1)
        if silent_s >= allowed_s:
            for judge in self.judges:
                if "freshness" in judge.rule.channels:
                    judged.verdicts += judge.silence(start_ms, end_ms, silent_s, allowed_s).verdicts
        return judged

    # ------------------------------------------------------------ kept

    def kept(self) -> WatchedKept:
        """All there is, to go on from."""
        learned = b""
        if self._learned is not None:
            learned = self._learned.to_bytes()
        return WatchedKept(
            self.key,
            learned,
            self._learner.kept() if self._learner is not None else None,
            self._last_end_ms,
            self._standing.id if self._standing is not None else "",
            [(judge.rule.name, judge.kept()) for judge in self.judges],
        )

    def restore(self, kept: WatchedKept) -> None:
        """Go on from `kept`, in place. A baseline that was given and is another by now, and monitors that
        are new, begin anew. Raises DecodeError."""
        self._last_end_ms = kept.last_end_ms
        if kept.learned and (self._standing is None or self._standing.is_learned):
            self._stand_learned(Reference.from_bytes(kept.learned))
        if self._learner is not None:
            self._learner = None
            if kept.learner is not None:
                self._learner = Learner(self.key, self._config.judge.learn_windows)
                self._learner.restore(kept.learner)
        if (self._standing.id if self._standing is not None else "") != kept.standing:
            return
        own = dict(kept.judges)
        for judge in self.judges:
            if judge.rule.name in own:
                judge.restore(own[judge.rule.name])

    # ------------------------------------------------------------ read

    def state(self) -> Json:
        standing = self._standing
        return {
            "stream": stream_json(StreamKey(self.key.model, self.key.version)),
            "baseline": standing.id if standing is not None else None,
            "learned": standing.is_learned if standing is not None else True,
            "learning": self._learner.progress if self._learner is not None else None,
            "silence_s": self.allowed_silence_s,
            "alarms": [alarm["id"] for alarm in self.alarms()],
        }

    def alarms(self) -> list[Json]:
        """Open alarms."""
        return [
            {
                "id": alarm.id,
                "monitor": alarm.finding.monitor,
                "state": str(alarm.state),
                "source": alarm.source,
                "since_ms": alarm.opened_ms,
                "why": alarm.finding.why,
            }
            for judge in self.judges
            for alarm in judge.alarms.open
            if alarm.state in (State.PENDING, State.FIRING)
        ]

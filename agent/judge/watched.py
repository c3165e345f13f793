"""One model and version: its baseline, given or learned, and the judges that its rules ask for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from agent.config import Config, Monitor
from agent.config.monitors import DISTANCES, JUDGED
from agent.fold.profile import Profile
from agent.judge.alarms import Alarm, Alarms, Seen
from agent.judge.baselines import Moving, MovingKept, Others, make, twin_of
from agent.judge.bounds import BoundJudge, BoundKept, OnValues, takes
from agent.judge.cells import Prepared
from agent.judge.detector import Segment
from agent.judge.drift_shown import drifts
from agent.judge.learner import Learner, LearnerKept, cut, whole_of
from agent.judge.model_judge import ModelJudge, ModelKept
from agent.judge.panes import MIN_ROWS
from agent.judge.reference import ModelKey, Reference
from agent.judge.rules import Selected
from agent.judge.silence import Heard, Last
from agent.judge.sizes import BOUND, MODEL, learning_bytes, standing_bytes
from agent.judge.sources import Sources
from agent.judge.standing import Known, Standing, without_rows
from agent.types import Json, StreamKey
from agent.verdict import Drift, Judged, Severity, State, Verdict, stream_json


class WatchedKept(msgspec.Struct, array_like=True):
    key: ModelKey
    learned: bytes  # the reference that was learned; b"": none
    learner: LearnerKept | None
    last_end_ms: int | None
    told_ms: int
    standing: str  # id of what is judged against
    judges: list[tuple[str, ModelKept]]
    bounds: list[tuple[str, Segment, BoundKept]]
    moving: list[tuple[str, MovingKept]]
    placed: list[tuple[int, str]]
    shared: bool = False


class Watched:
    """See the module. Windows are told in order, each once, with or without rows."""

    def __init__(
        self,
        key: ModelKey,
        config: Config,
        rules: Sequence[Selected],
        known: Known,
        sources: Sources,
        *,
        on_values: OnValues | None = None,
        with_drift: bool = True,
    ) -> None:
        self.key = key
        self._on_values = on_values
        self._with_drift = with_drift or any(m.metric in DISTANCES for m in config.monitors)
        self._config = config
        self._known = known
        self._sources = sources
        self._width_ms = int(config.windows.width_s * 1000)
        self._standing = known.standing(key)
        self._contract = known.contract(key)
        self._learner: Learner | None = None
        self._learned: Reference | None = None
        if self._standing is None:
            self._learner = Learner(key, config.judge.learn_windows)
        stream = StreamKey(key.model, key.version)
        self._rules = [s for s in rules if s.takes(key)]
        self.judges = [ModelJudge(stream, s.rule, sources) for s in self._rules]
        self._moving: dict[str, Moving] = {}
        for monitor in config.monitors:
            name = monitor.baseline
            if name is not None and name not in self._moving:
                made = make(config.baselines[name], key)
                if made is not None:
                    self._moving[name] = made
        self._bounds: dict[tuple[str, Segment], BoundJudge] = {}
        self._placed: dict[int, str] = {}
        self._stand_files()
        if self._standing is not None:
            self._stand(self._standing)
        self._last_end_ms: int | None = None
        self._told_ms = 0  # end of the last window without rows that was judged
        self._is_shared = False  # other versions had rows in windows that it learned from

    def _stand_files(self) -> None:
        """Baselines that are files stand from the first window on, whatever the default one does."""
        for selected, judge in zip(self._rules, self.judges, strict=True):
            if own := self._file_of(selected.baseline):
                judge.stand(own)

    def _file_of(self, name: str | None) -> Standing | None:
        """What a baseline that is a file knows of this model; None: nothing, or it is another kind."""
        if name is None or self._config.baselines[name].type != "file":
            return None
        return self._known.of_file(name, self.key)

    def _stand(self, standing: Standing) -> None:
        """The default baseline has a new place; a twin's noise is judged by it too, and whoever names a file that
        does not know this model."""
        self._standing = standing
        for selected, judge in zip(self._rules, self.judges, strict=True):
            name = selected.baseline
            is_file = name is not None and self._config.baselines[name].type == "file"
            if name is None or self._is_twin(name) or (is_file and self._file_of(name) is None):
                judge.stand(standing)

    def _is_twin(self, name: str | None) -> bool:
        return name is not None and self._config.baselines[name].type == "twin"

    def _is_own_twin(self, name: str | None) -> bool:
        """Whether this is the stable version, which is compared with nothing."""
        return (
            name is not None
            and self._is_twin(name)
            and self._config.baselines[name].version == self.key.version
        )

    def prepared(self, start_ms: int) -> Prepared | None:
        """The default baseline, for a window that starts then; None while there is none."""
        return self._standing.whole.prepared(start_ms) if self._standing is not None else None

    @property
    def last(self) -> Last:
        """When it was last heard of; 0: not yet."""
        return Last(self._last_end_ms or 0, self.allowed_silence_s is not None)

    @property
    def size_bytes(self) -> int:
        """Memory, by estimate."""
        total = MODEL + BOUND * len(self._bounds)
        if self._learner is not None:
            total += self._learner.size_bytes
        if self._standing is not None:
            total += standing_bytes(self._standing, len(self.judges))
        return total + sum(moving.size_bytes for moving in self._moving.values())

    def needed_bytes(self, profiles: Sequence[Profile] = ()) -> int:
        """What it holds, or while it learns will hold at its largest: by the columns of these profiles, if it has
        seen none."""
        if self._learner is None:
            return self.size_bytes
        columns = max(self._learner.n_columns, len({c for p in profiles for c in p.columns}))
        segments = max(self._learner.n_segments, sum(bool(p.stream.segment) for p in profiles))
        return max(self.size_bytes, learning_bytes(columns, segments))

    @property
    def allowed_silence_s(self) -> float | None:
        """Seconds that may pass without a row; None: not known."""
        if self._config.judge.silence_s is not None:
            return self._config.judge.silence_s
        if self._standing is not None:
            return self._standing.contract.rows.silence_s
        if self._contract is not None and self._contract.rows.silence_s is not None:
            return self._contract.rows.silence_s
        return self._learner.silence_s if self._learner is not None else None

    # ------------------------------------------------------------ inputs

    def window(self, profiles: Sequence[Profile], others: Others) -> Judged:
        """A window with rows. `others`: those of all versions of the model."""
        judged = Judged(n_windows=1)
        is_shared = self._is_sharing(others)
        if self._last_end_ms is None:
            profiles = cut(profiles)  # nobody knows what a first window lacks
        # Nor which version is to have how much: rows say nothing.
        compared = cut(profiles) if is_shared else profiles
        learning = self._learner.progress if self._learner is not None else None
        whole = whole_of(self.key, profiles)
        for index, (selected, judge) in enumerate(zip(self._rules, self.judges, strict=True)):
            twin: Profile | None = None
            if selected.baseline is not None:
                spec = self._config.baselines[selected.baseline]
                if spec.type == "twin":
                    if self._is_own_twin(selected.baseline):
                        continue
                    twin = twin_of(self.key, str(spec.version), others)
                    if twin is None or twin.rows < MIN_ROWS:
                        rows = f"{twin.rows} rows are too few" if twin is not None else "no row"
                        why = f"{rows} of version {spec.version} in this window"
                        judged.verdicts += judge.blind(whole, why).verdicts
                        continue
                elif moving := self._moving.get(selected.baseline):
                    self._place(index, judge, moving.standing(whole.start_ms))
            one = judge.window(
                compared,
                learning=learning,
                twin=twin,
                with_drift=self._with_drift and not judged.drift,
                contract=self._contract,
            )
            judged.verdicts += one.verdicts
            judged.drift += one.drift
        self._last_end_ms = whole.end_ms
        judged.verdicts += self._values(profiles, whole, others, judged.drift)
        self._learn(profiles, is_shared=is_shared)
        for name, moving in self._moving.items():
            if not self._is_doubted(name, moving) and moving.add(whole):
                for index, (selected, judge) in enumerate(
                    zip(self._rules, self.judges, strict=True)
                ):
                    if selected.baseline == name:
                        self._place(index, judge, moving.standing(whole.start_ms))
        return judged

    def _is_doubted(self, name: str, moving: Moving) -> bool:
        """Whether a moving baseline stands still: while an alarm of those that are judged against it is open.
        What others say is no reason, and before it stands there is nothing to keep."""
        if not moving.stands:
            return False
        rules = zip(self._rules, self.judges, strict=True)
        return any(j.alarms.is_open for s, j in rules if s.baseline == name) or any(
            b.alarms.is_open for b in self._bounds.values() if b.monitor.baseline == name
        )

    def _place(self, index: int, judge: ModelJudge, standing: Standing | None) -> None:
        """A moving baseline has a new place, or the hour another one; not while an alarm is open."""
        if (
            standing is not None
            and self._placed.get(index) != standing.id
            and not judge.alarms.is_open
        ):
            judge.stand(standing)
            self._placed[index] = standing.id

    def _values(
        self,
        profiles: Sequence[Profile],
        whole: Profile,
        others: Others,
        drift: Sequence[Drift],
    ) -> list[Verdict]:
        """Monitors whose metric is a value, on the whole and on the segments that they select."""
        verdicts: list[Verdict] = []
        streams = [whole, *(p for p in profiles if p.stream.segment)]
        for monitor in self._config.monitors:
            if monitor.metric in JUDGED:
                continue
            for profile in streams:
                segment = profile.stream.segment
                if not takes(monitor, self.key, dict(segment)):
                    continue
                against, id, rows = self._against(monitor, profile, others)
                bound = self._bound(monitor, profile.stream)
                if against is None and bound.needs_baseline:
                    if not self._is_own_twin(monitor.baseline):
                        why = self._why_lost(monitor, segment, id)
                        verdicts += bound.lost(profile, id, *why)
                    continue
                found = drift
                if monitor.metric in DISTANCES and (monitor.baseline is not None or segment):
                    found = drifts(against, profile) if against is not None else []
                verdicts += bound.window(profile, found, against, id, rows)
        return verdicts

    def _why_lost(self, monitor: Monitor, segment: Segment, id: str) -> tuple[State, str]:
        """Why a monitor has no baseline to compare this window with."""
        if self._is_twin(monitor.baseline):
            version = self._config.baselines[str(monitor.baseline)].version
            return State.BLIND, f"no row of version {version} in this window"
        if segment and id:
            return State.BLIND, "the baseline has too few rows of this segment"
        return State.LEARNING, "learning a baseline"

    def _bound(self, monitor: Monitor, stream: StreamKey) -> BoundJudge:
        at = (monitor.name, stream.segment)
        if at not in self._bounds:
            self._bounds[at] = BoundJudge(monitor, stream, self._sources, self._on_values)
        return self._bounds[at]

    def _against(
        self, monitor: Monitor, profile: Profile, others: Others
    ) -> tuple[Profile | None, str, float | None]:
        """The baseline that a monitor compares a stream with: its profile, its id, its rows a window."""
        standing = self._standing
        name = monitor.baseline
        if name is not None:
            spec = self._config.baselines[name]
            if spec.type == "twin":
                twin = twin_of(self.key, str(spec.version), others)
                return twin, f"twin-{spec.version}", None
            if spec.type == "file":
                standing = self._known.of_file(name, self.key)
            else:
                standing = self._moving[name].standing(profile.start_ms)
        if standing is None:
            return None, "", None
        segment = profile.stream.segment
        against = standing.segments.get(segment) if segment else standing.whole
        if against is None:
            return None, standing.id, None
        found = against.profile(profile.start_ms)
        return found, standing.id, against.expected_rows(profile.start_ms)

    def _is_sharing(self, others: Others) -> bool:
        """Whether other versions of the model have rows in this window."""
        return any(k.model == self.key.model and k.version != self.key.version for k in others)

    def _learn(self, profiles: Sequence[Profile], *, is_shared: bool) -> None:
        learner = self._learner
        # Bounds of monitors are about other things; before it first stands nothing could tell good from bad.
        is_doubted = self._standing is not None and any(j.alarms.is_open for j in self.judges)
        if learner is None or is_doubted:
            return
        self._is_shared |= is_shared
        if learner.add(whole_of(self.key, profiles), profiles):
            reference = learner.reference(self._width_ms)
            self._stand_learned(reference, is_young=not learner.is_done)
        if learner.is_done:
            self._learner = None

    def _stand_learned(self, reference: Reference, *, is_young: bool) -> None:
        self._learned = reference
        segments = {stream.segment: s for stream, s in reference.segments.items()}
        whole = reference.models[self.key]
        if self._is_shared:
            whole = without_rows(whole)
        self._stand(
            self._known.standing_of(
                reference.id,
                self.key,
                whole,
                segments,
                self._width_ms,
                is_learned=True,
                is_young=is_young,
            )
        )

    def empty(self, window: int, heard: Heard) -> Judged:
        """A window that sealed without a row of this model and version."""
        return self._silent(window * self._width_ms, (window + 1) * self._width_ms, heard)

    def tick(self, now_ms: int, heard: Heard) -> Judged:
        """Wall time, for streams on which nothing at all arrives, so that no window seals."""
        windows = self._config.windows
        slack_s = windows.width_s + windows.out_of_orderness_s + windows.idle_timeout_s
        end_ms = now_ms - int(1000 * slack_s)
        end_ms -= end_ms % self._width_ms
        return self._silent(end_ms - self._width_ms, end_ms, heard)

    def _silent(self, start_ms: int, end_ms: int, heard: Heard) -> Judged:
        allowed_s = self.allowed_silence_s
        if self._last_end_ms is None or start_ms < self._last_end_ms or end_ms <= self._told_ms:
            return Judged()  # it had rows, or the clock has said so before
        self._told_ms = end_ms
        silent_s = (end_ms - heard.end_ms) / 1000
        judged = Judged(n_windows=1)
        is_silent = allowed_s is not None and silent_s >= allowed_s
        for judge in self.judges:
            if "freshness" in judge.rule.channels:
                if allowed_s is not None and is_silent and heard.version == self.key.version:
                    judged.verdicts += judge.silence(start_ms, end_ms, silent_s, allowed_s).verdicts
                elif not is_silent:
                    judged.verdicts += judge.heard_again(start_ms, end_ms)
        standing = self._standing.id if self._standing is not None else ""
        for monitor in self._config.monitors:
            is_replaced = heard.end_ms > self._last_end_ms and monitor.select.version == "*"
            is_about = monitor.metric in ("volume", "freshness") and takes(monitor, self.key, {})
            if is_about and not is_replaced:
                bound = self._bound(monitor, StreamKey(self.key.model, self.key.version))
                judged.verdicts += bound.empty(start_ms, end_ms, silent_s, standing)
        return judged

    def closed(self, start_ms: int, end_ms: int, why: str) -> list[Verdict]:
        """The last verdicts of what is open: this model is judged no more, and why not."""
        verdicts: list[Verdict] = []
        for alarms, stream, severity in self._all_alarms():
            seen = Seen(
                stream=stream,
                start_ms=start_ms,
                end_ms=end_ms,
                rows=0,
                severity=severity,
            )
            verdicts += alarms.step(seen, [])
        return [msgspec.structs.replace(v, why=f"{self.name}: {why}") for v in verdicts]

    @property
    def name(self) -> str:
        """As sentences name it."""
        return f"{self.key.model} {self.key.version}".rstrip()

    def _all_alarms(self) -> Iterator[tuple[Alarms, StreamKey, Severity]]:
        """Those of every rule and monitor, of which stream and how severe."""
        for judge in self.judges:
            severity = judge.rule.severity
            lesser = Severity.INFO if severity is Severity.INFO else Severity.TICKET
            yield judge.alarms, judge.stream, severity
            yield judge.schema, judge.stream, lesser
            yield judge.early, judge.stream, lesser
        for bound in self._bounds.values():
            yield bound.alarms, bound.stream, bound.monitor.severity

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
            self._told_ms,
            self._standing.id if self._standing is not None else "",
            [(judge.rule.name, judge.kept()) for judge in self.judges],
            [(name, segment, bound.kept()) for (name, segment), bound in self._bounds.items()],
            [(name, moving.kept()) for name, moving in self._moving.items()],
            list(self._placed.items()),
            self._is_shared,
        )

    def restore(self, kept: WatchedKept) -> None:
        """Go on from `kept`, in place. A baseline that was given and is another by now, and monitors that
        are new, begin anew. Raises DecodeError."""
        self._last_end_ms, self._told_ms = kept.last_end_ms, kept.told_ms
        self._is_shared = kept.shared
        if kept.learned and (self._standing is None or self._standing.is_learned):
            is_young = kept.learner is not None
            self._stand_learned(Reference.from_bytes(kept.learned), is_young=is_young)
        if self._learner is not None:
            self._learner = None
            if kept.learner is not None:
                self._learner = Learner(self.key, self._config.judge.learn_windows)
                self._learner.restore(kept.learner)
        for name, moving in kept.moving:
            if name in self._moving:
                self._moving[name].restore(moving)
        for name, segment, bound in kept.bounds:
            monitor = next((m for m in self._config.monitors if m.name == name), None)
            if monitor is not None and monitor.when is not None:
                stream = StreamKey(self.key.model, self.key.version, segment)
                self._bound(monitor, stream).restore(bound)
        if (self._standing.id if self._standing is not None else "") != kept.standing:
            return
        placed = dict(kept.placed)
        for index, (selected, judge) in enumerate(zip(self._rules, self.judges, strict=True)):
            if index in placed and selected.baseline in self._moving:
                standing = self._moving[selected.baseline].of_id(placed[index])
                if standing is not None:
                    judge.stand(standing)
                    self._placed[index] = standing.id
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
        """Open alarms, as documents show them."""
        return [alarm_json(alarm) for alarm in self.open_alarms()]

    def open_alarms(self) -> list[Alarm]:
        """Of all rules, pending or firing."""
        return [alarm for alarms, _, _ in self._all_alarms() for alarm in alarms.open]


def alarm_json(alarm: Alarm) -> Json:
    """An open alarm, as documents show it."""
    return {
        "id": alarm.id,
        "monitor": alarm.monitor,
        "state": str(alarm.state),
        "source": alarm.source,
        "since_ms": alarm.opened_ms,
        "why": alarm.finding.why,
    }

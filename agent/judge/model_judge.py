"""Judges the windows of one model: contract, change and state, and the one alarm that they feed.

Also what each segment has to say goes through here: half the weight of the change detector is on cells of all
traffic, half on segments. While an alarm is open nothing that is learned moves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from agent.config.contract import ModelContract
from agent.fold.profile import Profile
from agent.judge.abrupt import Abrupt, AbruptKept
from agent.judge.alarms import Alarm, Alarms, Finding, Seen
from agent.judge.attribution import causes, segment_causes
from agent.judge.broken import CERTAIN, Broken, BrokenKept, as_ticket
from agent.judge.cells import CellKey, CellValue, Prepared, Statistic, measure
from agent.judge.contract import MIN_ROWS
from agent.judge.counted import Counted, counted
from agent.judge.detector import ChangeDetector, Evidence, Segment, Step
from agent.judge.drift_shown import drifts
from agent.judge.explanation import shift
from agent.judge.learner import cut, whole_of
from agent.judge.pairs_cells import PairsFound, measure_pairs
from agent.judge.reference import ModelKey
from agent.judge.rule import Rule
from agent.judge.sources import Sources
from agent.judge.standing import Standing
from agent.judge.state_test import StateTest
from agent.judge.union import united
from agent.judge.wide import Wide, WideKept
from agent.types import Column, StreamKey
from agent.verdict import Cause, Judged, Severity, State, Verdict, shown_name

#: Metrics of findings of the change and state channels.
_OF_CHANGE: Final = frozenset(("evidence", "psi"))


class ModelKept(msgspec.Struct, array_like=True):
    """What a judge of one model remembers between windows, beside its standing."""

    detector: bytes
    state: bytes
    alarms: list[Alarm]
    rules: BrokenKept
    last: State
    early: list[Alarm] = []
    abrupt: AbruptKept | None = None
    wide: WideKept | None = None
    joined: list[Finding] = []
    few: bytes = b""


class ModelJudge:
    """One rule on one model and version, or on one segment of it."""

    def __init__(self, stream: StreamKey, rule: Rule, sources: Sources) -> None:
        self.stream = stream
        self.alarms = Alarms(f"{rule.name}:" if rule.name else "")
        self.early = Alarms(f"{rule.name}:early:")
        self.rule = rule
        self._sources = sources
        self._standing: Standing | None = None
        self._detector: ChangeDetector | None = None
        self._state: StateTest | None = None
        self._abrupt: Abrupt | None = None
        if "drift" in rule.channels:
            self._abrupt = Abrupt(
                rule.target_windows, rule.wanted_effect, rule.width_ms, rule.takes
            )
        self._wide: Wide | None = None
        self._few: Profile | None = None  # windows that rules could not be asked of yet
        self._joined: list[Finding] = []  # what the last block of blind windows showed
        self._rules = Broken(stream.model, self._name, rule, sources)
        self._last = State.OK

    @property
    def schema(self) -> Alarms:
        """Of new features: tickets."""
        return self._rules.new

    @property
    def standing(self) -> Standing | None:
        return self._standing

    def stand(self, standing: Standing) -> None:
        """Judge against this from the next window on."""
        self._standing = standing
        rule = self.rule
        if not standing.is_swinging:
            self._abrupt = None
        before, self._wide, self._joined = self._wide, None, []
        if "drift" in rule.channels and not standing.calibration.is_learning:
            self._wide = Wide(
                standing, rule.target_windows, rule.wanted_effect, rule.allowed_psi, rule.width_ms
            )
            if before is not None:
                self._wide.take_over(before)
        self._detector = ChangeDetector(
            standing.calibration, rule.target_windows, ask=rule.wanted_effect
        )
        self._state = StateTest(standing.calibration, rule.target_windows, limit=rule.allowed_psi)

    def kept(self) -> ModelKept:
        """All there is beside the standing, to go on from."""
        return ModelKept(
            self._detector.dump() if self._detector is not None else b"",
            self._state.dump() if self._state is not None else b"",
            self.alarms.kept(),
            self._rules.kept(),
            self._last,
            self.early.kept(),
            self._abrupt.kept() if self._abrupt is not None else None,
            self._wide.kept() if self._wide is not None else None,
            self._joined,
            self._few.to_bytes() if self._few is not None else b"",
        )

    def restore(self, kept: ModelKept) -> None:
        """Go on from `kept`, in place, after `stand`. Raises DecodeError."""
        if self._detector is not None and kept.detector:
            self._detector.load(kept.detector)
        if self._state is not None and kept.state:
            self._state.load(kept.state)
        self.alarms.open = kept.alarms
        self.early.open = kept.early
        if self._abrupt is not None and kept.abrupt is not None:
            self._abrupt.restore(kept.abrupt)
        self._joined = kept.joined
        self._few = Profile.from_bytes(kept.few) if kept.few else None
        if self._wide is not None and kept.wide is not None:
            self._wide.restore(kept.wide)
        self._rules.restore(kept.rules)
        self._last = kept.last

    # ------------------------------------------------------------ one window

    def window(
        self,
        profiles: Sequence[Profile],
        *,
        learning: float | None = None,
        twin: Profile | None = None,
        with_drift: bool = True,
        contract: ModelContract | None = None,
    ) -> Judged:
        """Judge a window's streams.

        learning  share of the windows to learn from that was seen, while there is no standing
        with_drift  whether the distances are wanted
        contract  that was given, else None
        twin      compare with this window of another version; the standing says what noise to expect
        """
        whole = whole_of(ModelKey(self.stream.model, self.stream.version), profiles)
        first = profiles[0]
        findings: list[Finding]
        if self._standing is None:
            seen = self._seen(first.start_ms, first.end_ms, whole.rows, None)
            findings = []
            if whole.rows >= MIN_ROWS:
                read = counted(whole)
                if contract is not None and "quality" in self.rule.channels:
                    findings = self._rules.findings(contract, None, whole, read)
                if not findings:
                    self._follow(first.window, read, whole)
            verdicts = self._verdicts(seen, findings, State.LEARNING, learning or 0.0)
            return Judged(verdicts + self._rules.schema(seen), [], 1)
        if whole.rows < MIN_ROWS:
            return self._of_few(whole, twin, contract)
        standing = self._standing
        baseline = standing.whole.prepared(first.start_ms) if twin is None else Prepared(twin)
        read = counted(whole)
        findings = []
        if "quality" in self.rule.channels:
            is_early = standing.is_young and contract is None
            findings += self._rules.findings(
                standing.contract, standing.columns, whole, read, is_early=is_early
            )
        quiet = State.OK
        swung: Finding | None = None  # away from what was learned, which the hour may explain
        minimum: float | None = None
        is_about_change = bool(self.rule.channels & {"drift", "state"})
        read_segments: dict[Segment, Counted] = {}
        if twin is None and (findings or is_about_change):
            read_segments = {
                p.stream.segment: counted(p)
                for p in profiles
                if p.stream.segment in standing.segments
            }
        if is_about_change:
            expected = self._expected(standing, whole, twin)
            cells = self._cells(measure(baseline, read, expected), whole)
            pairs = self._pairs(standing, whole) if twin is None else None
            if pairs is not None:
                cells.append(pairs.value)
            by_segment = {
                segment: self._cells(
                    measure(standing.segments[segment].prepared(first.start_ms), window), whole
                )
                for segment, window in read_segments.items()
            }
            step = self._change(first.window, cells, by_segment)
            minimum = step.minimum_effect
            quiet = step.state if step.state in (State.LEARNING, State.BLIND) else State.OK
            if quiet is State.BLIND:
                self._gathered(whole, twin)
                if self._is_sighted:
                    quiet, minimum = State.OK, self._wide_minimum
            elif self._wide is not None:
                self._wide.forget()
                self._joined = []
            findings += self._joined
            found = {"drift": step, "state": self._slow(first.window, cells, by_segment)}
            for channel, one in found.items():
                if channel in self.rule.channels and one is not None:
                    finding = self._drift(channel, one, standing, baseline, read, pairs, expected)
                    if finding is not None and standing.is_young and twin is None:
                        swung = swung or finding
                    elif finding is not None:
                        findings.append(finding)
        if self._abrupt is not None and twin is None:
            jump = self._abrupt.step(first.window, read, with_volume=not whole.is_partial)
            if jump is not None:
                finding = self._drift(
                    "drift", jump.step, standing, jump.baseline, read, None, jump.expected_rows
                )
                findings += [finding] if finding is not None else []
                minimum = jump.step.minimum_effect
                quiet = State.BLIND if jump.step.state is State.BLIND else State.OK
            if not findings and not self.alarms.is_open:
                self._abrupt.learn(read, with_volume=not whole.is_partial)
        findings = [self._by_segments(f, baseline, read_segments, standing) for f in findings]
        seen = self._seen(first.start_ms, first.end_ms, whole.rows, minimum)
        early: list[Finding] = []
        is_page = self._pages(findings)
        if not is_page:
            early = [f for f in findings if f.is_soft]
            findings = [f for f in findings if not f.is_soft]
        verdicts = self._verdicts(seen, findings, quiet)
        if swung is not None and not self.alarms.is_open:
            verdicts = [self._swinging(v, swung) for v in verdicts]
        tickets = self.early.step(as_ticket(seen), early)
        if is_page:  # what a ticket said is part of the alarm that pages
            alarm = verdicts[0].alarm
            why = f"{self._name}: told by alarm {alarm} from now on"
            tickets = [msgspec.structs.replace(v, why=why) for v in tickets]
        verdicts += self._rules.schema(seen) + tickets
        return Judged(verdicts, drifts(baseline, whole, read) if with_drift else [], 1)

    @property
    def _wide_minimum(self) -> float | None:
        return self._wide.minimum if self._wide is not None else None

    @property
    def _is_sighted(self) -> bool:
        return self._wide is not None and self._wide.is_sighted

    def _gathered(self, whole: Profile, twin: Profile | None) -> bool:
        """A blind window, judged with those before it as soon as they show enough together; whether it was."""
        standing, wide = self._standing, self._wide
        if wide is None or standing is None or (standing.is_young and twin is None):
            return False
        block = wide.add(whole, twin, lambda cell: self.rule.takes(cell.key.column))
        if block is None:
            return False
        steps = {"drift": block.change, "state": block.state}
        found = [
            self._drift(channel, step, standing, block.baseline, block.read, None, None)
            for channel, step in steps.items()
            if channel in self.rule.channels
        ]
        self._joined = [finding for finding in found if finding is not None]
        return True

    def _of_few(
        self, whole: Profile, twin: Profile | None, contract: ModelContract | None
    ) -> Judged:
        """A window of too few rows. It is judged with those before it, by rules as soon as those can be asked; until
        then what was said stands."""
        standing = self._standing
        assert standing is not None
        is_block = self._gathered(whole, twin)
        seen = self._seen(whole.start_ms, whole.end_ms, whole.rows, self._wide_minimum)
        held = [alarm.finding for alarm in self.alarms.open]
        soft = [alarm.finding for alarm in self.early.open]
        if is_block:
            held = [f for f in held if f.metric not in _OF_CHANGE] + self._joined
        if "quality" in self.rule.channels:
            few = whole if self._few is None else united([self._few, whole], whole.stream)
            self._few = few if few.rows < MIN_ROWS else None
            if self._few is None:
                (few,) = cut([few])
                is_early = standing.is_young and contract is None
                known = standing.columns
                found = self._rules.findings(
                    standing.contract, known, few, counted(few), is_early=is_early
                )
                held = [f for f in held if f.metric in _OF_CHANGE or f.metric == "freshness"]
                held += [f for f in found if not f.is_soft]
                soft = [f for f in found if f.is_soft]
        quiet = State.OK if self._is_sighted else State.BLIND
        verdicts = self._verdicts(seen, held, quiet)
        return Judged(verdicts + self.early.step(as_ticket(seen), soft), [], 1)

    def _follow(self, window: int, read: Counted, whole: Profile) -> None:
        """A window of the first, before anything stands."""
        if self._abrupt is not None:
            self._abrupt.step(window, read, with_volume=not whole.is_partial)
            self._abrupt.learn(read, with_volume=not whole.is_partial)

    def _swinging(self, verdict: Verdict, swung: Finding) -> Verdict:
        """What a quiet window says when it is unlike the hours that were learned: shown, and no alarm."""
        if verdict.alarm:
            return verdict
        return msgspec.structs.replace(
            verdict,
            state=State.LEARNING,
            metric=swung.metric,
            value=swung.value,
            threshold=swung.threshold,
            feature=swung.causes[0].feature,
            attribution=swung.causes,
            why=f"{swung.why}; the hour of the day may explain it: too little of that is known to call it a change",
        )

    def _pages(self, findings: Sequence[Finding]) -> bool:
        """Whether what is found is one alarm that fires: what would be a ticket by itself joins it."""
        hard = [f for f in findings if not f.is_soft]
        fires = any(f.state is State.FIRING for f in hard)
        return fires or (bool(hard) and any(a.state is State.FIRING for a in self.alarms.open))

    def blind(self, whole: Profile, why: str) -> Judged:
        """A window that cannot be judged, and why not; an open alarm stays."""
        seen = self._seen(whole.start_ms, whole.end_ms, whole.rows, None)
        verdicts = self._verdicts(seen, self._held(seen), State.BLIND)
        if not self.alarms.open:
            verdicts = [msgspec.structs.replace(v, why=f"{self._name}: {why}") for v in verdicts]
        return Judged(verdicts, [], 1)

    def silence(self, start_ms: int, end_ms: int, silent_s: float, allowed_s: float) -> Judged:
        """No row for longer than allowed; the window has none."""
        name = self.rule.named("freshness")
        detail = f"no row for {silent_s:,.0f} s; one is expected every {allowed_s:,.0f} s"
        cause = Cause(statistic="stall", score=CERTAIN, share=1.0, detail=detail)
        finding = Finding(
            monitor=name,
            metric="freshness",
            state=State.FIRING,
            value=silent_s,
            threshold=allowed_s,
            unit="s",
            causes=(cause,),
            why=f"{self._name}: {detail}",
        )
        seen = self._seen(start_ms, end_ms, 0, None)
        self._last = State.FIRING
        return Judged(self.alarms.step(seen, [finding]), [], 1)

    def heard_again(self, start_ms: int, end_ms: int) -> list[Verdict]:
        """Another version has rows: a silence that was told is over."""
        if not any(c.statistic == "stall" for a in self.alarms.open for c in a.finding.causes[:1]):
            return []
        self._last = State.RESOLVED
        return self.alarms.step(self._seen(start_ms, end_ms, 0, None), [])

    # ------------------------------------------------------------ channels

    def _cells(self, values: list[CellValue], whole: Profile) -> list[CellValue]:
        """Those that the rule is about; volume only of windows that are whole."""
        return [
            v
            for v in values
            if self.rule.takes(v.key.column)
            and not (v.key.statistic is Statistic.VOLUME and whole.is_partial)
        ]

    def _pairs(self, standing: Standing, whole: Profile) -> PairsFound | None:
        """Whether columns still move together; None where that is not watched or not known."""
        known = standing.whole.reference.pairs
        return measure_pairs(known, whole) if known is not None and self.rule.takes(None) else None

    def _change(
        self,
        window: int,
        cells: list[CellValue],
        segments: Mapping[Segment, list[CellValue]],
    ) -> Step:
        assert self._detector is not None
        return self._detector.step(window, cells, segments)

    def _slow(
        self,
        window: int,
        cells: list[CellValue],
        segments: Mapping[Segment, list[CellValue]],
    ) -> Step | None:
        return None if self._state is None else self._state.step(window, cells, segments)

    def _drift(
        self,
        channel: str,
        step: Step,
        standing: Standing,
        baseline: Prepared,
        read: Counted,
        pairs: PairsFound | None,
        expected_rows: float | None,
    ) -> Finding | None:
        if step.state not in (State.PENDING, State.FIRING):
            return None
        listed: list[Evidence] = step.evidence
        columns = list({**baseline.columns, **read.columns})
        found = causes(
            listed,
            sources=self._sources.by_column(self.stream.model, columns),
            baseline=baseline,
            window=read,
            pairs=pairs,
        )
        if not found:
            return None
        if expected_rows is not None:
            rows = f"{read.rows:,.0f} rows; {expected_rows:,.0f} are usual"
            found = [
                msgspec.structs.replace(c, detail=rows) if c.statistic == "volume" else c
                for c in found
            ]
        first = found[0]
        source = first.source if first.feature is None else None
        what = f"source {source}" if source else first.feature or "all traffic"
        detail = f": {first.detail}" if first.detail else ""
        changed = "has changed" if channel == "drift" else "has moved away from its baseline"
        return Finding(
            monitor=self.rule.named(channel),
            metric="evidence" if channel == "drift" else "psi",
            state=step.state,
            value=step.m,
            threshold=step.threshold,
            causes=tuple(found),
            source=source,
            why=f"{self._name}: {what} {changed} ({first.statistic}){detail}",
            is_back=all(evidence.is_back for evidence in listed),
        )

    def _by_segments(
        self,
        finding: Finding,
        baseline: Prepared,
        windows: Mapping[Segment, Counted],
        standing: Standing,
    ) -> Finding:
        """With the segments that explain the best cause behind all causes."""
        first = next((c for c in finding.causes if c.feature is not None), None)
        if first is None or finding.state is not State.FIRING or len(windows) < 2:
            return finding
        keys = (
            _cell_key(c, first.statistic)
            for c in baseline.columns
            if shown_name(c) == first.feature
        )
        key = next(keys, None)
        if key is None:
            return finding
        before = {s: counted(standing.segments[s].reference.profile) for s in windows}
        segments = segment_causes(key, baseline, windows, before)
        return msgspec.structs.replace(finding, causes=(*finding.causes, *segments))

    def _expected(self, standing: Standing, whole: Profile, twin: Profile | None) -> float | None:
        """Rows of a window like this one; a canary has as many as it is given."""
        if whole.is_partial or twin is not None:
            return None
        return standing.whole.expected_rows(whole.start_ms)

    # ------------------------------------------------------------ verdicts

    @property
    def _name(self) -> str:
        version = f" {self.stream.version}" if self.stream.version else ""
        segment = "".join(f" {k}={v}" for k, v in self.stream.segment)
        return f"{self.stream.model}{version}{segment}"

    def _seen(self, start_ms: int, end_ms: int, rows: int, minimum: float | None) -> Seen:
        return Seen(
            stream=self.stream,
            start_ms=start_ms,
            end_ms=end_ms,
            rows=rows,
            severity=self.rule.severity,
            baseline=self._standing.id if self._standing is not None else "",
            minimum_effect=minimum,
        )

    def _held(self, seen: Seen) -> list[Finding]:
        """What an open alarm said before, for a window with too few rows to say anything."""
        del seen
        return [alarm.finding for alarm in self.alarms.open]

    def _verdicts(
        self, seen: Seen, findings: Sequence[Finding], quiet: State, value: float = 0.0
    ) -> list[Verdict]:
        """One verdict for each open alarm; without one, what the monitor says of a quiet window."""
        verdicts = self.alarms.step(seen, findings)
        if verdicts:
            self._last = max((v.state for v in verdicts), key=list(State).index)
            return verdicts
        return [self._idle(seen, quiet, value)]

    def _idle(self, seen: Seen, state: State, value: float) -> Verdict:
        previous, self._last = self._last, state
        if previous in (State.FIRING, State.PENDING, State.RESOLVED):
            previous = state  # the alarm's own last verdict said so
        channel = "drift" if "drift" in self.rule.channels else next(iter(self.rule.channels))
        why = ""
        if state is State.LEARNING:
            why = f"{self._name}: learning a baseline, {value:.0%} of it seen"
            if self._standing is not None:
                why = f"{self._name}: too little history to call a change; rules are watched"
        elif state is State.BLIND:
            why = f"{self._name}: {seen.rows:,} rows are too few for what is asked"
            if seen.minimum_effect is not None:
                why += f": they show {shift(seen.minimum_effect)}"
        return Verdict(
            monitor=self.rule.named(channel),
            stream=seen.stream,
            window_start_ms=seen.start_ms,
            window_end_ms=seen.end_ms,
            state=state,
            previous=previous,
            severity=Severity.INFO,
            value=value,
            threshold=1.0,
            rows=seen.rows,
            baseline=seen.baseline,
            minimum_effect=seen.minimum_effect,
            why=why,
        )


def _cell_key(column: Column, statistic: str) -> CellKey | None:
    """The cell that a cause is about; a column that has vanished is missing."""
    if statistic == "vanished":
        return CellKey(column, Statistic.MISSING)
    return CellKey(column, Statistic(statistic)) if statistic in set(Statistic) else None

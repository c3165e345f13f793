"""Judge: sealed windows in, verdicts out. Owned by whoever seals; a pure function of its inputs.

Invariants
1. Inputs are `sealed` (profiles of windows, oldest first, each once) and `tick` (time). No clock is read, no
   order of a hash matters: the same inputs give the same verdicts, bit for bit.
2. `load(dump())` continues as if nothing had happened.
3. A model has one alarm for each source at most, whatever breaks (`alarms`).
4. Memory is bounded: models are judged while `judge.max_memory_bytes` lasts, declared ones first (`room`); who is
   not is told once. A version or model that is gone for good is forgotten (`silence`), its alarms closed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from agent.config import Config
from agent.config.contract import ModelContract
from agent.errors import DecodeError
from agent.fold.profile import Profile
from agent.judge.bounds import OnValues
from agent.judge.inventory import Inventory, InventoryKept
from agent.judge.learner import whole_of
from agent.judge.presence import MONITOR, Presence, PresenceKept
from agent.judge.reference import ModelKey, Reference
from agent.judge.room import Room, RoomKept
from agent.judge.rules import rules_of
from agent.judge.silence import Heard, gone, heard
from agent.judge.sources import Sources, matches
from agent.judge.standing import Known
from agent.judge.together import OneKept, Together
from agent.judge.traces import Traces, TracesKept
from agent.judge.watched import Watched, WatchedKept, alarm_json
from agent.state.shards import shard_of
from agent.types import OVERFLOW, Exemplar, Json, StreamKey
from agent.verdict import UNJUDGED, Judged, Severity, State, Verdict, stream_json

#: Windows without a row that are told one by one; of a longer silence the last ones are. Of many models fewer are: so
#: many steps at most a call, but never fewer windows than most rules wait for.
_MOST_EMPTY: Final = 200
_MOST_STEPS: Final = 20_000
_LEAST_EMPTY: Final = 8
#: Models that are not judged, as far as the state page lists them.
_MOST_LISTED: Final = 100
_WHY_NOT: Final = "the memory of judging is used up (judge.max_memory_bytes)"


class _Kept(msgspec.Struct, array_like=True):
    sealed_until: int | None
    inventory: InventoryKept
    presence: PresenceKept
    models: list[WatchedKept]
    traces: TracesKept | None = None
    room: RoomKept | None = None
    together: list[tuple[str, OneKept]] = []


class Judge:
    """See the module."""

    def __init__(
        self,
        config: Config,
        references: Sequence[Reference] = (),
        contracts: Sequence[ModelContract] = (),
        *,
        by_rows: bool = False,
        named: Mapping[str, Reference] | None = None,
        on_values: OnValues | None = None,
        with_drift: bool | None = None,
    ) -> None:
        """Raises ConfigError for a reference or contract that cannot be used.

        with_drift  whether distances are shown; default: where `export.drift` sends them. They take two
                    thirds of judging's time, and verdicts do not rest on them
        named    references of `baselines` by name
        by_rows  windows are numbers of rows, so that volume and silence mean nothing
        """
        self._config = config
        self._on_values = on_values
        self._with_drift = config.export.drift != "none" if with_drift is None else with_drift
        width_ms = int(config.windows.width_s * 1000)
        self._known = Known(references, contracts, width_ms, by_rows=by_rows, named=named)
        self._sources = Sources(config.sources)
        self._traces = Traces(width_ms)
        self._together = Together(config, by_rows=by_rows)
        self._rules = rules_of(config)
        self._models: dict[ModelKey, Watched] = {}
        self._width_ms = width_ms
        self._declared = {m.name for m in config.models} | {k.model for k in self._known.models()}
        self._room = Room(config.judge.max_memory_bytes, self._is_declared)
        self._sealed_until: int | None = None
        self._inventory = Inventory(config)
        self._presence = Presence(config, self._expected())

    # ------------------------------------------------------------ inputs

    def linked(self, links: Iterable[Exemplar]) -> None:
        """Which bins kept requests are in (`sketch.links`), before their windows seal."""
        self._traces.add(links, self._sealed_until)

    def sealed(self, profiles: Iterable[Profile], sealed_until: int, now_ns: int) -> Judged:
        """Windows that sealed, and the window below which all are sealed now."""
        profiles = list(profiles)
        self._inventory.sealed(profiles, now_ns)
        windows: dict[int, dict[ModelKey, list[Profile]]] = {}
        for profile in profiles:
            key = ModelKey(profile.stream.model, profile.stream.version)
            if OVERFLOW not in key and profile.rows:
                windows.setdefault(profile.window, {}).setdefault(key, []).append(profile)
        judged = Judged()
        for window in sorted(windows):
            self._pass(judged, window)
            versions: dict[str, dict[ModelKey, list[Profile]]] = {}
            for key, parts in windows[window].items():
                versions.setdefault(key.model, {})[key] = parts
            for key in sorted(windows[window]):
                watched = self._admitted(judged, key, windows[window][key])
                if watched is not None:
                    one = watched.window(windows[window][key], versions[key.model])
                    judged.add(self._named(one, watched, windows[window][key]))
                    self._charge(judged, watched, window)
            heard = self._heard()
            for key in sorted(self._models.keys() - windows[window].keys()):
                judged.add(self._models[key].empty(window, heard[key.model]))
            judged.verdicts += self._together.window(window, windows[window])
            judged.verdicts += self._presence.window(window, windows[window])
            self._sealed_until = max(self._sealed_until or window, window + 1)
        if windows or self._sealed_until is not None:
            self._pass(judged, sealed_until)
            self._sealed_until = max(self._sealed_until or sealed_until, sealed_until)
            self._traces.forget(self._sealed_until)
            self._forget(judged, self._sealed_until)
        return judged

    def tick(self, now_ns: int) -> Judged:
        """Time has passed: models that nobody has heard of for too long."""
        judged = Judged()
        now_ms = now_ns // 1_000_000
        heard = self._heard()
        for key in sorted(self._models):
            judged.add(self._models[key].tick(now_ms, heard[key.model]))
        return judged

    @property
    def notes(self) -> list[str]:
        """What the references cannot say of windows of this width, a sentence each."""
        return self._known.notes

    # ------------------------------------------------------------ inside

    def _named(self, judged: Judged, watched: Watched, profiles: Sequence[Profile]) -> Judged:
        """In place, with requests in the bins that moved."""
        is_wrong = any(v.state in (State.PENDING, State.FIRING) for v in judged.verdicts)
        if is_wrong and self._traces.has(profiles[0].window, watched.key):
            whole = whole_of(watched.key, profiles)
            baseline = watched.prepared(whole.start_ms)
            judged.verdicts = [
                self._traces.name(v, watched.key, whole, baseline) for v in judged.verdicts
            ]
        return judged

    def _expected(self) -> set[str]:
        """Models of the baseline that are this judge's: of a fleet's, those of its shard."""
        models = {key.model for key in self._known.models()}
        if self._config.delivery.mode != "fleet":
            return models
        shard, n_shards = self._config.aggregate.shard, self._config.delivery.shards
        return {model for model in models if shard_of(model, n_shards) == shard}

    def _pass(self, judged: Judged, until: int) -> None:
        """Windows before `until` in which some model had no row."""
        start = self._sealed_until
        if start is None or until <= start:
            return
        heard = self._heard()
        most = max(_LEAST_EMPTY, min(_MOST_EMPTY, _MOST_STEPS // max(1, len(self._models))))
        models = [self._models[key] for key in sorted(self._models)]
        for window in range(max(start, until - most), until):
            for watched in models:
                judged.add(watched.empty(window, heard[watched.key.model]))

    def _heard(self) -> dict[str, Heard]:
        return heard((key, self._models[key].last) for key in sorted(self._models))

    def _is_declared(self, key: ModelKey) -> bool:
        """Whether somebody named the model: under `models`, in a baseline file, in a monitor."""
        return key.model in self._declared or any(
            m.select.model != "*" and matches(m.select.model, key.model)
            for m in self._config.monitors
        )

    # ------------------------------------------------------------ memory

    def _make(self, key: ModelKey) -> Watched:
        return Watched(
            key,
            self._config,
            self._rules,
            self._known,
            self._sources,
            on_values=self._on_values,
            with_drift=self._with_drift,
        )

    def _admitted(
        self, judged: Judged, key: ModelKey, profiles: Sequence[Profile]
    ) -> Watched | None:
        """The model's, if it is judged in this window; who is let go for it, and who is refused, is told."""
        found = self._models.get(key)
        if found is not None:
            return found
        window = profiles[0].window
        if self._room.may_ask(key, window):
            made = self._make(key)
            needed = made.needed_bytes(profiles)
            instead = self._room.asks(key, needed)
            if instead is not None:
                for other in instead:
                    self._let_go(judged, other, window)
                if self._room.admit(key):
                    judged.verdicts.append(self._judged_or_not(key, window, State.OK))
                self._room.charge(key, needed)
                self._models[key] = made
                return made
            self._refuse(judged, key, window, needed)
        else:
            self._refuse(judged, key, window, 0)
        return None

    def _charge(self, judged: Judged, watched: Watched, window: int) -> None:
        """A model has had a window: what it holds now, and whether there is still room for all."""
        self._room.charge(watched.key, watched.needed_bytes())
        for key in self._room.beyond():
            self._let_go(judged, key, window)

    def _let_go(self, judged: Judged, key: ModelKey, window: int) -> None:
        """A model that is judged is not any more."""
        why = f"judged no more: {_WHY_NOT}"
        needed = self._room.charge_of(key)
        self._close(judged, key, window, why)
        self._refuse(judged, key, window, needed)

    def _close(self, judged: Judged, key: ModelKey, window: int, why: str) -> None:
        start_ms = window * self._width_ms
        watched = self._models.pop(key)
        judged.verdicts += watched.closed(start_ms, start_ms + self._width_ms, why)
        self._room.release(key)

    def _refuse(self, judged: Judged, key: ModelKey, window: int, needed: int) -> None:
        judged.n_refused += 1
        if self._room.refuse(key, window, needed):
            judged.verdicts.append(self._judged_or_not(key, window, State.BLIND))

    def _judged_or_not(self, key: ModelKey, window: int, state: State) -> Verdict:
        """That a model is not judged, or is again."""
        is_blind = state is State.BLIND
        name = f"{key.model} {key.version}".rstrip()
        return Verdict(
            monitor=MONITOR,
            metric=UNJUDGED,
            stream=StreamKey(key.model, key.version),
            window_start_ms=window * self._width_ms,
            window_end_ms=(window + 1) * self._width_ms,
            state=state,
            previous=State.OK if is_blind else State.BLIND,
            severity=Severity.TICKET if self._is_declared(key) else Severity.INFO,
            value=float(self._room.used_bytes),
            threshold=float(self._room.limit_bytes),
            unit="By",
            why=f"{name}: not judged: {_WHY_NOT}" if is_blind else f"{name}: judged again",
        )

    def _forget(self, judged: Judged, until: int) -> None:
        """Models and versions without a row for so long that they are gone for good."""
        before_ms = until * self._width_ms - int(1000 * self._config.judge.forget_after_s)
        models = {key: self._models[key].last for key in sorted(self._models)}
        if any(last.end_ms < before_ms for last in models.values()):
            found = heard(models.items())
            for key in gone(models, found, before_ms, self._is_declared):
                days = (until * self._width_ms - models[key].end_ms) / 86_400_000
                self._close(judged, key, until - 1, f"forgotten: no row for {days:,.1f} days")
                self._inventory.forget(key)
                self._known.forget(key)
        self._room.forget(before_ms // self._width_ms)

    # ------------------------------------------------------------ kept

    def dump(self) -> bytes:
        """All that the next input depends on, but for the arguments of the constructor."""
        kept = _Kept(
            self._sealed_until,
            self._inventory.kept(),
            self._presence.kept(),
            [self._models[key].kept() for key in sorted(self._models)],
            self._traces.kept(),
            self._room.kept(),
            self._together.kept(),
        )
        return msgspec.msgpack.encode(kept)

    def load(self, data: bytes) -> None:
        """Continue from `dump`, in place; nothing was put in before. Raises DecodeError."""
        try:
            kept = msgspec.msgpack.decode(data, type=_Kept)
        except (msgspec.DecodeError, ValueError) as error:
            raise DecodeError(f"judge: {error}") from None
        self._sealed_until = kept.sealed_until
        self._inventory.restore(kept.inventory)
        self._presence.restore(kept.presence)
        if kept.traces is not None:
            self._traces.restore(kept.traces)
        self._together.restore(kept.together)
        for one in kept.models:
            watched = self._models[one.key] = self._make(one.key)
            watched.restore(one)
            self._room.charge(one.key, watched.needed_bytes())
        if kept.room is not None:
            self._room.restore(kept.room)

    # ------------------------------------------------------------ read

    def state(self) -> Json:
        """The document that `/v1/state` shows as `judge`."""
        return {
            "models": [
                self._models[key].state() | {"memory_bytes": self._room.charge_of(key)}
                for key in sorted(self._models)
            ],
            "memory": self._memory(),
            "notes": self.notes,
            "sources": self._health(),
            "inventory": self.inventory(),
            "alarms": [
                *(alarm for key in sorted(self._models) for alarm in self._models[key].alarms()),
                *(alarm_json(alarm) for alarm in self._together.open_alarms()),
            ],
        }

    def _memory(self) -> Json:
        """What judging holds, by estimate, and who is not judged for want of it."""
        refused = sorted(self._room.refused.items())
        return {
            "used_bytes": self._room.used_bytes,
            "limit_bytes": self._room.limit_bytes,
            "not_judged": len(refused),
            "not_judged_models": [
                stream_json(StreamKey(key.model, key.version))
                | {"since_ms": known.since * self._width_ms}
                for key, known in refused[:_MOST_LISTED]
            ],
        }

    @property
    def memory_bytes(self) -> tuple[int, int]:
        """Memory of judging by estimate, and its limit."""
        return self._room.used_bytes, self._room.limit_bytes

    def _health(self) -> list[Json]:
        """Each declared source: the worst state of the alarms that name it, and which features are in them."""
        order = list(State)
        found = []
        for source in self._config.sources:
            state, features, ids = State.OK, set[str](), []
            for watched in self._models.values():
                for alarm in watched.open_alarms():
                    own = [c for c in alarm.finding.causes if c.source == source.name]
                    if alarm.source == source.name or own:
                        state = max(state, alarm.state, key=order.index)
                        ids.append(alarm.id)
                        features |= {c.feature for c in own if c.feature is not None}
            found.append(
                {
                    "source": source.name,
                    "state": str(state),
                    "features": sorted(features),
                    "alarms": sorted(ids),
                }
            )
        return found

    def inventory(self) -> Json:
        """Every model seen: the document of `inferometer inventory`."""
        return self._inventory.document(self._models)

"""Judge: sealed windows in, verdicts out. Owned by whoever seals; a pure function of its inputs.

Invariants
1. Inputs are `sealed` (profiles of windows, oldest first, each once) and `tick` (time). No clock is read, no
   order of a hash matters: the same inputs give the same verdicts, bit for bit.
2. `load(dump())` continues as if nothing had happened.
3. A model has one alarm for each source at most, whatever breaks (`alarms`).
4. Memory is bounded: MOST_MODELS models, each with a baseline and a learner of bounded size.
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
from agent.judge.presence import Presence, PresenceKept
from agent.judge.reference import ModelKey, Reference
from agent.judge.rules import rules_of
from agent.judge.sources import Sources
from agent.judge.standing import Known
from agent.judge.together import OneKept, Together
from agent.judge.traces import Traces, TracesKept
from agent.judge.watched import Heard, Watched, WatchedKept
from agent.state.shards import shard_of
from agent.types import OVERFLOW, Exemplar, Json
from agent.verdict import Judged, State

MOST_MODELS: Final = 10_000
#: Windows without a row that are told one by one; of a longer silence the last one is.
_MOST_EMPTY: Final = 200


class _Kept(msgspec.Struct, array_like=True):
    sealed_until: int | None
    inventory: InventoryKept
    presence: PresenceKept
    models: list[WatchedKept]
    traces: TracesKept | None = None
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
            for key in sorted(windows[window]):
                watched = self._watched(key)
                if watched is not None:
                    one = watched.window(windows[window][key], windows[window])
                    judged.add(self._named(one, watched, windows[window][key]))
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
        for window in range(max(start, until - _MOST_EMPTY), until):
            for key in sorted(self._models):
                judged.add(self._models[key].empty(window, heard[key.model]))

    def _heard(self) -> dict[str, Heard]:
        """When each model was last heard of. A version that is replaced is not missed; if all fall silent, one
        speaks for them: the last that knows how long a silence may last."""
        found: dict[str, Heard] = {}
        for key in sorted(self._models):
            watched = self._models[key]
            rank = (watched.allowed_silence_s is not None, watched.last_end_ms)
            known = found.get(key.model)
            if known is None:
                found[key.model] = Heard(watched.last_end_ms, key.version, rank)
                continue
            end_ms = max(known.end_ms, watched.last_end_ms)
            version, best = (
                (key.version, rank) if rank > known.rank else (known.version, known.rank)
            )
            found[key.model] = Heard(end_ms, version, best)
        return found

    def _watched(self, key: ModelKey) -> Watched | None:
        found = self._models.get(key)
        if found is None and len(self._models) < MOST_MODELS:
            found = self._models[key] = Watched(
                key,
                self._config,
                self._rules,
                self._known,
                self._sources,
                on_values=self._on_values,
                with_drift=self._with_drift,
            )
        return found

    # ------------------------------------------------------------ kept

    def dump(self) -> bytes:
        """All that the next input depends on, but for the arguments of the constructor."""
        kept = _Kept(
            self._sealed_until,
            self._inventory.kept(),
            self._presence.kept(),
            [self._models[key].kept() for key in sorted(self._models)],
            self._traces.kept(),
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
            watched = self._watched(one.key)
            if watched is not None:
                watched.restore(one)

    # ------------------------------------------------------------ read

    def state(self) -> Json:
        """The document that `/v1/state` shows as `judge`."""
        return {
            "models": [self._models[key].state() for key in sorted(self._models)],
            "notes": self.notes,
            "sources": self._health(),
            "inventory": self.inventory(),
            "alarms": [
                alarm for key in sorted(self._models) for alarm in self._models[key].alarms()
            ],
        }

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
        return self._inventory.document()

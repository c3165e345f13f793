"""Baselines that move: past windows, the same hour of past days, all windows decayed, and the twin.

Each answers with what a window is to be compared with. Once a baseline stands, windows in which an alarm of
those that are judged against it is open never enter, so that drift does not become normal; and it takes its
next place only between windows, while they are quiet.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from agent.config import Baseline
from agent.config.contract import ModelContract
from agent.fold.profile import Profile
from agent.judge.calibration import MIN_BLOCKS
from agent.judge.counted import Counted, counted, merged, scaled
from agent.judge.history import calibrated
from agent.judge.panes import HOUR_MS, MIN_ROWS, hour_of
from agent.judge.reference import ModelKey, ReferenceStream
from agent.judge.sizes import prepared_bytes, profile_bytes
from agent.judge.standing import Standing
from agent.judge.union import united
from agent.types import StreamKey

#: A moving baseline takes a new place after this share of its windows is new.
_RENEWED: Final = 0.1
_QUARTER_MS: Final = HOUR_MS // 4
_MOST_PANES: Final = 64


class Rung(msgspec.Struct, array_like=True):
    """Some consecutive windows as one; `last` is the number of the youngest."""

    n: int
    last: int
    data: bytes


class MovingKept(msgspec.Struct, array_like=True):
    windows: list[tuple[int, bytes]]  # key, profile
    since: list[tuple[int, int]]
    standing: list[tuple[int, list[bytes]]]  # key, the windows that it stands on
    ladder: list[Rung]
    n: int
    stood: list[Rung]  # the ladder that the baseline stands on
    stood_n: int


class Moving:
    """Base of those that windows feed. `key` of a window says which of its baselines it belongs to."""

    def __init__(self, model: ModelKey, most: int) -> None:
        self._stream = StreamKey(model.model, model.version)
        self._most = most
        self._windows: dict[int, deque[Profile]] = {}
        self._standing: dict[int, Standing] = {}
        self._stands_on: dict[int, list[Profile]] = {}
        self._since: dict[int, int] = {}

    def key(self, start_ms: int) -> int:
        """Which baseline a window that starts then is compared with."""
        del start_ms
        return 0

    def standing(self, start_ms: int) -> Standing | None:
        """What a window that starts then is judged against."""
        return self._standing.get(self.key(start_ms))

    @property
    def stands(self) -> bool:
        """Whether anything can be judged against it yet."""
        return bool(self._standing)

    @property
    def size_bytes(self) -> int:
        """Memory, by estimate; windows that a baseline stands on are counted once."""
        windows = [p for known in self._windows.values() for p in known]
        stands = sum(prepared_bytes(s.whole.reference.profile) for s in self._standing.values())
        return stands + sum(profile_bytes(p) for p in windows)

    def of_id(self, id: str) -> Standing | None:
        """The one with this id, if it stands."""
        return next((s for s in self._standing.values() if s.id == id), None)

    def add(self, whole: Profile) -> bool:
        """A healthy window; whether a baseline has a new place."""
        if whole.rows < MIN_ROWS:
            return False
        key = self.key(whole.start_ms)
        windows = self._windows.setdefault(key, deque(maxlen=self._most))
        windows.append(whole)
        self._since[key] = self._since.get(key, 0) + 1
        is_due = key not in self._standing or self._since[key] >= _RENEWED * len(windows)
        if len(windows) < MIN_BLOCKS or not is_due:
            return False
        self._since[key] = 0
        self._stand(key, list(windows))
        return True

    def _stand(self, key: int, windows: list[Profile]) -> None:
        profile = united(windows, self._stream)
        reference = ReferenceStream(profile=profile)
        reference.calibration = calibrated(profile, windows).to_bytes()
        id = f"{type(self).__name__.lower()}-{windows[0].start_ms}-{windows[-1].start_ms}"
        rules = ModelContract(model=self._stream.model)
        self._stands_on[key] = windows
        self._standing[key] = Standing(
            id, reference, {}, rules, is_learned=True, baseline=self._weighted()
        )

    def _weighted(self) -> Counted | None:
        """Counts that stand for the baseline in place of its profile."""
        return None

    def kept(self) -> MovingKept:
        """All there is, to go on from."""
        return MovingKept(
            [(key, p.to_bytes()) for key, windows in self._windows.items() for p in windows],
            list(self._since.items()),
            [(key, [p.to_bytes() for p in on]) for key, on in self._stands_on.items()],
            [],
            0,
            [],
            0,
        )

    def restore(self, kept: MovingKept) -> None:
        """Go on from `kept`, in place. Raises DecodeError."""
        for key, data in kept.windows:
            windows = self._windows.setdefault(key, deque(maxlen=self._most))
            windows.append(Profile.from_bytes(data))
        self._since = dict(kept.since)
        for key, on in kept.standing:
            self._stand(key, [Profile.from_bytes(data) for data in on])


class Past(Moving):
    """The last windows."""


class Hour(Moving):
    """The same hour of the last days, as panes of a quarter of an hour: a model of 20 columns takes some 40 MB
    when all hours of 14 days are known."""

    _OPEN = -1  # key of the pane that is being gathered

    def __init__(self, model: ModelKey, days: int) -> None:
        super().__init__(model, most=max(MIN_BLOCKS, days * HOUR_MS // _QUARTER_MS))
        self._open: list[Profile] = []

    def key(self, start_ms: int) -> int:
        return hour_of(start_ms)

    def add(self, whole: Profile) -> bool:
        is_new = bool(self._open) and (
            self._open[0].start_ms // _QUARTER_MS != whole.start_ms // _QUARTER_MS
        )
        done = united(self._open, self._stream) if is_new else None
        self._open = [whole] if is_new else [*self._open, whole]
        return super().add(done) if done is not None else False

    def kept(self) -> MovingKept:
        found = super().kept()
        found.windows += [(self._OPEN, p.to_bytes()) for p in self._open]
        return found

    def restore(self, kept: MovingKept) -> None:
        self._open = [Profile.from_bytes(d) for key, d in kept.windows if key == self._OPEN]
        kept.windows = [(key, data) for key, data in kept.windows if key != self._OPEN]
        super().restore(kept)


class Decayed(Moving):
    """All windows, older ones less and less: a row counts half after `half_life` further windows.

    Older windows are joined in pairs, ever more of them, so that a few dozen profiles reach back as far as
    any row still counts; their weight is that of the youngest among them.
    """

    _SAME = 4  # rungs of one size
    _LEAST = 1e-3  # weight below which a rung is dropped

    def __init__(self, model: ModelKey, half_life: float) -> None:
        super().__init__(model, most=_MOST_PANES)
        self._half_life = half_life
        self._ladder: list[tuple[int, int, Profile]] = []  # windows, last, profile; oldest first
        self._n = 0
        self._stood: tuple[list[tuple[int, int, Profile]], int] = [], 0

    def add(self, whole: Profile) -> bool:
        if whole.rows >= MIN_ROWS:
            self._n += 1
            self._ladder.append((1, self._n, whole))
            self._join()
        return super().add(whole)

    def _join(self) -> None:
        size = 1
        while True:
            same = [i for i, (n, _, _) in enumerate(self._ladder) if n == size]
            if len(same) <= self._SAME:
                break
            first, second = self._ladder[same[0]], self._ladder[same[1]]
            both = united([first[2], second[2]], self._stream)
            self._ladder[same[0] : same[1] + 1] = [(2 * size, second[1], both)]
            size *= 2
        self._ladder = [rung for rung in self._ladder if self._weight(rung[1]) >= self._LEAST]

    def _weight(self, last: int) -> float:
        return float(0.5 ** ((self._n - last) / self._half_life))

    def _weighted(self) -> Counted | None:
        self._stood = list(self._ladder), self._n
        total: Counted | None = None
        for _, last, profile in self._ladder:
            part = scaled(counted(profile), profile.rows * self._weight(last))
            total = part if total is None else merged(total, part)
        return total

    def kept(self) -> MovingKept:
        found = super().kept()
        found.ladder, found.n = _rungs(self._ladder), self._n
        found.stood, found.stood_n = _rungs(self._stood[0]), self._stood[1]
        return found

    def restore(self, kept: MovingKept) -> None:
        self._ladder, self._n = _ladder(kept.stood), kept.stood_n
        super().restore(kept)
        self._ladder, self._n = _ladder(kept.ladder), kept.n


def _rungs(ladder: Sequence[tuple[int, int, Profile]]) -> list[Rung]:
    return [Rung(n, last, profile.to_bytes()) for n, last, profile in ladder]


def _ladder(rungs: Sequence[Rung]) -> list[tuple[int, int, Profile]]:
    return [(rung.n, rung.last, Profile.from_bytes(rung.data)) for rung in rungs]


def make(baseline: Baseline, model: ModelKey) -> Moving | None:
    """The moving baseline that a configuration asks for; None: a file, or a twin, which do not move."""
    match baseline.type:
        case "past":
            return Past(model, baseline.windows)
        case "hour":
            return Hour(model, baseline.days)
        case "decayed":
            return Decayed(model, baseline.half_life_windows)
    return None


#: Asked for a model's profiles of the window that is judged, by version.
Others = Mapping[ModelKey, Sequence[Profile]]
Peer = Callable[[ModelKey], Standing | None]


def twin_of(key: ModelKey, version: str, others: Others) -> Profile | None:
    """The stable version's same window; None for itself, or where it has no rows."""
    if key.version == version:
        return None
    profiles = others.get(ModelKey(key.model, version))
    return united(profiles, StreamKey(key.model, version)) if profiles else None

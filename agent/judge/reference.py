"""Reference: what a `.profile` file holds, the known good that windows are judged against.

For each model and version the union of all its rows, that of each segment, and what was seen of single
windows: rows, missing rates, hours of the day, and the calibration of the change detector.

Bytes: the frame of `state.frame` (magic "IFRF", version, lengths, crc32), a msgpack header, and the
profiles one behind the other. `id` is a digest of body and facts as they were first written: two builds
from the same rows have the same id. Reading is exact or a DecodeError.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from agent.errors import ConfigError, DecodeError, InferometerError
from agent.fold.profile import Profile
from agent.judge.pairs_noise import PairBaseline
from agent.sketch.cells import SKETCH_PARAMETERS
from agent.state.files import Files, write_whole
from agent.state.frame import NewerFrameError, open_frame, seal_frame
from agent.types import Column, StreamKey

MAGIC: Final = b"IFRF"
VERSION: Final = 1
#: A larger file is not read: 10,000 streams of 20 columns take some 400 MB.
MAX_FILE_BYTES: Final = 1 << 30
_ID_BYTES: Final = 6
_ID: Final = re.compile(r"[0-9a-f]{12}")


class ModelKey(NamedTuple):
    """What one alarm budget belongs to."""

    model: str
    version: str


class ColumnFacts(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """What single windows showed of a column: windows in which it had a value, and its worst window.

    missing_high   largest share of rows without a value, over windows of enough rows
    violations_high  the same for values of another type
    """

    windows: int
    missing_high: float
    violations_high: float


class ReferenceStream(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One stream, or the whole of a model and version (its segments together).

    profile     all rows
    windows     that had rows; 0: the rows carried no usable time, so nothing is known of windows
    rows_low, rows_high, rows_median   rows of a window, the cut ones at both ends left out
    gap_s       longest time between the starts of two windows with rows
    hours       profiles by hour of the day (UTC); empty where the hour does not matter
    hour_rows   median rows of a window by hour of the day, beside `hours`
    calibration of the change detector, as bytes that `judge.calibration` reads; b"": none
    pairs       what columns do together, and how their values are scored; None: not compared
    """

    profile: Profile
    windows: int = 0
    start_ms: int = 0
    end_ms: int = 0
    rows_low: int = 0
    rows_high: int = 0
    rows_median: float = 0.0
    gap_s: float = 0.0
    columns: dict[Column, ColumnFacts] = msgspec.field(default_factory=dict)
    hours: dict[int, Profile] = msgspec.field(default_factory=dict)
    hour_rows: dict[int, float] = msgspec.field(default_factory=dict)
    calibration: bytes = b""
    pairs: PairBaseline | None = None

    @property
    def stream(self) -> StreamKey:
        return self.profile.stream


class Reference(msgspec.Struct, kw_only=True):
    """See the module. `width_ms`: of the windows that were seen."""

    width_ms: int
    created_ms: int
    models: dict[ModelKey, ReferenceStream]
    segments: dict[StreamKey, ReferenceStream] = msgspec.field(default_factory=dict)
    id: str = ""

    def __post_init__(self) -> None:
        if not self.id:
            self.id = _digest(self)

    def streams(self) -> Iterator[ReferenceStream]:
        """Wholes first, each behind it its segments, by name."""
        for key in sorted(self.models):
            yield self.models[key]
            for stream in sorted(self.segments):
                if (stream.model, stream.version) == key:
                    yield self.segments[stream]

    def whole(self, key: ModelKey) -> ReferenceStream | None:
        """That of this version; else of the model's version that was seen last; else None."""
        exact = self.models.get(key)
        if exact is not None:
            return exact
        others = [k for k in sorted(self.models) if k.model == key.model]
        if not others:
            return None
        return self.models[max(others, key=lambda k: self.models[k].end_ms)]

    def segment(self, stream: StreamKey) -> ReferenceStream | None:
        """The stream's own, of the version that `whole` answers for its model."""
        whole = self.whole(ModelKey(stream.model, stream.version))
        if whole is None:
            return None
        known = whole.stream
        return self.segments.get(StreamKey(known.model, known.version, stream.segment))

    def to_bytes(self) -> bytes:
        """Versioned and checksummed; `from_bytes` reads it back."""
        entries, body = _entries(self)
        head = _Header(
            sketch=SKETCH_PARAMETERS,
            id=self.id,
            created_ms=self.created_ms,
            width_ms=self.width_ms,
            entries=entries,
        )
        return seal_frame(MAGIC, VERSION, msgspec.msgpack.encode(head), body)

    @staticmethod
    def from_bytes(data: bytes) -> Reference:
        """Raises DecodeError for bytes that are not exactly what `to_bytes` wrote."""
        raw, body = open_frame(MAGIC, VERSION, data, "reference")
        try:
            head = msgspec.msgpack.decode(raw, type=_Header)
        except (msgspec.DecodeError, ValueError) as error:
            raise DecodeError(f"reference header: {error}") from None
        if head.sketch != SKETCH_PARAMETERS:
            raise DecodeError(
                f"reference: sketches of {head.sketch[:80]}; this program has {SKETCH_PARAMETERS}: "
                "build it again from its data"
            )
        read = _Body(body)
        models: dict[ModelKey, ReferenceStream] = {}
        segments: dict[StreamKey, ReferenceStream] = {}
        for entry in head.entries:
            stream = read.stream(entry)
            key = stream.stream
            if entry.is_whole:
                models[ModelKey(key.model, key.version)] = stream
            else:
                segments[key] = stream
        read.finish(len(head.entries), len(models) + len(segments))
        if not models:
            raise DecodeError("reference: it holds no model; build it from data with rows")
        if not _ID.fullmatch(head.id):
            raise DecodeError(f"reference: {head.id[:40]!r} is no id")
        # Not worked out anew: a later version may write the same profiles in other bytes.
        return Reference(
            id=head.id,
            width_ms=head.width_ms,
            created_ms=head.created_ms,
            models=models,
            segments=segments,
        )


def read_reference(path: Path) -> Reference:
    """Read a `.profile` file. Raises ConfigError: what is wrong, and what to do."""
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise ConfigError(
                f"{path}: {size:,} bytes; a reference has at most {MAX_FILE_BYTES:,}. Is it one?"
            )
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{path}: {(error.strerror or str(error)).lower()}; "
            "make one with: inferometer profile build DATA -o FILE"
        ) from None
    if not data:
        raise ConfigError(
            f"{path}: the file is empty; make it with: inferometer profile build DATA -o FILE"
        )
    try:
        return Reference.from_bytes(data)
    except NewerFrameError as error:
        raise ConfigError(
            f"{path}: {error} to read this file, or make the file again with this program: "
            "inferometer profile build DATA -o FILE"
        ) from None
    except DecodeError as error:
        raise ConfigError(
            f"{path}: {error}; make it again with: inferometer profile build DATA -o FILE"
        ) from None


def write_reference(reference: Reference, path: Path) -> int:
    """Write the file whole or not at all, for this user alone: it holds values of features by name.

    Returns its bytes. Raises InferometerError.
    """
    data = reference.to_bytes()
    try:
        write_whole(Files(), path, [data])
    except OSError as error:
        raise InferometerError(
            f"{path}: cannot be written ({(error.strerror or str(error)).lower()}); give another -o FILE"
        ) from None
    return len(data)


# ---------------------------------------------------------------- bytes


class _Entry(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """A ReferenceStream without its profiles, which follow in the body: whole, then hours."""

    is_whole: bool
    length: int
    hours: list[tuple[int, int]]  # hour, bytes
    windows: int
    start_ms: int
    end_ms: int
    rows_low: int
    rows_high: int
    rows_median: float
    gap_s: float
    columns: list[tuple[Column, ColumnFacts]]
    hour_rows: dict[int, float]
    calibration: bytes
    pairs: PairBaseline | None = None


class _Header(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    sketch: str
    id: str
    created_ms: int
    width_ms: int
    entries: list[_Entry]


def _entries(reference: Reference) -> tuple[list[_Entry], bytes]:
    entries: list[_Entry] = []
    parts: list[bytes] = []
    wholes = {id(stream) for stream in reference.models.values()}
    for stream in reference.streams():
        data = stream.profile.to_bytes()
        hours = [(hour, stream.hours[hour].to_bytes()) for hour in sorted(stream.hours)]
        parts += [data, *(part for _, part in hours)]
        entries.append(
            _Entry(
                is_whole=id(stream) in wholes,
                length=len(data),
                hours=[(hour, len(part)) for hour, part in hours],
                windows=stream.windows,
                start_ms=stream.start_ms,
                end_ms=stream.end_ms,
                rows_low=stream.rows_low,
                rows_high=stream.rows_high,
                rows_median=stream.rows_median,
                gap_s=stream.gap_s,
                columns=sorted(stream.columns.items()),
                hour_rows=dict(sorted(stream.hour_rows.items())),
                calibration=stream.calibration,
                pairs=stream.pairs,
            )
        )
    return entries, b"".join(parts)


def _digest(reference: Reference) -> str:
    entries, body = _entries(reference)
    digest = hashlib.blake2b(body, digest_size=_ID_BYTES)
    digest.update(msgspec.msgpack.encode((reference.width_ms, entries)))
    return digest.hexdigest()


class _Body:
    """Takes the profiles out of the body, in order."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._at = 0

    def stream(self, entry: _Entry) -> ReferenceStream:
        hours_known = {hour for hour, _ in entry.hours}
        if not all(0 <= hour < 24 for hour in hours_known | set(entry.hour_rows)):
            raise DecodeError("reference: an hour is not one of 0 to 23")
        if entry.pairs is not None:
            entry.pairs.check()
        profile = self._profile(entry.length)
        return ReferenceStream(
            profile=profile,
            hours={hour: self._profile(length) for hour, length in entry.hours},
            windows=entry.windows,
            start_ms=entry.start_ms,
            end_ms=entry.end_ms,
            rows_low=entry.rows_low,
            rows_high=entry.rows_high,
            rows_median=entry.rows_median,
            gap_s=entry.gap_s,
            columns=dict(entry.columns),
            hour_rows=entry.hour_rows,
            calibration=entry.calibration,
            pairs=entry.pairs,
        )

    def _profile(self, length: int) -> Profile:
        if not 0 <= length <= len(self._data) - self._at:
            raise DecodeError(
                f"reference: a profile of {length} bytes at {self._at} of {len(self._data)}"
            )
        data = bytes(self._data[self._at : self._at + length])
        self._at += length
        return Profile.from_bytes(data)

    def finish(self, n_entries: int, n_streams: int) -> None:
        if self._at != len(self._data):
            raise DecodeError(
                f"reference: its profiles take {self._at} bytes, the body has {len(self._data)}"
            )
        if n_streams != n_entries:
            raise DecodeError("reference: a stream stands twice")

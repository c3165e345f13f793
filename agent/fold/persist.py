"""The whole fold as bytes, and back: what a snapshot holds.

Bytes: the frame of `state.frame` (magic "IFBS", version, lengths, crc32). Header: msgpack of what belongs to
no stream. Body: the streams one behind the other, as `persist_streams` writes them.

What follows from other parts or from the configuration is not written, but made again: names and
attributes of series, costs and grants. So an option that changed since takes effect on what is decided
from now on, and what was decided is kept:

    kinds, admitted streams, columns   stay as they are, also past a limit that is lower now
    costs and reservations             are those of the new configuration
    clocks of topics with labels now   are dropped
    categories no more exported        end
    width of windows, sketches         must be the same: ForeignStateError

A loaded fold gives, for the same inputs, the same outputs as the one that was dumped, byte for byte. (But for
scrapes, which are no inputs: their times rise anew from the last export's.)
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable

import msgspec

from agent.config import Config
from agent.errors import ConfigError, DecodeError
from agent.fold.admission import AdmissionState
from agent.fold.base import Fold
from agent.fold.persist_records import Body, Parts, decoded, joined
from agent.fold.persist_streams import read_stream, write_stream
from agent.fold.series import Ended, SeriesState
from agent.fold.watermarks import MarksState
from agent.state.chunk import merge_digest
from agent.state.frame import CRC, FRAME, open_frame
from agent.state.tally import WrittenTally
from agent.types import Attributes, Partition, StreamKey

MAGIC = b"IFBS"
VERSION = 1
_WHAT = "state of the fold"


class ForeignStateError(ConfigError):
    """The state is sound, but was counted under options that cannot be continued with the present ones."""


class _Header(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    digest: str
    start_ns: int
    now_ns: int
    time_ns: int
    export_ns: int
    export_series: int
    series_start_ns: int  # of series that begin now
    phases: int  # handed out
    n_foreign: int
    n_unsketched_values: int
    newest_event_ms: int
    tally: WrittenTally
    covers: list[tuple[Partition, int]]
    slow_above_s: list[tuple[StreamKey, float]]
    marks: MarksState
    admission: AdmissionState
    ended_rows: dict[str, int]  # by model
    labels: list[tuple[str, SeriesState]]
    ended: list[tuple[str, Attributes, int, bool]]  # as `Ended`
    n_streams: int


_header = msgspec.msgpack.Decoder(_Header)


def dump(fold: Fold) -> bytes:
    """The fold between two inputs. In the thread that owns it; others run meanwhile, as no step is long."""
    parts = Parts()
    header = msgspec.msgpack.encode(_header_of(fold))
    parts.write(header)
    for stream in fold.streams.values():
        write_stream(parts, stream, fold._store)
    pieces = parts.taken()
    body_length = sum(map(len, pieces)) - len(header)
    pieces.insert(0, FRAME.pack(MAGIC, VERSION, 0, len(header), body_length))
    checksum = 0
    for piece in pieces:
        checksum = zlib.crc32(piece, checksum)
    return joined([*pieces, CRC.pack(checksum)])


def _header_of(fold: Fold) -> _Header:
    return _Header(
        digest=fold._digest,
        start_ns=fold._start_ns,
        now_ns=fold._now_ns,
        time_ns=fold._time_ns,
        export_ns=fold._export_ns,
        export_series=fold._export_series,
        series_start_ns=fold._lives.start_ns,
        phases=fold._lives.phases.taken,
        n_foreign=fold.n_foreign,
        n_unsketched_values=fold.n_unsketched_values,
        newest_event_ms=fold.newest_event_ms,
        tally=WrittenTally.of(fold.tally),
        covers=list(fold.covers.items()),
        slow_above_s=list(fold.slow_above_s.items()),
        marks=fold._marks.state(),
        admission=fold._register.admission.state(),
        ended_rows=dict(fold._register.ended_rows),
        labels=[(model, series.state()) for model, series in fold._labels.items()],
        ended=[(e.name, e.attributes, e.start_ns, e.offered) for e in fold._ended],
        n_streams=len(fold.streams),
    )


def load(config: Config, data: bytes, make: Callable[..., Fold] = Fold) -> Fold:
    """The fold that `dump` wrote, to go on under `config`. `make(config, start_ns=...)`: an empty one.

    Raises DecodeError when the bytes are not exactly what was written, or a newer program wrote them;
    ForeignStateError when this configuration cannot go on with them: it names the option.
    """
    _check_version(data)
    raw, body = open_frame(MAGIC, VERSION, data, _WHAT)
    header = decoded(_header, raw, f"{_WHAT}: header")
    _check_digest(header.digest, config)
    fold = make(config, start_ns=header.start_ns)
    _restore_counts(fold, header)
    fold._marks.restore(header.marks)
    _restore_streams(fold, header, Body(body))
    _restore_series(fold, header)
    _restore_grants(fold, header, config)
    return fold


def _check_version(data: bytes) -> None:
    """A version is believed only where the checksum holds: else the bytes are damaged, not new."""
    if len(data) < FRAME.size + CRC.size:
        return
    magic, version, *_ = FRAME.unpack_from(data)
    if magic != MAGIC or version == VERSION:
        return
    (checksum,) = CRC.unpack_from(data, len(data) - CRC.size)
    if zlib.crc32(memoryview(data)[: -CRC.size]) != checksum:
        raise DecodeError(f"{_WHAT}: checksum does not match: the bytes were changed")
    raise DecodeError(
        f"{_WHAT}: version {version}; this program reads version {VERSION}: "
        f"{'upgrade it' if version > VERSION else 'run an older one, or start with an empty volume'}"
    )


def _check_digest(found: str, config: Config) -> None:
    mine = merge_digest(config)
    if found == mine:
        return
    width_ms, _, sketches = found.partition(";")
    if sketches == mine.partition(";")[2] and width_ms.isdigit():
        raise ForeignStateError(
            f"windows.width_s is {config.windows.width_s:g}, but the state on the volume was counted in "
            f"windows of {int(width_ms) / 1000:g} s: set it back, or start with an empty volume"
        )
    raise ForeignStateError(
        f"the state on the volume holds sketches of {found!r}, this program makes {mine!r}: run the "
        "version that wrote it, or start with an empty volume"
    )


def _restore_counts(fold: Fold, header: _Header) -> None:
    fold._now_ns = header.now_ns
    fold._time_ns = fold._scrape_ns = header.time_ns
    fold._export_ns = header.export_ns
    fold._export_series = header.export_series
    fold.n_foreign = header.n_foreign
    fold.n_unsketched_values = header.n_unsketched_values
    fold.newest_event_ms = header.newest_event_ms
    fold.covers = dict(header.covers)
    fold.slow_above_s = dict(header.slow_above_s)
    fold.tally = header.tally.tally()


def _restore_streams(fold: Fold, header: _Header, body: Body) -> None:
    register, marks = fold._register, fold._marks
    for window in marks.open:
        if marks.is_sealed(window):
            raise DecodeError(f"{_WHAT}: window {window} is open and sealed")
    for _ in range(header.n_streams):
        stream = read_stream(body, fold._store, fold._lives, register.costs, marks.width_ms)
        if stream.key in fold.streams:
            raise DecodeError(f"{_WHAT}: stream {stream.key} occurs twice")
        register.take(stream)
        for window, held in stream.open.items():
            if window not in marks.open:
                raise DecodeError(f"{_WHAT}: stream {stream.key} is in window {window}, not open")
            fold.pairs_bytes += len(held.pairs)
            fold.vectors_bytes += len(held.vectors)
            fold._streams_of.setdefault(window, []).append(stream)
    body.end()


def _restore_series(fold: Fold, header: _Header) -> None:
    """Series of labels, and those that ended; from here on series begin where they would have."""
    lives = fold._lives
    for model, state in header.labels:
        labels = fold._label_series(model)
        labels.restore(state)
        fold._labels[model] = labels
    fold._ended.extend(Ended(*end) for end in header.ended)
    if not fold._config.export.top_categories:
        for stream in fold.streams.values():
            for total in stream.columns.values():
                fold._ended += [e for s in total.categories.values() for e in s.ends()]
                total.categories.clear()
    lives.start_ns = header.series_start_ns
    lives.phases.taken = header.phases


def _restore_grants(fold: Fold, header: _Header, config: Config) -> None:
    register = fold._register
    register.ended_rows = Counter(header.ended_rows)
    register.admission.restore(
        header.admission,
        [(stream.key, stream.granted) for stream in fold.streams.values()],
        fold._labels,
    )
    needed, limit = register.admission.used.memory_bytes, config.budget.max_memory_bytes
    if needed > limit:
        raise ForeignStateError(
            f"budget.max_memory_bytes is {limit}, but the state on the volume needs {needed}: raise it, "
            "or start with an empty volume"
        )

"""The scan tier alone, beside the orjson tier, over one stream table: record by record, in full.

`check` compares by digests, many records at once; `difference` compares one record in full (0.1 ms),
also what the assembly hides (fields, flags, hashes), and says what differs.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson

from agent.config import Config
from agent.decode.events import JsonDecoder
from agent.decode.fields import FieldMap
from agent.decode.kernels.row_layout import FITS, TIME_ABSENT
from agent.decode.kernels.scan import scan
from agent.decode.lanes import Shape, StreamTable
from agent.decode.leaves import CONTENT, ID, LABEL, MODEL, STATUS, TRACEPARENT, TRACESTATE, VERSION
from agent.decode.paths import PathTable
from agent.decode.resolver import ConfigResolver
from agent.decode.row_arrays import RowArrays
from agent.decode.scalars import error_text
from agent.sketch.cells import ABSENT_BITS, HASH_ABSENT, HASH_NULL, NULL_BITS
from agent.sketch.hash import merge_hash
from agent.types import Block, Column, Drop, Irregular, JsonType, Record, StreamKey, Tally
from tests.fuzz.digests import Digester
from tests.support.decoded import fetch_of

TIMESTAMP_MS = 1_767_225_600_000
ZONE_BYTES = 1 << 16
_FIELDS = {
    "model": MODEL,
    "version": VERSION,
    "status": STATUS,
    "id": ID,
    "traceparent": TRACEPARENT,
    "tracestate": TRACESTATE,
}

#: (column, type) -> float64 bits or text; a null by its column alone.
Values = dict[tuple[Column, Any], Any]


@dataclass
class Meaning:
    """What the orjson tier made of one record."""

    tally: Tally
    time_ms: int = 0
    is_error: bool = False
    stream: StreamKey | None = None
    shape: Shape | None = None
    values: Values = field(default_factory=dict)


class ScanTier:
    """One kernel thread's worth of the scan tier, and the orjson tier that teaches it."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.table = StreamTable()
        self.oracle = JsonDecoder(config, self.table, None)
        self.paths = PathTable(config, ConfigResolver(config, self.table))
        self.rows = RowArrays()
        self.n_accepted = 0
        self.passed_over = 0
        self._fields = FieldMap(config.decode.fields)
        self._streams: dict[int, StreamKey] = {}
        self._digester = Digester(self.table)

    def meaning(self, text: bytes) -> Meaning:
        """What the orjson tier says about one record."""
        parts = list(self.oracle.decode(fetch_of([Record(0, TIMESTAMP_MS, None, text, ())]), "l"))
        found = Meaning(parts[0].tally)
        for block in parts[0].blocks:
            if block.n != 1 or found.stream is not None:
                return found  # a batch: never for this tier
            idx = int(block.stream[0])
            lanes = self.table.streams[idx]
            found.stream, found.shape = lanes.key, lanes.shape
            found.time_ms, found.is_error = int(block.event_time_ms[0]), bool(block.is_error[0])
            first = int(block.number_start[0])
            bits = block.numbers.view(np.uint64)[first : int(block.number_start[1])].tolist()
            found.values = _numbers(lanes.shape, bits)
            for lane in range(int(block.string_first[1] - block.string_first[0])):
                at = int(block.string_first[0]) + lane
                start, length = int(block.string_start[at]), int(block.string_length[at])
                raw = block.text[start : start + length].tobytes()
                _put_string(found.values, lanes.shape, lane, int(block.string_hash[at]), raw)
        return found

    def learn(self, text: bytes) -> Meaning:
        """Decode by orjson, and teach the scan tier what was accepted."""
        found = self.meaning(text)
        if found.stream is not None and found.shape is not None and text.lstrip()[:1] == b"{":
            self.paths.learn(text, found.shape, found.stream.model)
        return found

    def scan(self, texts: list[bytes | None], gap: bytes = b"") -> tuple[np.ndarray, list[int]]:
        """Scan these records, laid down with `gap` between them: (buffer, indices of misfits)."""
        raw = bytearray(64)
        starts = []
        for text in texts:
            starts.append(len(raw))
            raw += (text or b"") + gap
        zone = len(raw) + 1
        raw += bytes(1 + ZONE_BYTES + 64)
        buffer = np.frombuffer(raw, np.uint8)
        position = np.array(starts, np.int64)
        length = np.array([-1 if text is None else len(text) for text in texts], np.int64)
        return buffer, self.scan_at(buffer, position, length, zone, zone + ZONE_BYTES)

    def scan_at(
        self,
        buffer: np.ndarray,
        position: np.ndarray,
        length: np.ndarray,
        zone: int,
        zone_end: int,
    ) -> list[int]:
        """The same for records that already lie in a buffer."""
        n = len(position)
        base = buffer.ctypes.data
        wanted = np.arange(n, dtype=np.int64)
        misfits = np.empty(n, np.int64)
        zones = np.array([base + zone, base + zone_end], np.int64)
        n_misfits = scan(
            base,
            position.ctypes.data,
            length.ctypes.data,
            wanted.ctypes.data,
            n,
            self.paths.address,
            zones.ctypes.data,
            self.rows.address,
            misfits.ctypes.data,
        )
        assert base + zone <= zones[0] <= zones[1]
        return misfits[:n_misfits].tolist()

    def check(self, texts: list[bytes | None], gap: bytes = b"") -> list[tuple[bytes, str]]:
        """Scan these records and compare every row with the orjson tier's: (record, why) of those that differ.

        Teaches the tier nothing.
        """
        buffer, misfits = self.scan(texts, gap)
        refused = set(misfits)
        accepted = [r for r in range(len(texts)) if r not in refused]
        self.n_accepted += len(accepted)
        fetch = fetch_of([Record(r, TIMESTAMP_MS, None, texts[r], ()) for r in accepted])
        tally, blocks, rows = Tally(), [], self.rows
        expected = []
        for part in self.oracle.decode(fetch, "l"):
            tally.add(part.tally)
            blocks += part.blocks
            expected += [self._digester.rows(block) for block in part.blocks]
        flags = rows.flags[: len(texts)].astype(np.int64)
        has_model = (rows.field_length[: len(texts), MODEL] > 0) & (
            rows.field_start[: len(texts), MODEL] >= 0
        )
        if self.config.decode.default_model is not None:
            has_model[:] = True
        fits = rows.status[: len(texts)] == FITS
        is_row = fits & (flags & CONTENT != 0) & has_model
        n_rows = int(is_row.sum())
        n_labels = int((fits & (flags & LABEL != 0) & (is_row | (flags & CONTENT == 0))).sum())
        odd = set(tally.irregular) - {Irregular.BAD_TRACE_CONTEXT}
        dropped = set(tally.dropped) - {Drop.NO_CONTENT, Drop.NO_MODEL}
        if not odd and not dropped and (tally.rows, tally.labels) == (n_rows, n_labels):
            streams = np.full(len(texts), -1, np.int32)
            streams[is_row] = np.concatenate([b.stream for b in blocks] or [streams[:0]])
            # A model that has moved to another shape since its paths were learned: still right.
            shapes = np.array([s.shape.number for s in self.table.streams] + [-1])[streams]
            streams[shapes != rows.shape[: len(texts)]] = -1
            compared = streams[is_row] >= 0
            found = self._digester.rows(self._block(streams, blocks, is_row, buffer))
            wanted = np.concatenate(expected or [np.zeros(0, np.uint64)])[compared]
            suspects = np.flatnonzero(streams >= 0)[found != wanted].tolist()
            suspects += accepted[:: max(1, len(accepted) // 8)]
            is_whole = False
        else:
            suspects = accepted
            is_whole = True
        passed_over = self.passed_over
        differences = []
        for r in suspects:
            text = texts[r]
            assert text is not None
            why = self.difference(text, r, buffer)
            if why is not None:
                differences.append((text, why))
        if is_whole and accepted and not differences and passed_over == self.passed_over:
            differences.append((b"", f"together: {tally}, {n_rows} rows, {n_labels} labels"))
        return differences

    def _block(
        self, streams: np.ndarray, blocks: list[Block], is_row: np.ndarray, buffer: np.ndarray
    ) -> Block:
        """The rows in hand as a block, with what this tier does not find out taken from `blocks`."""
        n, rows = len(streams), self.rows
        times = rows.event_time[:n].copy()
        times[times == TIME_ABSENT] = TIMESTAMP_MS
        window = np.zeros(n, np.int64)
        is_error = np.zeros(n, np.uint8)
        window[is_row] = np.concatenate([b.window for b in blocks] or [window[:0]])
        is_error[is_row] = np.concatenate([b.is_error for b in blocks] or [is_error[:0]])
        return Block(
            n,
            streams,
            times,
            window,
            is_error,
            rows.numbers,
            rows.number_start[: n + 1],
            rows.string_hash,
            rows.string_start,
            rows.string_length,
            rows.string_first[: n + 1],
            buffer,
        )

    def difference(self, text: bytes, r: int, buffer: np.ndarray) -> str | None:
        """How row r, made of `text`, differs from what the orjson tier says; None when it does not."""
        rows = self.rows
        assert rows.status[r] == FITS
        found = self.meaning(text)
        flags = int(rows.flags[r])
        texts = {name: self._field(r, idx, buffer) for name, idx in _FIELDS.items()}
        # What the compiled tiers leave to what comes behind them, which sees flags and fields.
        if not flags and found.tally.dropped == {Drop.NO_CONTENT: 1}:
            return None
        if not texts["model"] and found.tally.dropped == {Drop.NO_MODEL: 1}:
            return None
        odd = set(found.tally.irregular)
        if texts["traceparent"] is not None:
            odd.discard(Irregular.BAD_TRACE_CONTEXT)
        if odd == {Irregular.TOO_MANY_COLUMNS} and self._has_moved(r, found):
            self.passed_over += 1
            return None
        if found.tally.dropped or odd:
            return f"the orjson tier says {found.tally.dropped or odd}"
        wanted = (CONTENT if found.tally.rows else 0) | (LABEL if found.tally.labels else 0)
        if flags != wanted or found.tally.rows > 1 or found.tally.labels > 1:
            return f"flags {flags}, expected {wanted}"
        event = self._fields.native(orjson.loads(text))
        for name, found_text in texts.items():
            if found_text != field_text(event.get(name), name):
                return f"{name} is {found_text!r}"
        if found.stream is None:
            return None  # a label alone
        time_ms = int(rows.event_time[r])
        if (TIMESTAMP_MS if time_ms == TIME_ABSENT else time_ms) != found.time_ms:
            return f"time is {time_ms}, expected {found.time_ms}"
        if error_text(event.get("status")) != "" and not found.is_error:
            return "status"
        values = self._values(r, buffer)
        if values != found.values:
            return f"values {set(values.items()) ^ set(found.values.items())}"
        key_hash = int(rows.key_hash[r])
        if self._streams.setdefault(key_hash, found.stream) != found.stream:
            return f"hash of {self._streams[key_hash]}, expected {found.stream}"
        return None

    def _has_moved(self, r: int, found: Meaning) -> bool:
        """Whether row r has the lanes that its model had before it moved to a shape of its own.

        Those may include a column for which the new shape, full by now, has no room.
        """
        return found.shape is not None and int(self.rows.shape[r]) != found.shape.number

    def _field(self, r: int, idx: int, buffer: np.ndarray) -> bytes | None:
        start = int(self.rows.field_start[r, idx])
        if start < 0:
            return None
        return bytes(buffer[start : start + int(self.rows.field_length[r, idx])].tobytes())

    def _values(self, r: int, buffer: np.ndarray) -> Values:
        rows = self.rows
        shape = self.table.shapes[int(rows.shape[r])]
        low, high = int(rows.number_start[r]), int(rows.number_start[r + 1])
        values = _numbers(shape, rows.numbers.view(np.uint64)[low:high].tolist())
        low, high = int(rows.string_first[r]), int(rows.string_first[r + 1])
        for lane in range(high - low):
            start, length = int(rows.string_start[low + lane]), int(rows.string_length[low + lane])
            h = int(rows.string_hash[low + lane])
            raw = b"" if h <= HASH_NULL else buffer[start : start + length].tobytes()
            _put_string(values, shape, lane, h, raw)
        return values


def field_text(value: Any, name: str) -> bytes | None:
    """The text that a field has in the compiled tiers; None when it has none."""
    if isinstance(value, str):
        return value.encode()
    if type(value) is int and name not in ("traceparent", "tracestate"):
        return str(value).encode()
    return None


def _numbers(shape: Shape, bits: list[int]) -> Values:
    values: Values = {}
    for lane, word in enumerate(bits):
        if word == ABSENT_BITS:
            continue
        column, kind = shape.numeric[lane]
        if word == NULL_BITS:
            values[column, None] = "null"
        else:
            if kind is JsonType.NUMBER or kind is JsonType.VECTOR or kind is JsonType.BOOLEAN:
                assert struct.unpack("<d", struct.pack("<Q", word))[0] is not None
            values[column, kind] = word
    return values


def _put_string(values: Values, shape: Shape, lane: int, h: int, raw: bytes) -> None:
    if h == HASH_ABSENT:
        return
    column = shape.strings[lane]
    if h == HASH_NULL:
        values[column, None] = "null"
        return
    assert h == merge_hash(raw), (column, raw)
    values[column, JsonType.STRING] = raw

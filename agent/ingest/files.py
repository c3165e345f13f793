"""Files as sources: JSONL, JSON documents, CSV and Parquet, whole or compressed, in bounded memory.

Each file is `Partition(path, 0)`; the offset of a record is its number in the file, from 0 (JSONL:
the line's). Files have no timestamps of their own, so records carry -1.

Formats go by name: `.csv`, `.tsv`, `.parquet`, anything else JSONL. gzip and zstd are seen by their
first bytes. zstd is unpacked into an unnamed temporary file first: cramjam has no streaming reader.
"""

from __future__ import annotations

import csv
import gzip
import io
import os
import shlex
import sys
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

import cramjam
import orjson

from agent.config import Config
from agent.errors import ConfigError, SourceError
from agent.types import Fetch, Partition, Record, TableFetch

STDIN = Path("-")

#: A batch is handed on at this many rows or bytes.
BATCH_ROWS = 4096
BATCH_BYTES = 1 << 20
#: Largest `.json` file that is one document (an array of events) and not one event a line: it is
#: parsed whole, which takes about ten times as much memory.
MAX_DOCUMENT_BYTES = 32 << 20

_CHUNK_BYTES = 1 << 20
_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_BOM = b"\xef\xbb\xbf"
_CORRUPT = (EOFError, gzip.BadGzipFile, zlib.error)


def open_file(path: Path, config: Config) -> EventFile:
    """The reader for this file. Raises ConfigError when it cannot be opened or nothing here reads it."""
    kind = _unpacked_name(path).suffix.lower()
    if kind in (".parquet", ".pq"):
        return ParquetFile(path)
    if kind in (".csv", ".tsv"):
        return CsvFile(path, config, "\t" if kind == ".tsv" else ",")
    return JsonFile(path, config, may_be_document=kind == ".json")


class EventFile:
    """One file being read. `size_bytes` is 0 when it is not known (stdin)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.partition = Partition(str(path), 0)
        self.size_bytes = 0

    @property
    def position_bytes(self) -> int:
        """How much of `size_bytes` has been read."""
        return 0

    def batches(self) -> Iterator[Fetch | TableFetch]:
        """Everything in the file, once, in order. Raises SourceError when it cannot be read to its end."""
        raise NotImplementedError

    def close(self) -> None:
        """Give the file back; `batches` must not be used any more."""


class _Stream(EventFile):
    """A file read as a stream of bytes, unpacked on the way."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._opened: list[BinaryIO] = []
        self._counted: BinaryIO | None = None
        self._stream = self._open()

    def _open(self) -> BinaryIO:
        try:
            if self.path == STDIN:
                raw = cast(BinaryIO, sys.stdin.buffer)
            else:
                raw = self.path.open("rb")
                self._opened.append(raw)
                self._counted = raw
                self.size_bytes = self.path.stat().st_size
            head = cast(io.BufferedReader, raw).peek(4)[:4]
        except OSError as error:
            self.close()
            raise ConfigError(f"{self.path}: {error.strerror or error}") from None
        if head.startswith(_GZIP):
            stream = gzip.GzipFile(fileobj=raw)
            self._opened.append(cast(BinaryIO, stream))
            return cast(BinaryIO, io.BufferedReader(_Unpacked(stream), _CHUNK_BYTES))
        return self._unpack_zstd(raw) if head == _ZSTD else raw

    def _unpack_zstd(self, raw: BinaryIO) -> BinaryIO:
        """The whole text, in a temporary file that is gone when it is closed."""
        # cramjam opens files by name and wants them writable, so the packed bytes are copied as well.
        with tempfile.NamedTemporaryFile() as packed, tempfile.NamedTemporaryFile() as text:
            while chunk := raw.read(_CHUNK_BYTES):
                packed.write(chunk)
            packed.flush()
            packed_bytes = packed.tell()
            try:
                cramjam.zstd.decompress_into(
                    cramjam.File(packed.name, read=True, write=True, truncate=False),
                    cramjam.File(text.name, read=True, write=True, truncate=False),
                )
            except (cramjam.DecompressionError, OSError) as error:
                self.close()
                raise SourceError(
                    f"{self.path}: {packed_bytes} bytes of zstd cannot be unpacked: {error}"
                ) from None
            # A second descriptor keeps the file when its name goes away.
            stream = os.fdopen(os.dup(text.fileno()), "rb")
        self._opened.append(stream)
        self._counted = stream
        self.size_bytes = stream.seek(0, io.SEEK_END)
        stream.seek(0)
        return stream

    @property
    def position_bytes(self) -> int:
        if self._counted is None or self._counted.closed:
            return self.size_bytes
        return min(self._counted.tell(), self.size_bytes)

    def close(self) -> None:
        for file in reversed(self._opened):
            file.close()
        self._opened.clear()

    def _broken(self, error: Exception, n: int, unit: str) -> SourceError:
        """What was read before does not come out: a document of a part looks like one of the whole."""
        advice = "; it can be read with an intact copy"
        if isinstance(error, _CORRUPT) and self.path != STDIN:
            advice += f", and its intact part with: gzip -dc {shlex.quote(str(self.path))} | inferometer replay -"
        return SourceError(f"{self.path}: cannot be read beyond {n} {unit}: {error}{advice}")


class _Unpacked(io.RawIOBase):
    """The text of a gzip file. Damage is raised after all that stands before it was handed on.

    A larger read of GzipFile itself forgets, when it fails, what it had gathered.
    """

    def __init__(self, file: gzip.GzipFile) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read1(len(buffer))
        buffer[: len(data)] = data
        return len(data)


class JsonFile(_Stream):
    """One event (or array of events) a line. Blank lines are not counted.

    `may_be_document`: the file may also be one JSON value over many lines; the elements of an array
    are then the records.
    """

    def __init__(self, path: Path, config: Config, *, may_be_document: bool = False) -> None:
        self._max_line_bytes = config.decode.max_record_bytes
        self._may_be_document = may_be_document and path != STDIN
        super().__init__(path)

    def batches(self) -> Iterator[Fetch]:
        records: list[Record] = []
        size_bytes = 0
        from_offset = offset = 0
        lines = self._document() if self._may_be_document else None
        try:
            for line in lines if lines is not None else self._lines():
                if line:
                    records.append(Record(offset, -1, None, line, ()))
                    size_bytes += len(line)
                offset += 1
                if len(records) >= BATCH_ROWS or size_bytes >= BATCH_BYTES:
                    yield self._fetch(from_offset, offset, records, size_bytes)
                    records, size_bytes, from_offset = [], 0, offset
        except (*_CORRUPT, OSError) as error:
            raise self._broken(error, offset, "lines") from None
        if offset > from_offset:
            yield self._fetch(from_offset, offset, records, size_bytes)

    def _fetch(self, low: int, high: int, records: list[Record], size_bytes: int) -> Fetch:
        return Fetch(1, self.partition, low, high, records, -1, size_bytes)

    def _lines(self) -> Iterator[bytes]:
        """Lines without their ends, b"" for blank ones. Longer than allowed: cut to one byte too many."""
        read = self._stream.readline
        limit = self._max_line_bytes + 2  # room for "\r\n"
        is_first = True
        while line := read(limit):
            if len(line) == limit and not line.endswith(b"\n"):
                while (rest := read(_CHUNK_BYTES)) and not rest.endswith(b"\n"):
                    pass
                line = line[: self._max_line_bytes + 1]
            if is_first:
                is_first = False
                line = line.removeprefix(_BOM)
            # Only what stands outside of JSON: a line of a file may be indented.
            yield line.strip(b" \t\r\n")

    def _document(self) -> Iterator[bytes] | None:
        """The elements of a document of many lines; None when this is one event a line."""
        first = next(self._lines(), b"")
        self._rewind()
        with suppress(orjson.JSONDecodeError):
            if type(orjson.loads(first)) is dict:
                return None
        try:
            text = self._stream.read(MAX_DOCUMENT_BYTES + 1)
        except (*_CORRUPT, OSError) as error:
            raise self._broken(error, 0, "lines") from None
        if len(text) > MAX_DOCUMENT_BYTES:
            raise SourceError(
                f"{self.path}: one JSON document of more than {MAX_DOCUMENT_BYTES >> 20} MiB; "
                "write one event a line, for example with `jq -c .[]`"
            )
        with suppress(orjson.JSONDecodeError):
            tree = orjson.loads(text.removeprefix(_BOM))
            if type(tree) is not list:
                return iter([text])
            # Written again, so that duplicate keys are no longer seen: orjson has let the last win.
            return (orjson.dumps(event) for event in tree)
        self._rewind()
        return None

    def _rewind(self) -> None:
        self.close()
        self._stream = self._open()


class CsvFile(_Stream):
    """Rows of a CSV with a header line; cells are text, typed by the decoder."""

    def __init__(self, path: Path, config: Config, delimiter: str) -> None:
        self._max_cell_bytes = config.decode.max_record_bytes
        self._delimiter = delimiter
        super().__init__(path)

    def batches(self) -> Iterator[TableFetch]:
        text = io.TextIOWrapper(self._stream, encoding="utf-8-sig", errors="replace", newline="")
        # A process-wide setting, but nothing else here reads CSV.
        csv.field_size_limit(self._max_cell_bytes)
        reader = csv.reader(text, delimiter=self._delimiter)
        offset = 0
        rows: list[list[str]] = []
        try:
            columns = tuple(next(reader, []))
            _check_columns(self.path, columns)
            size_bytes = 0
            for row in reader:
                if not row:  # a blank line
                    continue
                rows.append(row)
                size_bytes += sum(map(len, row)) + len(row)
                if len(rows) >= BATCH_ROWS or size_bytes >= BATCH_BYTES:
                    yield self._fetch(offset, columns, rows, size_bytes)
                    offset += len(rows)
                    rows, size_bytes = [], 0
        except csv.Error as error:
            raise SourceError(f"{self.path}, line {reader.line_num}: {error}") from None
        except (*_CORRUPT, OSError) as error:
            raise self._broken(error, offset + len(rows), "rows") from None
        finally:
            text.detach()  # closing belongs to `close`
        if rows:
            yield self._fetch(offset, columns, rows, size_bytes)

    def _fetch(
        self, offset: int, columns: tuple[str, ...], rows: list[Any], size_bytes: int
    ) -> TableFetch:
        return TableFetch(self.partition, offset, columns, rows, True, stem(self.path), size_bytes)


class ParquetFile(EventFile):
    """Rows of a Parquet file; pyarrow is imported here only."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ImportError:
            raise ConfigError(
                f"{path}: reading Parquet needs pyarrow; install `inferometer[parquet]`"
            ) from None
        self._pa = pa
        try:
            self.size_bytes = path.stat().st_size
            self._file = pq.ParquetFile(path)
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror or error}") from None
        except pa.ArrowInvalid as error:
            raise ConfigError(f"{path}: not a Parquet file: {error}") from None
        self._n_rows = max(1, int(self._file.metadata.num_rows))
        self._n_read = 0
        try:
            _check_columns(path, tuple(self._file.schema_arrow.names))
        except SourceError:
            self.close()
            raise

    @property
    def position_bytes(self) -> int:
        return self.size_bytes * self._n_read // self._n_rows

    def batches(self) -> Iterator[TableFetch]:
        columns = tuple(self._file.schema_arrow.names)
        try:
            for batch in self._file.iter_batches(batch_size=BATCH_ROWS):
                rows = list(zip(*(self._values(column) for column in batch.columns), strict=True))
                offset = self._n_read
                self._n_read += len(rows)
                yield TableFetch(
                    self.partition, offset, columns, rows, False, stem(self.path), batch.nbytes
                )
        except (OSError, self._pa.ArrowException, OverflowError, ValueError) as error:
            raise SourceError(
                f"{self.path}: cannot be read beyond {self._n_read} rows: {error}"
            ) from None

    def _values(self, column: Any) -> list[Any]:
        """Python values of a column; NaN stays NaN, null is None."""
        if self._pa.types.is_timestamp(column.type):
            # Nanoseconds would need pandas; milliseconds are what event time is kept in.
            column = column.cast(self._pa.timestamp("us", column.type.tz), safe=False)
        values: list[Any] = column.to_pylist()
        return values

    def close(self) -> None:
        self._file.close()


def stem(path: Path) -> str:
    """The name without its format: `scores.csv.gz` -> `scores`."""
    return _unpacked_name(path).stem


def _unpacked_name(path: Path) -> Path:
    name = Path(path.name)
    return Path(name.stem) if name.suffix.lower() in (".gz", ".zst", ".zstd") else name


def _check_columns(path: Path, columns: Sequence[str]) -> None:
    seen: set[str] = set()
    for column in columns:
        if column in seen:
            raise SourceError(f"{path}: column {column!r} stands twice; rename one of them")
        seen.add(column)

"""Chunks: what may be merged, and messages of what may not be read."""

from __future__ import annotations

import struct
import zlib

import msgspec
import pytest

from agent.config import Config, Windows
from agent.errors import DecodeError
from agent.sketch.cells import SKETCH_PARAMETERS
from agent.state.chunk import MAGIC, VERSION, from_bytes, merge_digest, to_bytes
from agent.state.frame import seal_frame
from agent.types import StreamKey
from tests.support.blocks import Row, chunk_of, feature, range_of

KEY = StreamKey("m", "1")


def test_the_digest_names_what_must_agree_and_nothing_else() -> None:
    assert merge_digest(Config()) == f"60000;{SKETCH_PARAMETERS}"
    assert merge_digest(Config(windows=Windows(width_s=30))) != merge_digest(Config())
    assert merge_digest(Config(windows=Windows(max_open=3, keep=9))) == merge_digest(Config())


def sample() -> bytes:
    rows = [Row(KEY, 1_700_000_000_000, {feature("x"): 1.0, feature("c"): "a"})]
    return to_bytes(chunk_of([[rows]], digest="d", ranges=[range_of(0, rows)]))


def parts_of(data: bytes) -> tuple[list[object], bytes]:
    """Header (decoded without its types) and body."""
    header_length, body_length = struct.unpack_from("<IQ", data, 8)
    header = msgspec.msgpack.decode(data[20 : 20 + header_length])
    return header, data[20 + header_length : 20 + header_length + body_length]


def rebuilt(header: list[object], body: bytes) -> bytes:
    return seal_frame(MAGIC, VERSION, msgspec.msgpack.encode(header), body)


def test_rebuilding_the_parts_gives_the_same_chunk() -> None:
    header, body = parts_of(sample())
    assert to_bytes(from_bytes(rebuilt(header, body))) == sample()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "chunk: 0 bytes; a frame has at least 24"),
        (b"IFPR" + sample()[4:], "chunk: starts with b'IFPR', not b'IFCH'"),
        (
            sample()[:4] + b"\x09\x00" + sample()[6:],
            "version 9; this program reads up to 1: upgrade",
        ),
        (sample()[:4] + b"\x00\x00" + sample()[6:], "chunk: version 0"),
        (sample()[:-1], "its lengths say"),
        (sample()[:-1] + b"\x00\x00", "its lengths say"),
        (sample()[:30] + b"\xff" + sample()[31:], "checksum does not match"),
    ],
)
def test_each_kind_of_damage_is_named(data: bytes, message: str) -> None:
    with pytest.raises(DecodeError, match=message):
        from_bytes(data)


def test_cells_that_do_not_fill_the_body_are_refused() -> None:
    header, body = parts_of(sample())
    with pytest.raises(DecodeError, match=r"chunk: cells take \d+ bytes, the body has \d+"):
        from_bytes(rebuilt(header, body + b"x"))


def test_a_reference_to_a_cell_that_is_not_there_is_refused() -> None:
    header, body = parts_of(sample())
    (group,) = header[5]  # type: ignore[misc]
    group["cells"][0]["cell"] = 7  # type: ignore[index]
    with pytest.raises(DecodeError, match="names cell 7 of 1"):
        from_bytes(rebuilt(header, body))


def test_a_header_of_another_shape_is_refused() -> None:
    with pytest.raises(DecodeError, match="chunk header"):
        from_bytes(rebuilt(["only this"], b""))


def test_the_checksum_covers_header_and_body() -> None:
    data = sample()
    assert zlib.crc32(data[:-4]) == struct.unpack("<I", data[-4:])[0]

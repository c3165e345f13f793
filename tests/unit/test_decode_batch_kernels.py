"""Kernels that check and open batches: checksums, hand-written blocks, and memory that ends."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from aiokafka.record.util import calc_crc32c

from agent.decode.arena import RecordArena
from agent.decode.kernels import crc
from tests.support.raw_batches import LZ4, SNAPPY, batches_of, body_of, encoded, opened, record


def test_kernels_keep_to_their_memory_and_agree_with_the_library() -> None:
    """Sound, spoiled and cut batches between unreadable pages, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.guarded_batches", "3000", "20"],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, (done.returncode, done.stdout[-2000:], done.stderr[-2000:])
    outcomes = json.loads(done.stdout)
    assert outcomes["codec 2: 0"] > 100
    assert outcomes["codec 3: 0"] > 100
    assert outcomes["index: 0"] > 1000


# ---------------------------------------------------------------- checksum


@pytest.mark.parametrize("function", [crc.crc32c, crc.checksum_by_tables])
def test_checksum_is_the_client_librarys_at_every_length_and_alignment(function: Any) -> None:
    data = np.random.default_rng(1).bytes(20_000)
    memory = np.frombuffer(data, np.uint8)
    sizes = [*range(40), 1023, 1024, 3071, 3072, 3073, 6144, 9216 + 7, 19_990]
    for size in sizes:
        for start in range(9):
            value = function(memory.ctypes.data + start, size)
            assert int(value) == calc_crc32c(data[start : start + size]), (start, size)
    # The check value that every description of CRC-32C gives.
    nine = np.frombuffer(b"123456789", np.uint8)
    assert int(function(nine.ctypes.data, 9)) == 0xE3069283


def test_instruction_is_used_only_where_host_and_target_have_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(crc.platform, "machine", lambda: "x86_64")
    host = {"sse4.2": True}
    monkeypatch.setattr(crc.binding, "get_host_cpu_features", lambda: host)
    has = crc.target_has_instruction
    assert has(None, None)
    assert has("x86-64-v3", "")
    assert has("x86-64-v2", None)
    assert has("generic", "+sse4.2,+avx")
    assert has(None, "+sse4.2")
    assert not has("generic", "")
    assert not has("x86-64", None)
    assert not has("some-cpu", "+avx")
    assert not has("x86-64-v3", "-sse4.2")
    assert not has(None, "-crc32,+avx")
    assert not has(None, ""), "features that were asked for replace the host's"
    host["sse4.2"] = False
    assert not has(None, None)
    assert has("x86-64-v3", ""), "the building machine is not the one that runs it"
    monkeypatch.setattr(crc.platform, "machine", lambda: "aarch64")
    host["sse4.2"] = True
    assert not has(None, None)


@pytest.mark.parametrize(
    ("name", "features"), [("x86-64", ""), ("x86-64-v3", ""), (None, None), ("generic", None)]
)
def test_every_target_compiles_and_checks(name: str | None, features: str | None) -> None:
    """An instruction that the target lacks would end the process."""
    program = (
        "from agent.decode.kernels import crc; import numpy as np;"
        "a = np.frombuffer(b'123456789', np.uint8);"
        "print(crc.HAS_INSTRUCTION, hex(crc.crc32c(a.ctypes.data, 9)))"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("NUMBA_CPU")}
    if name is not None:
        environment["NUMBA_CPU_NAME"] = name
    if features is not None:
        environment["NUMBA_CPU_FEATURES"] = features
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    has_instruction, value = done.stdout.split()
    assert value == "0xe3069283"
    if name in ("x86-64", "generic"):
        assert has_instruction == "False"


# ---------------------------------------------------------------- blocks written by hand


def read(payload: bytes, codec: int, n_records: int = 1) -> list[object]:
    items, _ = batches_of(bytes(encoded(payload, attributes=codec, n_records=n_records)))
    return list(opened(RecordArena(), items))  # type: ignore[arg-type]


def lz4(block: bytes) -> bytes:
    return struct.pack("<IBBBI", 0x184D2204, 0x60, 0x40, 0, len(block)) + block + bytes(4)


#: A record of a value of ten letters, so that blocks can be written around it: 18 bytes.
RECORD = record(0, b"abcabcabca", timestamp_ms=0)
BODY = body_of(RECORD)
HEAD = len(BODY) - len(b"abcabcabca") - 1  # up to the value; one byte (no headers) ends the record


def test_record_is_what_the_blocks_below_take_it_to_be() -> None:
    assert BODY == b"\x20\0\0\0\x01\x14abcabcabca\0"
    assert (HEAD, len(BODY)) == (6, 17)


def test_lz4_sequences() -> None:
    first = BODY[: HEAD + 3]  # and "abc"; the match of 7 at a distance of 3 repeats it
    match = bytes([len(first) << 4 | 7 - 4]) + first + b"\x03\0"
    assert read(lz4(match + b"\x10\0"), LZ4) == [RECORD]
    assert read(lz4(bytes([15 << 4, 2]) + BODY), LZ4) == [RECORD], "a length in two parts"
    broken = {
        "a distance of zero": bytes([9 << 4 | 3]) + first + b"\0\0" + b"\x10\0",
        "a distance before the start": bytes([9 << 4 | 3]) + first + b"\x0a\0" + b"\x10\0",
        "a match at the end": match,
        "no distance": bytes([9 << 4 | 3]) + first + b"\x03",
        "a length without an end": bytes([15 << 4]) + b"\xff" * 20,
        "more literals than there are": bytes([15 << 4, 3]) + BODY,
        "no sequence": b"",
    }
    for why, block in broken.items():
        assert read(lz4(block), LZ4) == [(0, 1)], why
    reaches_to_the_start = bytes([9 << 4 | 3]) + first + b"\x09\0" + b"\x10\0"
    repeated = first + first[:7] + b"\0"
    assert read(lz4(reaches_to_the_start), LZ4) == [record(0, repeated[HEAD:-1], timestamp_ms=0)], (
        "a distance back to the first byte"
    )


def test_lz4_frames_that_end_too_soon_or_late() -> None:
    frame = lz4(bytes([15 << 4, 2]) + BODY)
    assert read(frame, LZ4) == [RECORD]
    for end in range(len(frame)):
        assert read(frame[:end], LZ4) == [(0, 1)], end
    assert read(frame + b"\0", LZ4) == [(0, 1)]
    wrong_version = bytearray(frame)
    wrong_version[4] = 0xA0
    assert read(bytes(wrong_version), LZ4) == [(0, 1)]
    larger_than_a_block = frame[:7] + struct.pack("<I", 65_537 | 1 << 31) + bytes(65_541)
    assert read(larger_than_a_block, LZ4) == [(0, 1)]


def test_snappy_elements() -> None:
    size = bytes([len(BODY)])
    first = BODY[: HEAD + 3]
    literal = bytes([len(first) - 1 << 2]) + first
    end = b"\0\0"
    short = bytes([(7 - 4) << 2 | 1, 3])
    assert read(size + literal + short + end, SNAPPY) == [RECORD]
    for kind, width in ((2, "<H"), (3, "<I")):
        match = bytes([(7 - 1) << 2 | kind]) + struct.pack(width, 3)
        assert read(size + literal + match + end, SNAPPY) == [RECORD], kind
        for distance in (0, 10, 65_535):
            bad = bytes([(7 - 1) << 2 | kind]) + struct.pack(width, distance)
            assert read(size + literal + bad + end, SNAPPY) == [(0, 1)], (kind, distance)
    for extra in range(1, 5):
        long_literal = bytes([59 + extra << 2]) + (len(BODY) - 1).to_bytes(extra, "little") + BODY
        assert read(size + long_literal, SNAPPY) == [RECORD], extra
    whole = size + bytes([len(BODY) - 1 << 2]) + BODY
    assert read(whole, SNAPPY) == [RECORD]
    for bad in (
        bytes([len(BODY) + 1]) + whole[1:],  # claims a byte more than comes
        bytes([len(BODY) - 1]) + whole[1:],  # and one less
        b"\xff\xff\xff\xff\x7f" + whole[1:],
        b"\x80" * 6 + whole,
        whole + b"\0",
        *(whole[:n] for n in range(len(whole))),
    ):
        assert read(bad, SNAPPY) == [(0, 1)], bad


def test_snappy_in_the_java_clients_framing() -> None:
    block = bytes([len(BODY), len(BODY) - 1 << 2]) + BODY
    head = b"\x82SNAPPY\0" + struct.pack(">ii", 1, 1)
    framed = head + struct.pack(">i", len(block)) + block
    assert read(framed, SNAPPY) == [RECORD]
    assert read(framed + struct.pack(">i", len(block)) + block, SNAPPY, 2)[:1] == [RECORD]
    for end in range(1, len(framed)):
        assert read(framed[:end], SNAPPY) == [(0, 1)], end
    assert read(head + struct.pack(">i", len(block) + 1) + block, SNAPPY) == [(0, 1)]
    assert read(head + struct.pack(">i", -1) + block, SNAPPY) == [(0, 1)]

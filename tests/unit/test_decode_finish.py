"""What the finishing kernel reads of a row, beside the plain functions of `scalars`."""

from __future__ import annotations

import random

import numpy as np
import pytest

from agent.decode.bindings import Bindings
from agent.decode.kernels import finish
from agent.decode.scalars import error_text, header_text, valid_traceparent
from tests.support.raw_batches import varint

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def placed(raw: bytes) -> tuple[np.ndarray, int]:
    """The bytes between 64 others that would all be hexadecimal digits; the buffer and their address."""
    buffer = np.frombuffer(bytearray(b"0" * 64 + raw + b"0" * 64), np.uint8)
    return buffer, buffer.ctypes.data + 64


def mutations(text: str, rng: random.Random, alphabet: str) -> str:
    chars = list(text)
    for _ in range(rng.randrange(1, 4)):
        dice = rng.randrange(4)
        at = rng.randrange(len(chars) + (dice == 0))
        if dice == 0:
            chars.insert(at, rng.choice(alphabet))
        elif dice == 1 and len(chars) > 1:
            del chars[at]
        else:
            chars[at] = rng.choice(alphabet)
    return "".join(chars)


def is_traceparent(text: str) -> bool:
    buffer, address = placed(text.encode())
    found = bool(finish.is_traceparent(address, len(text.encode())))
    del buffer
    return found


@pytest.mark.parametrize(
    "text",
    [
        TRACE,
        TRACE.upper(),
        TRACE[:-1],
        TRACE + "-",
        TRACE + "-x",
        TRACE + "0",
        "01" + TRACE[2:],
        "01" + TRACE[2:] + "-and more",
        "01" + TRACE[2:] + "x",
        "ff" + TRACE[2:],
        "fe" + TRACE[2:],
        f"00-{'0' * 32}-00f067aa0ba902b7-01",
        f"00-4bf92f3577b34da6a3ce929d0e0e4736-{'0' * 16}-01",
        f"00-{'0' * 31}1-{'0' * 15}1-00",
        "",
        "-",
        "x" * 55,
        "-" * 55,
        "0" * 55,
    ],
)
def test_trace_contexts_have_the_verdict_of_the_plain_reader(text: str) -> None:
    assert is_traceparent(text) == valid_traceparent(text)


def test_mutated_trace_contexts_have_the_verdict_of_the_plain_reader() -> None:
    rng = random.Random(1)
    verdicts = []
    for _ in range(20_000):
        text = mutations(TRACE, rng, "0f-9aAgG:`/fF\u00e9")
        verdicts.append(valid_traceparent(text))
        assert is_traceparent(text) == verdicts[-1], text
    assert 500 < sum(verdicts) < 19_500


def test_statuses_have_the_verdict_of_the_plain_reader() -> None:
    rng = random.Random(2)
    texts = ["ok", "OK", "Ok", "o\u212a", "O\u212a", "success", "SUCCESS", "0", "200", "299", ""]
    texts += ["2", "20", "2000", "300", "\u017fuccess", "sUCCESs", "\x4f\x0b", "o\u212b", "2a0"]
    texts += [
        mutations(text or "x", rng, "okOKsucesSUCES0129\u212a\u0101 ") for text in texts * 500
    ]
    for text in texts:
        raw = text.encode()
        buffer, address = placed(raw)
        assert finish.read_status(address, len(raw)) == (error_text(text) != ""), text
        del buffer


def test_the_trace_state_among_headers_is_that_of_the_plain_reader() -> None:
    rng = random.Random(3)
    names = ("tracestate", "TraceState", "TRACESTATE", "traceparent", "tracestatf", "other", "")
    found = np.zeros(1, np.int64)
    for _ in range(3000):
        headers = tuple(
            (rng.choice(names), rng.choice((b"a=1", b"", None, b"x" * 200)))
            for _ in range(rng.randrange(6))
        )
        raw = b""
        for name, value in headers:
            raw += varint(len(name)) + name.encode()
            raw += varint(-1) if value is None else varint(len(value)) + value
        buffer, address = placed(raw)
        at = finish.find_trace_state(address, len(headers), found.ctypes.data)
        expected = header_text(headers, "tracestate")
        if expected is None:
            assert at == 0
        else:
            start = at - buffer.ctypes.data
            assert buffer[start : start + int(found[0])].tobytes().decode() == expected


def test_bindings_hold_thousands_of_streams_and_grow() -> None:
    rng = random.Random(4)
    bindings = Bindings()
    keys = [(rng.getrandbits(64), rng.randrange(3)) for _ in range(5000)]
    for number, (key, shape) in enumerate(keys):
        bindings.reserve()
        bindings.note_fresh(1)
        bindings.bind(np.uint64(key), shape, number)
    states = bindings.states()
    assert states == {
        (key, shape): number + finish.BOUND for number, (key, shape) in enumerate(keys)
    }
    bindings.forget(np.uint64(keys[0][0]), keys[0][1])
    bindings.refuse(np.uint64(keys[1][0]), keys[1][1])
    states = bindings.states()
    assert states[keys[0]] == finish.FORGOTTEN
    assert states[keys[1]] == finish.REFUSED
    bindings.clear()
    assert bindings.states() == {}


def test_bindings_begin_again_when_there_are_too_many() -> None:
    bindings = Bindings()
    bindings.note_fresh(70_000)
    bindings.reserve()  # nothing is in it: it only says so
    bindings.bind(np.uint64(1), 0, 5)
    assert bindings.states() == {(1, 0): 5 + finish.BOUND}

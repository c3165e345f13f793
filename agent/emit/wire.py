"""Protobuf's wire format, as far as exports need it.

Why by hand: a point must be sized before it is placed in a request (requests are split below a
limit), and its attributes are the same bytes at every export. So points are encoded one by one and
joined here, instead of building one message tree and serialising it at the end. Field numbers come
from `opentelemetry-proto`'s descriptors, whose parser is the oracle of the tests.

Source: protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Any

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5

#: A length prefix of a message below 2^35 bytes takes at most this many bytes.
MAX_LENGTH_PREFIX = 5

fixed64 = struct.Struct("<Q").pack
fixed32 = struct.Struct("<I").pack
double = struct.Struct("<d").pack


_BYTES = [bytes((value,)) for value in range(0x80)]


def varint(value: int) -> bytes:
    """An unsigned integer below 2^64, 7 bits a byte, least significant first."""
    if value < 0x80:
        return _BYTES[value]
    if value < 0x4000:
        return bytes((value & 0x7F | 0x80, value >> 7))
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def zigzag(value: int) -> int:
    """A signed integer of `sint32`/`sint64` fields as an unsigned one."""
    return value << 1 if value >= 0 else (-value << 1) - 1


def tag(message: Any, field: str, wire_type: int) -> bytes:
    """The key of a field, its number taken from the message's descriptor."""
    number: int = message.DESCRIPTOR.fields_by_name[field].number
    return varint(number << 3 | wire_type)


def delimited(key: bytes, payload: bytes) -> bytes:
    """A length-delimited field: text, bytes, an embedded message or packed numbers."""
    return key + varint(len(payload)) + payload


def text(key: bytes, value: str) -> bytes:
    """A text field; nothing for an empty text, which is the default. Lone surrogates become `?`."""
    return delimited(key, value.encode("utf-8", "replace")) if value else b""


_KEY = tag(KeyValue, "key", LENGTH)
_VALUE = tag(KeyValue, "value", LENGTH)
_STRING = tag(AnyValue, "string_value", LENGTH)
_BOOL = tag(AnyValue, "bool_value", VARINT)
_INT = tag(AnyValue, "int_value", VARINT)
_DOUBLE = tag(AnyValue, "double_value", FIXED64)
_ARRAY = tag(AnyValue, "array_value", LENGTH)
_VALUES = tag(ArrayValue, "values", LENGTH)

Value = str | bool | int | float | tuple[str, ...]


def any_value(value: Value) -> bytes:
    """An `AnyValue`. Members of a oneof are written also when they are the default."""
    if isinstance(value, str):
        return delimited(_STRING, value.encode("utf-8", "replace"))
    if isinstance(value, bool):
        return _BOOL + (b"\x01" if value else b"\x00")
    if isinstance(value, int):
        return _INT + varint(value & 0xFFFF_FFFF_FFFF_FFFF)
    if isinstance(value, float):
        return _DOUBLE + double(value)
    return delimited(_ARRAY, b"".join(delimited(_VALUES, any_value(item)) for item in value))


def attribute(key: bytes, name: str, value: Value) -> bytes:
    """One `KeyValue` as a member of the repeated field with the key `key`."""
    pair = delimited(_KEY, name.encode("utf-8", "replace")) + delimited(_VALUE, any_value(value))
    return delimited(key, pair)


def attributes(key: bytes, pairs: Mapping[str, Value]) -> bytes:
    """All `KeyValue`s of a repeated field."""
    return b"".join(attribute(key, name, value) for name, value in pairs.items())


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Field numbers and raw values of a message: ints for varint and fixed, bytes for the rest.

    Raises ValueError on bytes that are not a protobuf message.
    """
    at, end = 0, len(message)
    while at < end:
        key, at = _read_varint(message, at)
        wire_type = key & 7
        value: int | bytes
        if wire_type == VARINT:
            value, at = _read_varint(message, at)
        elif wire_type in (FIXED64, FIXED32):
            width = 8 if wire_type == FIXED64 else 4
            value, at = int.from_bytes(message[at : at + width], "little"), at + width
        elif wire_type == LENGTH:
            length, at = _read_varint(message, at)
            value, at = message[at : at + length], at + length
        else:
            raise ValueError(f"wire type {wire_type} at byte {at}")
        if at > end:
            raise ValueError(f"field {key >> 3} ends at byte {at} of {end}")
        yield key >> 3, value


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(message) or shift > 63:
            raise ValueError(f"varint at byte {at} has no end")
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7

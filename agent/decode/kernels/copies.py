"""Copies of bytes for the decompressors: generous ones, that write past the end, and exact ones.

All take addresses without alignment. "Past the end" is at most 31 bytes beyond what was asked for, read
and written alike; callers know that those bytes are theirs.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir

from agent.sketch.kernels.compile import inlined, outlined
from agent.sketch.kernels.memory import load_u8, load_u64, store_u8, store_u64
from agent.sketch.kernels.toolchain import intrinsic, types

_I8, _I16, _I64 = (ir.IntType(bits) for bits in (8, 16, 64))

#: For distances 1 to 7: their smallest multiple of at least 8.
_FAR = np.array([0, 8, 8, 9, 8, 10, 12, 14], np.int64)


def _make_copy(n_bytes):
    vector = ir.VectorType(_I8, n_bytes)

    @intrinsic
    def copy(typingctx, target, source):
        def codegen(context, builder, signature, args):
            to, whence = (builder.inttoptr(address, vector.as_pointer()) for address in args)
            builder.store(builder.load(whence, align=1), to, align=1)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64), codegen

    return copy


copy16 = _make_copy(16)
copy32 = _make_copy(32)
copy64 = _make_copy(64)  # loads all of it before it stores: right for a distance below 64, too


@intrinsic
def load_u16(typingctx, address):
    """Two bytes, the lower first, as int64."""

    def codegen(context, builder, signature, args):
        pointer = builder.inttoptr(args[0], _I16.as_pointer())
        return builder.zext(builder.load(pointer, align=1), _I64)

    return types.int64(types.int64), codegen


@inlined
def copy_generous(target, source, size):
    """Copy `size` bytes that do not overlap; up to 31 past the end."""
    copy16(target, source)
    at = 16
    while at < size:
        copy32(target + at, source + at)
        at += 32


@outlined
def copy_exact(target, source, size):
    """Copy `size` bytes that do not overlap, and nothing else."""
    at = 0
    while at + 32 <= size:
        copy32(target + at, source + at)
        at += 32
    while at + 8 <= size:
        store_u64(target + at, load_u64(source + at))
        at += 8
    while at < size:
        store_u8(target + at, load_u8(source + at))
        at += 1


@outlined
def _repeat_near(target, distance, size):
    """`copy_match` for distances below 16."""
    source = target - distance
    at = 0
    if distance < 8:
        # The pattern once more, until it also stands at a distance of 8 or more.
        far = _FAR[distance]
        while at < far:
            store_u8(target + at, load_u8(source + at))
            at += 1
        source = target - far
    while at < size:
        store_u64(target + at, load_u64(source + at))
        at += 8


@inlined
def copy_match(target, distance, size):
    """Repeat `size` (at least 1) of the bytes that begin `distance` (at least 1) before `target`.

    They may overlap what is written, which is then a pattern that repeats. Up to 31 past the end.
    """
    source = target - distance
    if distance >= 32:
        copy32(target, source)
        at = 32
        while at < size:
            copy32(target + at, source + at)
            at += 32
    elif distance >= 16:
        at = 0
        while at < size:
            copy16(target + at, source + at)
            at += 16
    else:
        _repeat_near(target, distance, size)

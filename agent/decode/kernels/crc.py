"""CRC-32C of record batches: with the CPU's instruction where the target has it, else by tables.

The checksum of a batch (Castagnoli's polynomial, reflected, inverted at both ends) covers all bytes
behind it. With the instruction (x86 with SSE 4.2), three streams of 1 KiB run side by side, because it
takes three cycles and one can begin every cycle; their states are joined by tables: a CRC is linear, so
the state after 1024 zero bytes is the exclusive or of what each of its bytes becomes. Without it, eight
bytes at a time go through eight tables, about a tenth as fast.

LLVM ends the process when it meets an instruction that its target lacks, so the target that numba compiles
for is asked first: the building machine only where it is the target.
"""

from __future__ import annotations

import platform
from functools import reduce
from operator import xor

import numpy as np
from llvmlite import binding, ir
from numpy.typing import NDArray

from agent.sketch.kernels.compile import inlined, kernel, outlined
from agent.sketch.kernels.memory import load_u8, load_u64
from agent.sketch.kernels.toolchain import cgutils, cpu_features, cpu_name, intrinsic, types

U = np.uint64
_POLYNOMIAL = 0x82F63B78
_STREAM_BYTES = 1024
_ALL = U(0xFFFFFFFF)
#: CPU names that LLVM knows as levels; each has SSE 4.2.
_LEVELS = frozenset(("x86-64-v2", "x86-64-v3", "x86-64-v4"))


def target_has_instruction(cpu_name: str | None, cpu_features: str | None) -> bool:
    """Whether the target has the instruction; the arguments are numba's CPU_NAME and CPU_FEATURES.

    LLVM cannot be asked what a CPU's name implies, so a name that is not one of the levels counts as
    lacking it, unless the features name it.
    """
    if platform.machine() not in ("x86_64", "AMD64"):
        return False
    if cpu_name is None and cpu_features is None:
        try:
            return bool(binding.get_host_cpu_features().get("sse4.2", False))
        except RuntimeError:
            return False
    asked = (cpu_features or "").split(",")
    if "-sse4.2" in asked or "-crc32" in asked:
        return False
    return cpu_name in _LEVELS or "+sse4.2" in asked


HAS_INSTRUCTION = target_has_instruction(cpu_name, cpu_features)


def _after_byte(state: int) -> int:
    """The state of the bit-by-bit definition after one zero byte."""
    for _ in range(8):
        state = (state >> 1) ^ (_POLYNOMIAL if state & 1 else 0)
    return state


def _after_zeros(n_bytes: int) -> list[int]:
    """What each bit of a state becomes after so many zero bytes, a power of two."""
    bits = [_after_byte(1 << bit) for bit in range(32)]
    for _ in range(n_bytes.bit_length() - 1):
        # Twice as many bytes: the map, applied to what it made of each bit.
        bits = [reduce(xor, (bits[i] for i in range(32) if image >> i & 1), 0) for image in bits]
    return bits


def _join_table() -> NDArray[np.uint64]:
    """uint64[4, 256]: what byte b of a state becomes after `_STREAM_BYTES` zero bytes, by its value."""
    table = np.zeros((4, 256), np.uint64)
    for bit, image in enumerate(_after_zeros(_STREAM_BYTES)):
        row, low = table[bit // 8], 1 << bit % 8
        row[low : 2 * low] = row[:low] ^ U(image)
    return table


def _word_tables() -> NDArray[np.uint64]:
    """uint64[8, 256]: what a byte becomes that k = 0..7 bytes follow."""
    tables = np.zeros((8, 256), np.uint64)
    tables[0] = [_after_byte(value) for value in range(256)]
    for k in range(1, 8):
        before = tables[k - 1]
        tables[k] = tables[0][before & U(255)] ^ (before >> U(8))
    return tables


_WORDS = _word_tables()
_BYTE = _WORDS[0].copy()


@inlined
def _rest(state, address, size):
    """The state after `size` bytes at `address`, one by one."""
    while size > 0:
        state = _BYTE[(state ^ U(load_u8(address))) & U(255)] ^ (state >> U(8))
        address += 1
        size -= 1
    return state


@outlined
def checksum_by_tables(address, size):
    """CRC-32C of `size` bytes at `address`; reads nothing else."""
    state = _ALL
    while size >= 8:
        word = load_u64(address) ^ state
        state = (
            _WORDS[7, word & U(255)]
            ^ _WORDS[6, (word >> U(8)) & U(255)]
            ^ _WORDS[5, (word >> U(16)) & U(255)]
            ^ _WORDS[4, (word >> U(24)) & U(255)]
            ^ _WORDS[3, (word >> U(32)) & U(255)]
            ^ _WORDS[2, (word >> U(40)) & U(255)]
            ^ _WORDS[1, (word >> U(48)) & U(255)]
            ^ _WORDS[0, word >> U(56)]
        )
        address += 8
        size -= 8
    return _rest(state, address, size) ^ _ALL


if HAS_INSTRUCTION:
    _JOIN = _join_table()

    @intrinsic
    def _crc_word(typingctx, state, word):
        """The state after the eight bytes of `word`."""

        def codegen(context, builder, signature, args):
            i64 = ir.IntType(64)
            function = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(i64, [i64, i64]), "llvm.x86.sse42.crc32.64.64"
            )
            return builder.call(function, args)

        return types.uint64(types.uint64, types.uint64), codegen

    @inlined
    def _join(state):
        """The state after `_STREAM_BYTES` zero bytes."""
        return (
            _JOIN[U(0), state & U(255)]
            ^ _JOIN[U(1), (state >> U(8)) & U(255)]
            ^ _JOIN[U(2), (state >> U(16)) & U(255)]
            ^ _JOIN[U(3), state >> U(24)]
        )

    @outlined
    def checksum(address, size):
        """CRC-32C of `size` bytes at `address`; reads nothing else."""
        state = _ALL
        while size >= 3 * _STREAM_BYTES:
            second, third = U(0), U(0)
            for at in range(address, address + _STREAM_BYTES, 8):
                state = _crc_word(state, load_u64(at))
                second = _crc_word(second, load_u64(at + _STREAM_BYTES))
                third = _crc_word(third, load_u64(at + 2 * _STREAM_BYTES))
            state = _join(_join(state) ^ second) ^ third
            address += 3 * _STREAM_BYTES
            size -= 3 * _STREAM_BYTES
        while size >= 8:
            state = _crc_word(state, load_u64(address))
            address += 8
            size -= 8
        return _rest(state, address, size) ^ _ALL

else:
    checksum = checksum_by_tables


@kernel("uint64(int64, int64)", nogil=False)
def crc32c(address, size):
    """CRC-32C of `size` bytes at `address`, for Python. Keeps the GIL (30 or 400 us a MiB)."""
    return checksum(address, size)

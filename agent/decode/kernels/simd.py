"""Byte vectors and wide products over raw addresses (int64), for the decoding kernels.

Plain LLVM vectors of 32 bytes: two AVX2 or four SSE registers, or NEON on ARM. Everything loads from
addresses without alignment and without bounds; the caller owns 64 readable bytes on both sides of a
record, and each function says what it reads.
"""

from __future__ import annotations

from llvmlite import ir

from agent.sketch.kernels.toolchain import cgutils, intrinsic, types

_I8, _I32, _I64, _I128 = (ir.IntType(bits) for bits in (8, 32, 64, 128))
_V32, _V64 = (ir.VectorType(_I8, size) for size in (32, 64))
u64, i64, f64 = types.uint64, types.int64, types.float64


def _splat(kind, value):
    return ir.Constant(kind, [value] * kind.count)


def _load(builder, address, kind):
    return builder.load(builder.inttoptr(address, kind.as_pointer()), align=1)


def _make_mask(name, kind, test, doc):
    @intrinsic
    def mask(typingctx, address):
        def codegen(context, builder, signature, args):
            bits = test(builder, _load(builder, args[0], kind))
            word = builder.bitcast(bits, ir.IntType(kind.count))
            return builder.zext(word, _I64) if kind.count < 64 else word

        return u64(types.int64), codegen

    mask.__name__ = name
    mask.__doc__ = doc
    return mask


def _is_not_digit(builder, x):
    return builder.icmp_unsigned(">", builder.sub(x, _splat(x.type, 48)), _splat(x.type, 9))


def _is_special(builder, x):
    quote = builder.icmp_unsigned("==", x, _splat(x.type, 34))
    escape = builder.icmp_unsigned("==", x, _splat(x.type, 92))
    # One signed compare takes control characters and everything that is not ASCII.
    return builder.or_(builder.or_(quote, escape), builder.icmp_signed("<", x, _splat(x.type, 32)))


nondigit32 = _make_mask(
    "nondigit32",
    _V32,
    _is_not_digit,
    "Bit mask of the 32 bytes at `address` that are not '0' to '9'.",
)
nondigit64 = _make_mask("nondigit64", _V64, _is_not_digit, "The same of 64 bytes.")
quotes32 = _make_mask(
    "quotes32",
    _V32,
    lambda builder, x: builder.icmp_unsigned("==", x, _splat(_V32, 34)),
    "Bit mask of the 32 bytes at `address` that are quotes.",
)
special32 = _make_mask(
    "special32",
    _V32,
    _is_special,
    "Bit mask of the 32 bytes at `address` that end or spoil plain text: quote, backslash, control, non-ASCII.",
)
special64 = _make_mask("special64", _V64, _is_special, "The same of 64 bytes.")


@intrinsic
def different32(typingctx, a, b):
    """Bit mask of the bytes in which the 32 at `a` and the 32 at `b` differ."""

    def codegen(context, builder, signature, args):
        x, y = (_load(builder, address, _V32) for address in args)
        return builder.zext(builder.bitcast(builder.icmp_unsigned("!=", x, y), _I32), _I64)

    return u64(types.int64, types.int64), codegen


@intrinsic
def fill32(typingctx, address, value):
    """Store the uint64 `value` four times at `address`."""

    def codegen(context, builder, signature, args):
        kind = ir.VectorType(_I64, 4)
        one = builder.insert_element(ir.Constant(kind, ir.Undefined), args[1], ir.Constant(_I32, 0))
        zeros = ir.Constant(ir.VectorType(_I32, 4), [0] * 4)
        four = builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), zeros)
        builder.store(four, builder.inttoptr(args[0], kind.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(types.int64, u64), codegen


@intrinsic
def digits32(typingctx, end, n_last, n_all):
    """The decimal digits that end at address `end`, as one uint64.

    n_last  digits directly before `end`
    n_all   digits altogether, at most 24, of which at most 19 are significant; when there are more than
            n_last, one byte (the decimal point) lies before the last n_last and is skipped

    Reads [end - 33, end). Pairs of digits, then of two-digit numbers, and so on are joined by vertical
    multiplications: about 20 instructions.
    """
    # An unaligned load at k selects the last k of 32 bytes.
    window = ir.Constant(ir.ArrayType(_I8, 64), [0] * 32 + [255] * 32)

    def codegen(context, builder, signature, args):
        end, n_last, n_all = args
        table = builder.ptrtoint(
            cgutils.global_constant(builder, "inferometer.digits32", window), _I64
        )
        is_last = _load(builder, builder.add(table, n_last), _V32)
        is_digit = _load(builder, builder.add(table, n_all), _V32)
        behind = _load(builder, builder.sub(end, ir.Constant(_I64, 32)), _V32)
        before = _load(builder, builder.sub(end, ir.Constant(_I64, 33)), _V32)
        x = builder.or_(
            builder.and_(behind, is_last),
            builder.and_(before, builder.xor(is_last, _splat(_V32, 255))),
        )
        x = builder.and_(builder.xor(x, _splat(_V32, 48)), is_digit)
        # The earlier digits are the lower half. In one product, with the rest out of its top:
        # (low + high * 2^half) * (1 + factor * 2^half) = low + (high + factor * low) * 2^half + ...
        for width, factor in ((16, 10), (32, 100)):
            kind = ir.VectorType(ir.IntType(width), 256 // width)
            x = builder.mul(builder.bitcast(x, kind), _splat(kind, 1 + (factor << width // 2)))
            x = builder.lshr(x, _splat(kind, width // 2))
        kind = ir.VectorType(_I64, 4)
        x = builder.bitcast(x, kind)
        low = builder.and_(x, _splat(kind, (1 << 32) - 1))
        high = builder.lshr(x, _splat(kind, 32))
        x = builder.add(builder.mul(low, _splat(kind, 10_000)), high)
        top, middle, bottom = (builder.extract_element(x, ir.Constant(_I32, k)) for k in (1, 2, 3))
        value = builder.add(builder.mul(middle, ir.Constant(_I64, 10**8)), bottom)
        return builder.add(value, builder.mul(top, ir.Constant(_I64, 10**16)))

    return u64(i64, i64, i64), codegen


@intrinsic
def multiply_high(typingctx, a, b):
    """The high 64 bits of the unsigned 128-bit product."""

    def codegen(context, builder, signature, args):
        product = builder.mul(builder.zext(args[0], _I128), builder.zext(args[1], _I128))
        return builder.trunc(builder.lshr(product, ir.Constant(_I128, 64)), _I64)

    return u64(u64, u64), codegen


@intrinsic
def bits_of(typingctx, x):
    """The bits of a float64."""
    return u64(f64), lambda context, builder, signature, args: builder.bitcast(args[0], _I64)


@intrinsic
def prefetch_read(typingctx, address):
    """Ask for the cache line at `address`, to be read. Never faults."""

    def codegen(context, builder, signature, args):
        pointer = builder.inttoptr(args[0], _I8.as_pointer())
        function = builder.module.declare_intrinsic(
            "llvm.prefetch",
            [pointer.type],
            ir.FunctionType(ir.VoidType(), [pointer.type, _I32, _I32, _I32]),
        )
        builder.call(function, [pointer] + [ir.Constant(_I32, v) for v in (0, 3, 1)])
        return context.get_dummy_value()

    return types.void(types.int64), codegen

"""Arithmetic over a batch of float64 at an address, eight at a time.

Plain LLVM vectors of eight: two registers with AVX2, four with NEON. A batch is padded up to the next
multiple of eight with copies of one of its values: whole vectors are read.
"""

from __future__ import annotations

from llvmlite import ir

from agent.sketch.kernels.toolchain import cgutils, intrinsic, types

_I1, _I8, _I32, _I64 = (ir.IntType(bits) for bits in (1, 8, 32, 64))
_F64 = ir.DoubleType()
_V4I, _V4F = ir.VectorType(_I64, 4), ir.VectorType(_F64, 4)
_V8B, _V8I, _V8F = ir.VectorType(_I1, 8), ir.VectorType(_I64, 8), ir.VectorType(_F64, 8)
u64, i64, f64 = types.uint64, types.int64, types.float64

ALL_WITHIN, ANY_NEGATIVE, ALL_ABSENT = 1, 2, 4  #: answers of `survey`


def _at(builder, address, kind):
    return builder.inttoptr(address, kind.as_pointer())


def _splat(builder, value, kind):
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(_I32, 0))
    zeros = ir.Constant(ir.VectorType(_I32, 8), [0] * 8)
    return builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), zeros)


def _floats(value):
    return ir.Constant(_V8F, [value] * 8)


def _fabs(builder, vector):
    kind = ir.FunctionType(_V8F, [_V8F])
    return builder.call(
        cgutils.get_or_insert_function(builder.module, kind, "llvm.fabs.v8f64"), [vector]
    )


def _reduced(builder, vector, combine):
    """All eight elements combined, by halves."""
    undefined = ir.Constant(vector.type, ir.Undefined)
    for half in (4, 2, 1):
        kind = ir.VectorType(_I32, half)
        low, high = (
            builder.shuffle_vector(vector, undefined, ir.Constant(kind, list(range(at, at + half))))
            for at in (0, half)
        )
        vector = combine(low, high)
        undefined = ir.Constant(vector.type, ir.Undefined)
    return builder.extract_element(vector, ir.Constant(_I32, 0))


def _steps(builder, n):
    """Vectors of eight that hold n elements."""
    return builder.lshr(builder.add(n, ir.Constant(_I64, 7)), ir.Constant(_I64, 3))


def _load8(builder, address, index, kind):
    at = builder.add(address, builder.shl(index, ir.Constant(_I64, 6)))
    return builder.load(_at(builder, at, kind), align=8)


@intrinsic
def survey(typingctx, values, n, low, high, absent):
    """What n >= 1 float64 are like, as the sum of

    ALL_WITHIN    low < |x| <= high for all       ANY_NEGATIVE  some sign bit is set
    ALL_ABSENT    all have the bits `absent`
    """

    def codegen(context, builder, signature, args):
        values, n, low, high, absent = args
        low, high = (_splat(builder, x, _V8F) for x in (low, high))
        absent = _splat(builder, absent, _V8I)
        inside = cgutils.alloca_once_value(builder, ir.Constant(_V8B, [1] * 8))
        missing = cgutils.alloca_once_value(builder, ir.Constant(_V8B, [1] * 8))
        signs = cgutils.alloca_once_value(builder, ir.Constant(_V8I, [0] * 8))
        with cgutils.for_range(builder, _steps(builder, n)) as loop:
            bits = _load8(builder, values, loop.index, _V8I)
            x = _fabs(builder, builder.bitcast(bits, _V8F))
            good = builder.and_(
                builder.fcmp_ordered(">", x, low), builder.fcmp_ordered("<=", x, high)
            )
            builder.store(builder.and_(builder.load(inside), good), inside)
            builder.store(builder.or_(builder.load(signs), bits), signs)
            same = builder.icmp_unsigned("==", bits, absent)
            builder.store(builder.and_(builder.load(missing), same), missing)

        def all_set(vector):
            mask = builder.bitcast(builder.load(vector), _I8)
            return builder.zext(builder.icmp_unsigned("==", mask, ir.Constant(_I8, 255)), _I64)

        sign = builder.lshr(
            _reduced(builder, builder.load(signs), builder.or_), ir.Constant(_I64, 63)
        )
        answer = builder.add(all_set(inside), builder.shl(sign, ir.Constant(_I64, 1)))
        return builder.add(answer, builder.shl(all_set(missing), ir.Constant(_I64, 2)))

    return i64(i64, i64, f64, f64, u64), codegen


@intrinsic
def batch_sums(typingctx, values, n, pivot, low, out):
    """Sums of d, d^2, d^3, d^4, d = x - pivot, and extremes of n >= 1 float64, to `out`.

    out  float64[8]: the four sums; min, max; smallest x > low (or inf), largest x < -low (or -inf)

    No compensation: n is at most BATCH, and each of the eight partial sums has an eighth of the terms.
    Higher powers of |d| < 2^-250 count as 0: they would be subnormal, which is slow and carries no digits.
    """
    infinity = float("inf")

    def codegen(context, builder, signature, args):
        values, n, pivot, low, out = args
        pivot, low = (_splat(builder, x, _V8F) for x in (pivot, low))
        minus_low = builder.fsub(_floats(-0.0), low)
        starts = [0.0] * 4 + [infinity, -infinity, infinity, -infinity]
        kept = [cgutils.alloca_once_value(builder, _floats(start)) for start in starts]
        places = ir.Constant(_V8I, list(range(8)))
        with cgutils.for_range(builder, _steps(builder, n)) as loop:
            x = _load8(builder, values, loop.index, _V8F)
            left = builder.sub(n, builder.shl(loop.index, ir.Constant(_I64, 3)))
            counts = builder.icmp_signed("<", places, _splat(builder, left, _V8I))
            d = builder.select(counts, builder.fsub(x, pivot), _floats(0.0))
            large = builder.fcmp_ordered(">=", _fabs(builder, d), _floats(2.0**-250))
            e = builder.select(large, d, _floats(0.0))
            square = builder.fmul(e, e)
            powers = (d, square, builder.fmul(square, e), builder.fmul(square, square))
            for total, power in zip(kept, powers, strict=False):
                builder.store(builder.fadd(builder.load(total), power), total)
            above = builder.select(builder.fcmp_ordered(">", x, low), x, _floats(infinity))
            below = builder.select(builder.fcmp_ordered("<", x, minus_low), x, _floats(-infinity))
            for best, value, order in zip(kept[4:], (x, x, above, below), "<><>", strict=True):
                old = builder.load(best)
                better = builder.fcmp_ordered(order, value, old)
                builder.store(builder.select(better, value, old), best)

        def smaller(a, b):
            return builder.select(builder.fcmp_ordered("<", a, b), a, b)

        def larger(a, b):
            return builder.select(builder.fcmp_ordered(">", a, b), a, b)

        combines = [builder.fadd] * 4 + [smaller, larger, smaller, larger]
        for k, (vector, combine) in enumerate(zip(kept, combines, strict=True)):
            value = _reduced(builder, builder.load(vector), combine)
            builder.store(value, _at(builder, builder.add(out, ir.Constant(_I64, 8 * k)), _F64))
        return context.get_dummy_value()

    return types.void(i64, i64, f64, f64, i64), codegen


@intrinsic
def add_compensated4(typingctx, sums, parts):
    """Add the four float64 at `parts` to those at `sums`, compensated by the four behind them (Kahan)."""

    def codegen(context, builder, signature, args):
        pointer = _at(builder, args[0], _V4F)
        rest = _at(builder, builder.add(args[0], ir.Constant(_I64, 32)), _V4F)
        old = builder.load(pointer, align=8)
        part = builder.load(_at(builder, args[1], _V4F), align=8)
        y = builder.fsub(part, builder.load(rest, align=8))
        new = builder.fadd(old, y)
        builder.store(new, pointer, align=8)
        builder.store(builder.fsub(builder.fsub(new, old), y), rest, align=8)
        return context.get_dummy_value()

    return types.void(i64, i64), codegen


@intrinsic
def fill8(typingctx, address, bits):
    """Eight copies of a 64-bit word, at any address."""

    def codegen(context, builder, signature, args):
        builder.store(_splat(builder, args[1], _V8I), _at(builder, args[0], _V8I), align=8)
        return context.get_dummy_value()

    return types.void(i64, u64), codegen


@intrinsic
def copy_words(typingctx, target, source, n):
    """Copy n 64-bit words, at any addresses; the two do not overlap."""

    def codegen(context, builder, signature, args):
        target, source, n = args

        def copy(count, shift, kind):
            """`count` elements of `kind`; moves both pointers behind them."""
            nonlocal target, source
            with cgutils.for_range(builder, count) as loop:
                at = builder.shl(loop.index, ir.Constant(_I64, shift))
                value = builder.load(_at(builder, builder.add(source, at), kind), align=1)
                builder.store(value, _at(builder, builder.add(target, at), kind), align=1)
            done = builder.shl(count, ir.Constant(_I64, shift))
            target, source = builder.add(target, done), builder.add(source, done)

        copy(builder.lshr(n, ir.Constant(_I64, 2)), 5, _V4I)
        copy(builder.and_(n, ir.Constant(_I64, 3)), 3, _I64)
        return context.get_dummy_value()

    return types.void(i64, i64, i64), codegen


@intrinsic
def copy4(typingctx, target, source):
    """Copy four 64-bit words, at any addresses."""

    def codegen(context, builder, signature, args):
        value = builder.load(_at(builder, args[1], _V4I), align=1)
        builder.store(value, _at(builder, args[0], _V4I), align=1)
        return context.get_dummy_value()

    return types.void(i64, i64), codegen


@intrinsic
def fill_words(typingctx, target, bits, n):
    """n copies of a 64-bit word, at any address."""

    def codegen(context, builder, signature, args):
        target, bits, n = args
        four = builder.shuffle_vector(
            builder.insert_element(ir.Constant(_V4I, ir.Undefined), bits, ir.Constant(_I32, 0)),
            ir.Constant(_V4I, ir.Undefined),
            ir.Constant(ir.VectorType(_I32, 4), [0] * 4),
        )
        whole = builder.lshr(n, ir.Constant(_I64, 2))
        with cgutils.for_range(builder, whole) as loop:
            at = builder.add(target, builder.shl(loop.index, ir.Constant(_I64, 5)))
            builder.store(four, _at(builder, at, _V4I), align=1)
        target = builder.add(target, builder.shl(whole, ir.Constant(_I64, 5)))
        with cgutils.for_range(builder, builder.and_(n, ir.Constant(_I64, 3))) as loop:
            at = builder.add(target, builder.shl(loop.index, ir.Constant(_I64, 3)))
            builder.store(bits, _at(builder, at, _I64), align=1)
        return context.get_dummy_value()

    return types.void(i64, u64, i64), codegen


@intrinsic
def copy_bytes(typingctx, target, source, n):
    """Copy n bytes, at any addresses; the two do not overlap."""

    def codegen(context, builder, signature, args):
        cgutils.raw_memcpy(
            builder,
            _at(builder, args[0], _I8),
            _at(builder, args[1], _I8),
            args[2],
            1,
        )
        return context.get_dummy_value()

    return types.void(i64, i64, i64), codegen


def _make_set_mask(name, element_bits):
    """An intrinsic: bit mask of the elements of a 64-byte block that are not zero, in order."""
    per_block = 512 // element_bits
    kind = ir.VectorType(ir.IntType(element_bits), per_block)

    @intrinsic
    def set_mask(typingctx, address):
        def codegen(context, builder, signature, args):
            x = builder.load(_at(builder, args[0], kind), align=1)
            found = builder.icmp_unsigned("!=", x, ir.Constant(kind, [0] * per_block))
            mask = builder.bitcast(found, ir.IntType(per_block))
            return mask if per_block == 64 else builder.zext(mask, _I64)

        return u64(i64), codegen

    set_mask.__name__ = name
    return set_mask


set_u8 = _make_set_mask("set_u8", 8)
set_u16 = _make_set_mask("set_u16", 16)
set_u32 = _make_set_mask("set_u32", 32)
set_u64 = _make_set_mask("set_u64", 64)


@intrinsic
def any_bits(typingctx, address, blocks):
    """All 64-bit words of so many 64-byte blocks, or-ed."""

    def codegen(context, builder, signature, args):
        address, blocks = args
        found = cgutils.alloca_once_value(builder, ir.Constant(_V8I, [0] * 8))
        with cgutils.for_range(builder, blocks) as loop:
            at = builder.add(address, builder.shl(loop.index, ir.Constant(_I64, 6)))
            x = builder.load(_at(builder, at, _V8I), align=1)
            builder.store(builder.or_(builder.load(found), x), found)
        return _reduced(builder, builder.load(found), builder.or_)

    return u64(i64, i64), codegen


@intrinsic
def set_bits(typingctx, x):
    """How many bits of a word are set."""
    return i64(u64), lambda context, builder, signature, args: builder.ctpop(args[0])

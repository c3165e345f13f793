"""Loads, stores and a few instructions over raw addresses, for kernels.

Why addresses (int64) and not arrays: an array handed to an inner function costs an atomic reference
count there and back, which made the histogram kernel five times slower. Addresses have no bounds:
sizes come from `layout` alone, and the Python owner checks shapes before each call.
Plain LLVM, so x86 and ARM alike. Alignment is never assumed unless the docstring says so.
"""

from __future__ import annotations

from llvmlite import ir

from agent.sketch.kernels.toolchain import cgutils, intrinsic, types

_I1, _I8, _I16, _I32, _I64, _I128 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64, 128))
_F64 = ir.DoubleType()
_V8 = ir.VectorType(_I64, 8)
u64, i64, f64 = types.uint64, types.int64, types.float64


def _at(builder, address, kind):
    return builder.inttoptr(address, kind.as_pointer())


def _make_load(name, result, kind, extend):
    @intrinsic
    def load(typingctx, address):
        def codegen(context, builder, signature, args):
            value = builder.load(_at(builder, args[0], kind), align=1)
            return getattr(builder, extend)(value, _I64) if extend else value

        return result(types.int64), codegen

    load.__name__ = name
    return load


def _make_store(argument, kind, narrow):
    @intrinsic
    def store(typingctx, address, value):
        def codegen(context, builder, signature, args):
            value = builder.trunc(args[1], kind) if narrow else args[1]
            builder.store(value, _at(builder, args[0], kind), align=1)
            return context.get_dummy_value()

        return types.void(types.int64, argument), codegen

    return store


load_u64 = _make_load("load_u64", u64, _I64, "")
load_i64 = _make_load("load_i64", i64, _I64, "")
load_f64 = _make_load("load_f64", f64, _F64, "")
load_u32 = _make_load("load_u32", i64, _I32, "zext")  # as int64
load_i32 = _make_load("load_i32", i64, _I32, "sext")  # as int64
load_u16 = _make_load("load_u16", i64, _I16, "zext")  # as int64
load_u8 = _make_load("load_u8", i64, _I8, "zext")  # as int64
store_u64 = _make_store(u64, _I64, False)
store_i64 = _make_store(i64, _I64, False)
store_f64 = _make_store(f64, _F64, False)
store_u32 = _make_store(i64, _I32, True)  # the low 32 bits
store_i32 = store_u32
store_u16 = _make_store(i64, _I16, True)  # the low 16 bits
store_u8 = _make_store(i64, _I8, True)  # the low 8 bits


@intrinsic
def multiply_fold(typingctx, a, b):
    """Exclusive or of the two halves of the 128-bit product: the mixing step of wyhash."""

    def codegen(context, builder, signature, args):
        product = builder.mul(builder.zext(args[0], _I128), builder.zext(args[1], _I128))
        high = builder.trunc(builder.lshr(product, ir.Constant(_I128, 64)), _I64)
        return builder.xor(high, builder.trunc(product, _I64))

    return u64(u64, u64), codegen


@intrinsic
def trailing_zeros(typingctx, x):
    """Number of trailing zero bits; 64 for 0."""

    def codegen(context, builder, signature, args):
        return builder.cttz(args[0], ir.Constant(_I1, 0))

    return i64(u64), codegen


@intrinsic
def leading_zeros(typingctx, x):
    """Number of leading zero bits; 64 for 0."""

    def codegen(context, builder, signature, args):
        return builder.ctlz(args[0], ir.Constant(_I1, 0))

    return i64(u64), codegen


@intrinsic
def f64_of(typingctx, bits):
    """The float64 with these bits."""
    return f64(u64), lambda context, builder, signature, args: builder.bitcast(args[0], _F64)


@intrinsic
def bits_of(typingctx, value):
    """The bits of a float64."""
    return u64(f64), lambda context, builder, signature, args: builder.bitcast(args[0], _I64)


@intrinsic
def prefetch(typingctx, address):
    """Ask for the cache line at `address`, to be written. Never faults."""

    def codegen(context, builder, signature, args):
        pointer = _at(builder, args[0], _I8)
        function = builder.module.declare_intrinsic(
            "llvm.prefetch",
            [pointer.type],
            ir.FunctionType(ir.VoidType(), [pointer.type, _I32, _I32, _I32]),
        )
        builder.call(function, [pointer] + [ir.Constant(_I32, v) for v in (1, 3, 1)])
        return context.get_dummy_value()

    return types.void(types.int64), codegen


@intrinsic
def match8(typingctx, address, value):
    """Bit mask of the eight uint64 at `address` (8-aligned) that equal `value`."""

    def codegen(context, builder, signature, args):
        x = builder.load(_at(builder, args[0], _V8), align=8)
        one = builder.insert_element(ir.Constant(_V8, ir.Undefined), args[1], ir.Constant(_I32, 0))
        zeros = ir.Constant(ir.VectorType(_I32, 8), [0] * 8)
        all_ = builder.shuffle_vector(one, ir.Constant(_V8, ir.Undefined), zeros)
        return builder.zext(builder.bitcast(builder.icmp_unsigned("==", x, all_), _I8), _I64)

    return u64(i64, u64), codegen


@intrinsic
def smallest8(typingctx, address):
    """Index of the first smallest of the eight int64 at `address` (8-aligned)."""

    def codegen(context, builder, signature, args):
        x = builder.load(_at(builder, args[0], _V8), align=8)
        reduce = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(_I64, [_V8]), "llvm.vector.reduce.smin.v8i64"
        )
        one = builder.insert_element(
            ir.Constant(_V8, ir.Undefined), builder.call(reduce, [x]), ir.Constant(_I32, 0)
        )
        zeros = ir.Constant(ir.VectorType(_I32, 8), [0] * 8)
        all_ = builder.shuffle_vector(one, ir.Constant(_V8, ir.Undefined), zeros)
        equal = builder.bitcast(builder.icmp_unsigned("==", x, all_), _I8)
        return builder.zext(builder.cttz(equal, ir.Constant(_I1, 1)), _I64)

    return i64(i64), codegen

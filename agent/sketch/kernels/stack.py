"""Scratch memory on the stack of a kernel: an array would come from numba's allocator, which files cannot have."""

from __future__ import annotations

from llvmlite import ir

from agent.sketch.kernels.toolchain import cgutils, intrinsic, types


def make_stack_words(n_words):
    """An intrinsic: address of n_words uninitialised int64, a function's own until it returns."""

    @intrinsic
    def stack_words(typingctx):
        def codegen(context, builder, signature, args):
            kind = ir.ArrayType(ir.IntType(64), n_words)
            return builder.ptrtoint(cgutils.alloca_once(builder, kind), ir.IntType(64))

        return types.int64(), codegen

    return stack_words

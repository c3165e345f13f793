"""A kernel compiled by numba -> an object file that Python can call without numba.

To numba's machine code is added one function of Python's own calling convention (METH_FASTCALL), which

    takes the integers out of its arguments, gives the GIL away if the kernel is `nogil`, calls, takes
    it back, and returns an integer or None.

numba's own entry is left out, and with it everything that needs numba at run time. What is left may
refer to the names in `ALLOWED` alone: LLVM ends the process when it cannot find one.
"""

from __future__ import annotations

from typing import Any

from llvmlite import binding, ir
from numba.core import sigutils, types
from numba.core.registry import cpu_target

from agent.compiled.load import symbol

#: Python's C interface, and the C library's. No variable but None: numba gives PyExc_TypeError and the like
#: another meaning to LLVM, for the whole process that it is imported in.
ALLOWED = frozenset(
    (
        "PyLong_AsLongLong",
        "PyLong_AsUnsignedLongLongMask",
        "PyLong_FromLongLong",
        "PyLong_FromUnsignedLongLong",
        "PyErr_Occurred",
        "PyErr_BadArgument",
        "_PyErr_BadInternalCall",
        "PyEval_SaveThread",
        "PyEval_RestoreThread",
        "_Py_NoneStruct",
        "Py_IncRef",
        "memcpy",
        "memmove",
        "memset",
        "memcmp",
        "sqrt",
    )
)
_POINTER = ir.IntType(8).as_pointer()
_I32, _I64 = ir.IntType(32), ir.IntType(64)
_VOID = ir.VoidType()


class NotPossible(Exception):
    """This kernel needs more than a file can have."""


def object_code(name: str, dispatcher: Any, signature: str, *, nogil: bool) -> bytes:
    """Compile one kernel; the content of an object file for this machine's kind of operating system.

    dispatcher  of numba, made without its cache: what comes from there has no bitcode
    signature   64-bit integers, signed or not, to one of them or void

    Raises NotPossible when it has other types, or refers to what only numba has.
    """
    normalize: Any = sigutils.normalize_signature
    arguments, _ = normalize(signature)
    dispatcher.compile(arguments)
    result = dispatcher.overloads[arguments]
    description, library = result.fndesc, result.library
    integers = (types.int64, types.uint64)
    known = all(t in integers for t in description.argtypes)
    if not known or description.restype not in (*integers, types.none):
        raise NotPossible(f"{name}: {signature} is not of 64-bit integers")
    wrapper = binding.parse_assembly(str(_for_python(symbol(name), description, nogil=nogil)))
    module = binding.parse_bitcode(library._final_module.as_bitcode())
    wrapper.triple, wrapper.data_layout = module.triple, module.data_layout
    module.link_in(wrapper)
    machine = library._codegen._tm
    _keep_only(module, symbol(name), machine)
    missing = {g.name for g in _globals(module) if g.is_declaration} - ALLOWED
    missing = {name for name in missing if not name.startswith("llvm.")}
    if missing:
        raise NotPossible(f"{name} refers to {', '.join(sorted(missing))}")
    code: bytes = machine.emit_object(module)
    return code


def _globals(module: Any) -> list[Any]:
    return [*module.functions, *module.global_variables]


def _keep_only(module: Any, entry: str, machine: Any) -> None:
    """Drop all that `entry` does not reach, in place."""
    for item in _globals(module):
        if not item.is_declaration and item.name != entry:
            item.linkage = "internal"
    builder = binding.create_pass_builder(machine, binding.create_pipeline_tuning_options())
    passes = binding.create_new_module_pass_manager()
    passes.add_global_dead_code_eliminate_pass()
    passes.run(module, builder)


def _for_python(entry: str, description: Any, *, nogil: bool) -> ir.Module:
    """PyObject *entry(PyObject *, PyObject *const *arguments, Py_ssize_t count)."""
    module = ir.Module(entry)

    def outside(name: str, result: ir.Type, *arguments: ir.Type) -> ir.Function:
        return ir.Function(module, ir.FunctionType(result, arguments), name=name)

    function = outside(entry, _POINTER, _POINTER, _POINTER.as_pointer(), _I64)
    bad_count = outside("PyErr_BadArgument", _I32)  # a TypeError
    bad_kernel = outside("_PyErr_BadInternalCall", _VOID, _POINTER, _I32)  # a SystemError
    occurred = outside("PyErr_Occurred", _POINTER)
    take = {
        types.int64: outside("PyLong_AsLongLong", _I64, _POINTER),
        types.uint64: outside("PyLong_AsUnsignedLongLongMask", _I64, _POINTER),
    }
    null = ir.Constant(_POINTER, None)
    builder = ir.IRBuilder(function.append_basic_block())

    count = len(description.argtypes)
    wrong = builder.icmp_signed("!=", function.args[2], ir.Constant(_I64, count))
    with builder.if_then(wrong, likely=False):
        builder.call(bad_count, [])
        builder.ret(null)
    values = []
    for i, kind in enumerate(description.argtypes):
        given = builder.load(builder.gep(function.args[1], [ir.Constant(_I64, i)]))
        value = builder.call(take[kind], [given])
        with builder.if_then(builder.icmp_signed("==", value, ir.Constant(_I64, -1)), likely=False):
            failed = builder.icmp_unsigned("!=", builder.call(occurred, []), null)
            with builder.if_then(failed, likely=False):
                builder.ret(null)
        values.append(value)

    convention = cpu_target.target_context.call_conv
    kernel_type = convention.get_function_type(description.restype, description.argtypes)
    kernel = ir.Function(module, kernel_type, name=description.llvm_func_name)
    state = builder.call(outside("PyEval_SaveThread", _POINTER), []) if nogil else None
    status, value = convention.call_function(
        builder, kernel, description.restype, description.argtypes, values
    )
    if state is not None:
        builder.call(outside("PyEval_RestoreThread", _VOID, _POINTER), [state])
    with builder.if_then(status.is_error, likely=False):
        text = bytearray(entry.encode() + b"\0")
        name = ir.GlobalVariable(module, ir.ArrayType(ir.IntType(8), len(text)), "entry.name")
        name.linkage, name.global_constant = "internal", True
        name.initializer = ir.Constant(name.value_type, text)
        builder.call(bad_kernel, [builder.bitcast(name, _POINTER), status.code])
        builder.ret(null)
    if description.restype == types.none:
        none = ir.GlobalVariable(module, ir.IntType(8), "_Py_NoneStruct")
        builder.call(outside("Py_IncRef", _VOID, _POINTER), [none])
        builder.ret(none)
    else:
        signed = description.restype == types.int64
        make = "PyLong_FromLongLong" if signed else "PyLong_FromUnsignedLongLong"
        builder.ret(builder.call(outside(make, _POINTER, _I64), [value]))
    return module

"""Object files -> callables, by LLVM's linker alone.

The memory of what was loaded is never given back: a callable may be held by anyone.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from llvmlite import binding

_METH_FASTCALL = 0x80
_LINKER = "llvmlite"  # in the name of the one file that LLVM and its binding are in


class _MethodDef(ctypes.Structure):
    """Python's PyMethodDef."""

    _fields_ = (
        ("ml_name", ctypes.c_char_p),
        ("ml_meth", ctypes.c_void_p),
        ("ml_flags", ctypes.c_int),
        ("ml_doc", ctypes.c_char_p),
    )


_new_function = ctypes.pythonapi.PyCFunction_NewEx
_new_function.restype = ctypes.py_object
_new_function.argtypes = (ctypes.POINTER(_MethodDef), ctypes.c_void_p, ctypes.c_void_p)

#: Everything that must outlive the callables.
_kept: list[Any] = []


def symbol(name: str) -> str:
    """Of the function for Python in the object file of a kernel."""
    return f"inferometer.{name}"


def load(files: Mapping[str, bytes]) -> dict[str, Callable[..., Any]]:
    """The function of each kernel, by its name, from the kernels' object files.

    Raises RuntimeError when a file has no such function. Files must be what `object_code` made here:
    LLVM ends the process over anything that it cannot read.
    """
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    machine = binding.Target.from_default_triple().create_target_machine()
    engine = binding.create_mcjit_compiler(binding.parse_assembly(""), machine)
    for code in files.values():
        engine.add_object_file(binding.ObjectFileRef.from_data(code))
    engine.finalize_object()
    found = {}
    for name in files:
        address = engine.get_function_address(symbol(name))
        if not address:
            raise RuntimeError(f"the object file of kernel {name} has no function {symbol(name)}")
        method = _MethodDef(name.encode(), address, _METH_FASTCALL, None)
        _kept.append(method)
        found[name] = _new_function(ctypes.byref(method), None, None)
    _kept.append(engine)
    _give_back_linker()
    return found


def _give_back_linker() -> None:
    """Let go of LLVM's own code and constants, 45 MiB that were read to link a few hundred kB.

    Only pages of its file that were never changed: whoever needs one again finds it in the file.
    """
    with contextlib.suppress(OSError, AttributeError, ValueError):
        advise = ctypes.CDLL(None).madvise
        advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        for low, high in _unchanged(Path("/proc/self/smaps").read_text()):
            advise(low, high - low, mmap.MADV_DONTNEED)


#: What a mapping has when a page of it was changed: by this process, by one that it was forked from, or either
#: before the page went to swap. Each of them is there and 0, or the mapping is left alone.
_CHANGED = ("Private_Dirty:", "Shared_Dirty:", "Anonymous:", "Swap:")


def _unchanged(smaps: str) -> list[tuple[int, int]]:
    """Addresses of the linker's file that cannot be written, and of which nothing ever was."""
    found: dict[tuple[int, int], set[str]] = {}
    here: tuple[int, int] | None = None
    for line in smaps.splitlines():
        first, *rest = line.split()
        if not first.endswith(":"):
            low, high = (int(part, 16) for part in first.split("-"))
            is_linker = _LINKER in rest[-1].rpartition("/")[2]
            here = (low, high) if is_linker and "w" not in rest[0] else None
        elif here is not None and first in _CHANGED and rest[0] == "0":
            found.setdefault(here, set()).add(first)
    return [addresses for addresses, zeros in found.items() if len(zeros) == len(_CHANGED)]

"""Kernels as files: compiled once by numba, loaded from then on by LLVM's linker alone.

numba and what it needs to load its own cache take some 90 MiB and half a second. All kernels take and give
64-bit integers only, so their machine code needs nothing of it. See docs/decisions/0007.

    mode          whether this process loads files or compiles with numba; numba's names for both
    object_code   a kernel compiled by numba -> an object file with one function that Python can call
    build         the child processes that compile: the only ones that import numba
    target        the CPU that code is made for, and whether this one can run it
    key           what the files depend on
    store         the folder of files: written at once or not, verified before use
    load          object files -> callables
"""

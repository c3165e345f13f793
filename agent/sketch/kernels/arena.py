"""Memory that kernels hand out: a pointer that moves through a piece given by the owner, and lists of blocks given back.

A kernel that finds no room notes how much it wants and comes back; the owner gives another piece and
calls it again. All of it is taken back at once when the owner starts anew.
"""

from __future__ import annotations

from agent.sketch.kernels.compile import inlined
from agent.sketch.kernels.memory import load_i64, store_i64

#: int64 fields of an arena: what is left, what is wanted, values of the fullest cell; then the heads of its
#: lists of free blocks, one for each size class.
NEXT, END, WANTED, PEAK = range(4)
FREE = 4


@inlined
def has_room(arena, size_bytes):
    """Whether so many bytes can be taken; notes what is wanted if not."""
    if load_i64(arena + 8 * END) - load_i64(arena + 8 * NEXT) >= size_bytes:
        return True
    store_i64(arena + 8 * WANTED, size_bytes)
    return False


@inlined
def take(arena, size_bytes):
    """Address of `size_bytes` bytes (a multiple of 64) of any content; `has_room` has been asked."""
    address = load_i64(arena + 8 * NEXT)
    store_i64(arena + 8 * NEXT, address + size_bytes)
    return address


@inlined
def take_block(arena, size_class, size_bytes):
    """The same for a block of a size class: one that was given back, or a new one."""
    head = arena + 8 * (FREE + size_class)
    address = load_i64(head)
    if address == 0:
        return take(arena, size_bytes)
    store_i64(head, load_i64(address))
    return address


@inlined
def take_sized(arena, size_class, size_bytes):
    """The same where blocks of a class differ in size: the last one given back if it has this size, or a new one."""
    head = arena + 8 * (FREE + size_class)
    address = load_i64(head)
    if address == 0 or load_i64(address + 8) != size_bytes:
        return take(arena, size_bytes)
    store_i64(head, load_i64(address))
    return address


@inlined
def give_back_sized(arena, size_class, address, size_bytes):
    """Put a block of this size, 64 bytes or more, on the list of its class."""
    give_back(arena, size_class, address)
    store_i64(address + 8, size_bytes)


@inlined
def give_back(arena, size_class, address):
    """Put a block on the list of its size class; its first word links to the one before."""
    head = arena + 8 * (FREE + size_class)
    store_i64(address, load_i64(head))
    store_i64(head, address)

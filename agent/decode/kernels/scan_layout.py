"""What the scan tier reads: tables of int64 that `agent.decode.paths` owns, and its scratch.

TABLES   where the tables lie, and limits. Byte offsets below; all but STAMP are only read
    SLOTS, SLOT_MASK    open addressing: int64[mask + 1][16], by keyed hash of the key and parent path
        hash of the key | parent path (0: top) | path, 0 for an empty slot | what leads to the stream,
        four bits for each kind: 1 model, 2 version, 3 segment | salt of the segment's name | STAMP of
        the record that had it last | 1: nothing below is read | address of the slot of the key that
        came behind it last, 0 unknown: producers keep their order, so mostly no hash is needed |
        32 bytes: the key as written, its closing quote and a colon | mask of these bytes | their
        number, 0 when they are too many or could be written otherwise only | unused
    LEAVES, LEAF_MASK   open addressing: int64[mask + 1][4]
        (shape + 1) << 32 | path << 3 | kind, 0 for an empty slot | action | flags << 8 | lane << 32 |
        divisor (float64 bits) | unused
    MODELS, MODEL_MASK  open addressing: int64[mask + 1][2]
        keyed hash of the model's name, 0 for events without | shape + 1, 0 for an empty slot
    WIDTHS              int64[shapes][2], lanes of a row: numbers, strings
    STAMP               counts records, so that a key seen twice is known without clearing anything
    MAX_DEPTH           levels of brackets
    FRAME               frame of the row (`kernels.values`), with limits and the key of the process
    SCRATCH             int64[SCRATCH_WORDS], of this thread
    IS_OPEN             1: keys at the top of an event that are not in SLOTS lead to nothing that is read

Text with escapes is unescaped into a zone of the same buffer behind the records, ZONE int64[2] = next
free address and end, so that all positions count from one address. 64 readable bytes must lie around
every record and behind the zone.
"""

from __future__ import annotations

import numpy as np

from agent.decode.leaves import WireKind

U = np.uint64

# Byte offsets in TABLES.
(
    SLOTS,
    SLOT_MASK,
    LEAVES,
    LEAF_MASK,
    MODELS,
    MODEL_MASK,
    WIDTHS,
    STAMP,
    MAX_DEPTH,
    FRAME,
    SCRATCH,
    IS_OPEN,
) = range(0, 8 * 12, 8)
N_TABLE_FIELDS = 12

# Byte offsets in a slot of SLOTS and of LEAVES.
(
    SLOT_HASH,
    SLOT_PARENT,
    SLOT_PATH,
    SLOT_STREAM,
    SLOT_SALT,
    SLOT_STAMP,
    SLOT_IS_SKIPPED,
    SLOT_NEXT,
) = range(0, 64, 8)
SLOT_KEY, SLOT_KEY_MASK, SLOT_KEY_BYTES = 64, 96, 104
SLOT_BYTES = 128
LEAF_KEY, LEAF_ACTION, LEAF_OPERAND = 0, 8, 16
LEAF_BYTES = 32

# What leads to the stream.
IS_MODEL, IS_VERSION, IS_SEGMENT = 1, 2, 3

# Actions: an Op together with the kind of its value (`agent.decode.paths` gives them).
(
    KEEP_NOTHING,
    PUT_NUMBER,
    PUT_SCALED,
    PUT_STRING,
    PUT_FIELD,
    PUT_TIME_NUMBER,
    PUT_TIME_TEXT,
    PUT_INTEGER_TEXT,  # a canonical integer into a string lane
    PUT_INTEGER_FIELD,
    PUT_NULL_NUMBER,
    PUT_NULL_STRING,
) = range(11)

# Kinds (`WireKind`) as plain numbers.
NULL, BOOL, NUMBER, STRING, VECTOR, EMPTY, ARRAY = map(int, WireKind)

# SCRATCH, in bytes: open objects; hashes of the keys of objects that are skipped; where each of those
# begins; a word; a text; the stream's hashes; hashes of the keys at the top that are not in SLOTS; a slot
# before the first key; the slot that those keys share; leaves.
MAX_LEVELS = 64
MAX_SKIPPED_KEYS = 256
MAX_LEAVES = 4096
STACK = 0
SKIPPED_KEYS = STACK + 8 * MAX_LEVELS
SKIPPED_FIRST = SKIPPED_KEYS + 8 * MAX_SKIPPED_KEYS
WORD = SKIPPED_FIRST + 8 * MAX_LEVELS
FOUND_TEXT = WORD + 8  # start and length of a text that was unescaped
STREAM = FOUND_TEXT + 16  # model, version, segments
MAX_OTHER_KEYS = 32
OTHER_KEYS = STREAM + 24
TOP_SLOT = OTHER_KEYS + 8 * MAX_OTHER_KEYS
OTHER_SLOT = TOP_SLOT + SLOT_BYTES
FIRST_LEAF = OTHER_SLOT + SLOT_BYTES
SCRATCH_WORDS = (FIRST_LEAF + 32 * MAX_LEAVES) // 8
# A leaf in SCRATCH: path << 3 | kind, value (float64 bits), address of its text, length of its text.

MIX = U(0x9E3779B97F4A7C15)
S32 = U(32)

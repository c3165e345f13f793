"""Decimal digits to float64, correctly rounded (to nearest, ties to even), as bits.

Below five decimals, digits of at most 2^53 are divided by an exact power of ten: one rounding. All
others go through the 128-bit product of Eisel and Lemire. The choice is by the number of decimals,
a property of the field, and not by the size of the digits, which would be a coin toss for every value.

Why no fall-back is needed: the digits are exact (at most 19, so below 2^64), and then the truncated
128-bit product always decides (Mushtak, Lemire. Fast number parsing without fallback. Software:
Practice and Experience 53(7), 2023). With five decimals or more there are no ties: 5^5 cannot divide
the denominator away, so half-way cases exist only for exponents -4 to 23 (Lemire. Number parsing at a
gigabyte per second. Software: Practice and Experience 51(8), 2021).
"""

from __future__ import annotations

import numpy as np

from agent.decode.kernels.simd import bits_of, multiply_high
from agent.sketch.kernels.compile import inlined, outlined
from agent.sketch.kernels.memory import leading_zeros

U = np.uint64
#: Not a float64 that `decimal_bits` can give: "out of range here", i.e. subnormal or overflow.
OUT_OF_RANGE = U(0xFFF0000000000000)
_MIN_POWER, _MAX_POWER = -342, 308
_TENS = np.array([10.0**power for power in range(23)])


def _powers_of_five():
    """The first 128 bits of 5^q for q = -342..308, rounded up below 0: (high, low) uint64[651] each."""
    high, low = np.zeros(651, np.uint64), np.zeros(651, np.uint64)
    for q in range(_MIN_POWER, _MAX_POWER + 1):
        if q < 0:
            power = 5**-q
            shift = (power - 1).bit_length()
            bits = (1 << (shift + 127 if q >= -27 else 2 * shift + 128)) // power + 1
        else:
            bits = 5**q << 300
        bits >>= max(bits.bit_length() - 128, 0)
        high[q - _MIN_POWER], low[q - _MIN_POWER] = bits >> 64, bits & ((1 << 64) - 1)
    return high, low


_FIVES_HIGH, _FIVES_LOW = _powers_of_five()


@outlined
def decimal_bits(digits, power):
    """Bits of the positive float64 next to digits * 10^power; OUT_OF_RANGE when it is not normal.

    digits  uint64, exact       power  int64, any
    """
    if digits == U(0):
        return U(0)
    if power < _MIN_POWER or power > _MAX_POWER:
        return OUT_OF_RANGE
    shift = leading_zeros(digits)
    w = digits << U(shift)
    at = U(power - _MIN_POWER)
    high = multiply_high(w, _FIVES_HIGH[at])
    low = w * _FIVES_HIGH[at]
    if (high & U(0x1FF)) == U(0x1FF):
        second = multiply_high(w, _FIVES_LOW[at])
        low = low + second
        if low < second:
            high = high + U(1)
    top = high >> U(63)
    drop = top + U(9)
    significand = high >> drop
    is_tie = low <= U(1) and -4 <= power <= 23 and (significand << drop) == high
    if is_tie and (significand & U(3)) == U(1):  # to even: down
        significand = significand & ~U(1)
    significand = (significand + (significand & U(1))) >> U(1)
    # floor(power * log2(10)) by a product: exact in this range. 63 for the shift, 1023 for the bias.
    exponent = ((217706 * power) >> 16) + 1086 - shift + np.int64(top)
    # Added, not or-ed: a significand that was rounded up to 2^53 raises the exponent by itself.
    # The exponent comes as an int64, so that one below 1 is seen before it wraps around.
    if exponent < 1 or exponent > 2046:
        return OUT_OF_RANGE
    bits = (U(exponent) << U(52)) + (significand - U(1 << 52))
    if bits >> U(52) > U(2046):
        return OUT_OF_RANGE
    return bits


@inlined
def fraction_bits(digits, n_decimals):
    """Bits of digits / 10^n_decimals, for n_decimals 5 to 300 and digits above 0: no ties, always normal."""
    shift = leading_zeros(digits)
    w = digits << U(shift)
    at = U(-_MIN_POWER - n_decimals)
    high = multiply_high(w, _FIVES_HIGH[at])
    if (high & U(0x1FF)) == U(0x1FF):
        low = w * _FIVES_HIGH[at]
        second = multiply_high(w, _FIVES_LOW[at])
        if low + second < second:
            high = high + U(1)
    top = high >> U(63)
    significand = high >> (top + U(9))
    significand = (significand + (significand & U(1))) >> U(1)
    # One less than above: the significand brings its hidden bit along, which adds one.
    exponent = ((-217706 * n_decimals) >> 16) + 1085 - shift + np.int64(top)
    return (U(exponent) << U(52)) + significand


@inlined
def float_bits(digits, n_decimals):
    """Bits of the positive float64 next to digits / 10^n_decimals, n_decimals 1 to 24."""
    if n_decimals >= 5:
        return fraction_bits(digits, n_decimals) if digits != U(0) else U(0)
    if digits <= U(1 << 53):
        return bits_of(np.float64(np.int64(digits)) / _TENS[U(n_decimals)])
    return decimal_bits(digits, -n_decimals)

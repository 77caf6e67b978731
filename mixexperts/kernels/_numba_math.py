"""Elementary functions for compiled loops: exponential, logarithm, log-factorial.

The wheels of llvmlite carry no vector library: a call of libm in a loop keeps LLVM from
vectorising it. These are polynomials with shifts of the exponent's bits, good to 1 or 2 units
in the last place, that the compiler turns into vector instructions.
"""

from __future__ import annotations

import math

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

# Reassociation lets sums vectorise. Infinities and NaN keep their meaning: no ninf, no nnan.
FAST = {"contract", "reassoc", "arcp", "nsz"}
# The reductions of the argument need their order of operations.
EXACT = {"contract", "nsz"}

_LOG2E = 1.4426950408889634
_LN2_HIGH = 6.93147180369123816490e-01
_LN2_LOW = 1.90821492927058770002e-10
_LN2 = math.log(2.0)
_MANTISSA = 0x000FFFFFFFFFFFFF
# Bits of sqrt(1/2), from which the exponent is counted so that the reduced argument of the
# logarithm lies in [sqrt(1/2), sqrt(2)).
_ROOT_HALF = 0x3FE6A09E667F3BCD
_HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)
_SMALL_FACTORIALS = np.array([math.lgamma(i + 1.0) for i in range(256)])


@intrinsic
def _bits_as_double(typing_context, bits):
    """Reinterpret an int64 as a float64."""

    def codegen(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.DoubleType())

    return types.float64(types.int64), codegen


@intrinsic
def _double_as_bits(typing_context, value):
    """Reinterpret a float64 as an int64."""

    def codegen(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.IntType(64))

    return types.int64(types.float64), codegen


@njit(inline="always")
def exp(x):
    """exp(x) for x <= 709: Cody-Waite reduction, Taylor polynomial of degree 13; 0 below -708."""
    clipped = max(x, -708.0)
    k = np.rint(clipped * _LOG2E)
    r = (clipped - k * _LN2_HIGH) - k * _LN2_LOW
    p = 1.0 / 6227020800.0
    p = p * r + 1.0 / 479001600.0
    p = p * r + 1.0 / 39916800.0
    p = p * r + 1.0 / 3628800.0
    p = p * r + 1.0 / 362880.0
    p = p * r + 1.0 / 40320.0
    p = p * r + 1.0 / 5040.0
    p = p * r + 1.0 / 720.0
    p = p * r + 1.0 / 120.0
    p = p * r + 1.0 / 24.0
    p = p * r + 1.0 / 6.0
    p = p * r + 0.5
    p = p * r + 1.0
    p = p * r + 1.0
    value = p * _bits_as_double((np.int64(k) + 1023) << 52)
    rest = 0.0 if x < -708.0 else x  # NaN stays NaN
    return value if x >= -708.0 else rest


@njit(inline="always")
def _two_atanh(s):
    """log((1 + s) / (1 - s)) for |s| <= 0.172."""
    t = s * s
    p = 2.0 / 21.0
    p = p * t + 2.0 / 19.0
    p = p * t + 2.0 / 17.0
    p = p * t + 2.0 / 15.0
    p = p * t + 2.0 / 13.0
    p = p * t + 2.0 / 11.0
    p = p * t + 2.0 / 9.0
    p = p * t + 2.0 / 7.0
    p = p * t + 2.0 / 5.0
    p = p * t + 2.0 / 3.0
    return 2.0 * s + (s * t) * p


@njit(inline="always")
def log(x):
    """log(x) for x >= 1e-300 and for 0, where it is -inf; NaN stays NaN."""
    bits = _double_as_bits(x)
    exponent = (bits - _ROOT_HALF) >> 52
    f = _bits_as_double(bits - (exponent << 52))
    k = np.float64(exponent)
    value = k * _LN2_HIGH + (_two_atanh((f - 1.0) / (f + 1.0)) + k * _LN2_LOW)
    # one select, no branch, so that loops vectorise
    return value if x > 0.0 else x - np.inf


@njit(inline="always")
def log1p_unit(e):
    """log(1 + e) for 0 <= e <= 1."""
    small = e < 0.4142
    s = e / (2.0 + e) if small else (e - 1.0) / (e + 3.0)
    return _two_atanh(s) if small else _two_atanh(s) + _LN2


@njit(inline="always")
def log_factorial(y):
    """log(y!) for an integer y >= 0: a table, and Stirling's series from 256 on."""
    if y < 256.0:
        return _SMALL_FACTORIALS[int(y)]
    inverse = 1.0 / y
    series = inverse * (1.0 / 12.0 - inverse * inverse * (1.0 / 360.0))
    return (y + 0.5) * math.log(y) - y + _HALF_LOG_TWO_PI + series


@njit(fastmath=EXACT, error_model="numpy")
def exp_rows(x, m):
    """Replace the first m entries of x (all <= 709) by their exponentials."""
    for i in range(m):
        x[i] = exp(x[i])


@njit(fastmath=EXACT, error_model="numpy")
def log_rows(x, m):
    """Replace the first m entries of x by their logarithms."""
    for i in range(m):
        x[i] = log(x[i])


@njit(fastmath=EXACT, error_model="numpy")
def log1p_rows(x, m):
    """Replace the first m entries e of x, in [0, 1], by log(1 + e)."""
    for i in range(m):
        x[i] = log1p_unit(x[i])


@njit
def log_factorial_rows(x, m):
    """Replace the first m entries of x, integers >= 0, by the logarithms of their factorials."""
    for i in range(m):
        x[i] = log_factorial(x[i])

"""Compiled special functions of whole arrays."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from numba import njit

from mixexperts.kernels._numba_math import EXACT, exp, log

_HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)
_ROOT_HALF = math.sqrt(0.5)
_INVERSE_ROOT_TWO_PI = 1.0 / math.sqrt(2.0 * math.pi)


@njit(cache=True, nogil=True, fastmath=EXACT, error_model="numpy")
def gamma_rows(x, log_gamma, psi, psi1):
    """Log gamma, digamma and trigamma of x > 0: see :func:`~mixexperts.kernels.special`."""
    for i in range(len(x)):
        value = x[i]
        large = value >= 1e4
        product, first, second = (1.0 if large else value), 1.0, 0.0
        for j in range(1, 10):
            factor = (1.0 if large else value) + j
            second = second * factor + 2.0 * first
            first = first * factor + product
            product = product * factor
        shifted = value if large else value + 10.0
        inverse = 1.0 / shifted
        square = inverse * inverse
        a = -3617.0 / 510.0
        sum_log, sum_psi, sum_psi1 = a / 240.0, a / 16.0, a
        sum_log = sum_log * square + 7.0 / 6.0 / 182.0
        sum_psi = sum_psi * square + 7.0 / 6.0 / 14.0
        sum_psi1 = sum_psi1 * square + 7.0 / 6.0
        sum_log = sum_log * square - 691.0 / 2730.0 / 132.0
        sum_psi = sum_psi * square - 691.0 / 2730.0 / 12.0
        sum_psi1 = sum_psi1 * square - 691.0 / 2730.0
        sum_log = sum_log * square + 5.0 / 66.0 / 90.0
        sum_psi = sum_psi * square + 5.0 / 66.0 / 10.0
        sum_psi1 = sum_psi1 * square + 5.0 / 66.0
        sum_log = sum_log * square - 1.0 / 30.0 / 56.0
        sum_psi = sum_psi * square - 1.0 / 30.0 / 8.0
        sum_psi1 = sum_psi1 * square - 1.0 / 30.0
        sum_log = sum_log * square + 1.0 / 42.0 / 30.0
        sum_psi = sum_psi * square + 1.0 / 42.0 / 6.0
        sum_psi1 = sum_psi1 * square + 1.0 / 42.0
        sum_log = sum_log * square - 1.0 / 30.0 / 12.0
        sum_psi = sum_psi * square - 1.0 / 30.0 / 4.0
        sum_psi1 = sum_psi1 * square - 1.0 / 30.0
        sum_log = sum_log * square + 1.0 / 6.0 / 2.0
        sum_psi = sum_psi * square + 1.0 / 6.0 / 2.0
        sum_psi1 = sum_psi1 * square + 1.0 / 6.0
        log_shifted = log(shifted)
        ratio = first / product
        rest = ratio * ratio - second / product
        log_product = log(product)
        log_gamma[i] = (
            (shifted - 0.5) * log_shifted - shifted + _HALF_LOG_TWO_PI + sum_log * inverse
        ) - (0.0 if large else log_product)
        psi[i] = log_shifted - 0.5 * inverse - sum_psi * square - (0.0 if large else ratio)
        psi1[i] = inverse + 0.5 * square + sum_psi1 * square * inverse + (0.0 if large else rest)


_PANELS, _DEGREE = 64, 8


@functools.cache
def _scaled_erfc() -> Any:
    """Coefficients (panels, degree + 1) of ``erfcx(x) / t`` in ``t = 4 / (4 + x)``."""
    from scipy.special import erfcx

    from mixexperts.kernels.numba_student import polynomial_nodes

    nodes, matrix = polynomial_nodes(_DEGREE)
    t = (np.arange(_PANELS)[:, None] + 0.5 * (nodes + 1.0)) / _PANELS
    return np.ascontiguousarray((erfcx(4.0 / t - 4.0) / t) @ matrix.T)


@njit(cache=True, nogil=True, fastmath=EXACT, error_model="numpy")
def _normal_rows(table, x, log_cdf, ratio):
    last = _PANELS - 1
    for i in range(len(x)):
        size = abs(x[i])
        t = 4.0 / (4.0 + size * _ROOT_HALF)
        place = t * (last + 1)
        panel = min(int(place), last)
        v = 2.0 * (place - panel) - 1.0
        scaled = table[panel, _DEGREE]
        for j in range(_DEGREE):
            scaled = scaled * v + table[panel, _DEGREE - 1 - j]
        scaled *= t
        # without branches, so that the compiler takes several numbers at a time
        half = 0.5 * size * size
        right = x[i] > 0.0
        bell = exp(-half)
        inside = 1.0 - 0.5 * bell * scaled
        log_cdf[i] = log(inside if right else 0.5 * scaled) - (0.0 if right else half)
        ratio[i] = (
            2.0
            * _INVERSE_ROOT_TWO_PI
            * (0.5 * bell if right else 1.0)
            / (inside if right else scaled)
        )


def normal_rows() -> Any:
    """Log of the normal distribution function and density over it: see ``kernels.special``."""
    return functools.partial(_normal_rows, _scaled_erfc())

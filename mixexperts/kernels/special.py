"""Special functions of whole arrays that scipy lacks or takes long for."""

from __future__ import annotations

import math

import numpy as np

from mixexperts._batch import Array

_HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)
# Arguments are shifted by so many units before the asymptotic series, whose first term left out is
# then below 2e-17 of the value.
_SHIFT = 10
_LARGE = 1e4
# Fewer numbers are not worth the import of numba; both ways agree to some units in the last place.
_COMPILED_FROM = 4096
_BERNOULLI = (1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6, -3617 / 510)


def gamma_functions(x: Array) -> tuple[Array, Array, Array]:
    """Log gamma, digamma and trigamma of x > 0, from one shift and three series.

    Parameters
    ----------
    x : ndarray
        Numbers > 0.

    Returns
    -------
    log_gamma, psi, psi1 : ndarray
        With relative errors of some 1e-15 (of log gamma and digamma, absolute near their zeros).

    References
    ----------
    Abramowitz, M. and Stegun, I. A. (1964). Handbook of Mathematical Functions, 6.1.41, 6.3.18,
    6.4.11. National Bureau of Standards.
    """
    x = np.asarray(x, dtype=np.float64)
    if x.size >= _COMPILED_FROM:
        from mixexperts.kernels.numba_special import gamma_rows

        flat = np.ascontiguousarray(x).ravel()
        out = np.empty((3, flat.size))
        gamma_rows(flat, out[0], out[1], out[2])
        return out[0].reshape(x.shape), out[1].reshape(x.shape), out[2].reshape(x.shape)
    shifted = np.where(x < _LARGE, x + _SHIFT, x)
    # The product x (x + 1) ... (x + 9) and its first two logarithmic derivatives.
    small = np.minimum(x, _LARGE)
    product, first, second = small, np.ones_like(small), np.zeros_like(small)
    for i in range(1, _SHIFT):
        factor = small + i
        second = second * factor + 2.0 * first
        first = first * factor + product
        product = product * factor
    inverse = 1.0 / shifted
    square = inverse * inverse
    sum_log = sum_psi = sum_psi1 = np.zeros_like(x)
    for j in range(len(_BERNOULLI), 0, -1):
        b = _BERNOULLI[j - 1]
        sum_log = sum_log * square + b / (2 * j * (2 * j - 1))
        sum_psi = sum_psi * square + b / (2 * j)
        sum_psi1 = sum_psi1 * square + b
    log_shifted = np.log(shifted)
    log_gamma = (shifted - 0.5) * log_shifted - shifted + _HALF_LOG_TWO_PI + sum_log * inverse
    psi = log_shifted - 0.5 * inverse - sum_psi * square
    psi1 = inverse + 0.5 * square + sum_psi1 * square * inverse
    ratio = np.where(x < _LARGE, first / product, 0.0)
    log_product = np.where(x < _LARGE, np.log(product), 0.0)
    rest = np.where(x < _LARGE, ratio * ratio - second / product, 0.0)
    return log_gamma - log_product, psi - ratio, psi1 + rest

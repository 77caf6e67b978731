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


def normal_tail(x: Array) -> tuple[Array, Array]:
    """Log of the standard normal distribution function, and density over it.

    Parameters
    ----------
    x : ndarray

    Returns
    -------
    log_cdf, ratio : ndarray
        ``log Phi(x)`` and ``phi(x) / Phi(x)``, the inverse of Mills' ratio at -x; relative errors
        of some 1e-15, of ``log Phi`` far to the right absolute.
    """
    x = np.asarray(x, dtype=np.float64)
    if x.size >= _COMPILED_FROM:
        from mixexperts.kernels.numba_special import normal_rows

        flat = np.ascontiguousarray(x).ravel()
        out = np.empty((2, flat.size))
        normal_rows()(flat, out[0], out[1])
        return out[0].reshape(x.shape), out[1].reshape(x.shape)
    from scipy.special import erfcx, log_ndtr

    with np.errstate(over="ignore", under="ignore"):
        left = math.sqrt(2.0 / math.pi) / erfcx(-np.minimum(x, 0.0) / math.sqrt(2.0))
        log_cdf = log_ndtr(x)
        right = np.exp(-0.5 * x * x - _HALF_LOG_TWO_PI - log_cdf)
    return log_cdf, np.where(x <= 0.0, left, right)


# ln Gamma(x + 1/2) - ln Gamma(x) = log(x) / 2 + sum of c_j x^-(2 j - 1).
_HALF_STEP = (-1 / 8, 1 / 192, -1 / 640, 17 / 14336, -31 / 18432, 691 / 180224)
_SERIES_FROM = 50.0


def half_step(df: Array) -> tuple[Array, Array, Array]:
    """``ln Gamma((df + 1) / 2) - ln Gamma(df / 2)`` and its first two derivatives in df.

    Above 100 by its own series, since the difference of two log gammas loses digits.
    """
    x = 0.5 * np.asarray(df, dtype=np.float64)
    low = np.minimum(x, _SERIES_FROM)
    upper, lower = gamma_functions(low + 0.5), gamma_functions(low)
    direct = [0.5**i * (u - v) for i, (u, v) in enumerate(zip(upper, lower, strict=True))]
    high = np.maximum(x, _SERIES_FROM)
    series = [0.5 * np.log(high), 0.5 / high, -0.5 / high**2]
    for j, c in enumerate(_HALF_STEP):
        power = 2 * j + 1
        series[0] = series[0] + c * high**-power
        series[1] = series[1] - c * power * high ** -(power + 1)
        series[2] = series[2] + c * power * (power + 1) * high ** -(power + 2)
    value, first, second = (
        np.where(x < _SERIES_FROM, d, 0.5**i * s)
        for i, (d, s) in enumerate(zip(direct, series, strict=True))
    )
    return value, first, second

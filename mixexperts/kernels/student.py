"""The distribution function of Student's t and its derivatives, far into the tail."""

from __future__ import annotations

import math

import numpy as np

from mixexperts._batch import Array
from mixexperts.kernels.special import half_step

_HALF_LOG_PI = 0.5 * math.log(math.pi)
# Fewer numbers are not worth the import of numba and a table.
_COMPILED_FROM = 64
_MOST_TERMS = 4000


def series(a: Array, x: Array) -> tuple[Array, Array, Array]:
    """``S = 2F1(2 a, 1; a + 1; x)`` for 0 <= x <= 1/2, and derivatives of log S in a.

    All terms are positive. With n = 2 a the incomplete beta function of t is
    ``I_x(a, a) = (x (1 - x))^a S / (a B(a, a))``.

    Returns
    -------
    S, first, second : ndarray
        The series, and the first and second derivative of its logarithm in a at fixed x.
    """
    a, x = np.broadcast_arrays(np.asarray(a, float), np.asarray(x, float))
    term, slope, bend = np.ones(x.shape), np.zeros(x.shape), np.zeros(x.shape)
    total, first, second = np.ones(x.shape), np.zeros(x.shape), np.zeros(x.shape)
    for k in range(_MOST_TERMS):
        up, down = 2.0 * a + k, a + 1.0 + k
        term = term * (x * up / down)
        slope = slope + 2.0 / up - 1.0 / down
        bend = bend - 4.0 / up**2 + 1.0 / down**2
        total = total + term
        first = first + term * slope
        second = second + term * (slope * slope + bend)
        if not (term * (1.0 + slope * slope) > 1e-17 * total).any():
            break
    first = first / total
    return total, first, second / total - first * first


def student_tail(df: Array, r: Array) -> tuple[Array, Array, Array, Array]:
    r"""Log distribution function of t at ``w = r sqrt(df)``, and its derivatives.

    Parameters
    ----------
    df : ndarray
        Degrees of freedom, from 1 to some thousands: one for each row of r, (K, 1), for each
        column, (K,), or a number.
    r : ndarray of shape (K, n) or (n, K)

    Returns
    -------
    log_cdf, in_r, in_df, in_df2 : ndarray
        ``P = log T_df(r sqrt(df))``; its derivative in r; its first and second derivative in df
        at fixed r. Errors are some 1e-14, relative or absolute, whichever is larger.

    Notes
    -----
    For r <= 0 the hypergeometric series of the incomplete beta function has positive terms, and
    so have its derivatives nothing to cancel; for r > 0 by symmetry. Many values of r with a few
    df go by a table of the series, piecewise polynomials, made for each df.

    References
    ----------
    Abramowitz, M. and Stegun, I. A. (1964). Handbook of Mathematical Functions, 26.5.23, 26.7.1.
    National Bureau of Standards.
    """
    df, r = np.asarray(df, dtype=np.float64), np.asarray(r, dtype=np.float64)
    if r.ndim == 2 and r.size >= _COMPILED_FROM:
        if df.size == 1 or df.shape == (r.shape[0], 1):
            return _compiled(np.broadcast_to(df.reshape(-1), (r.shape[0],)), r)
        if df.shape in ((r.shape[1],), (1, r.shape[1])):
            found = _compiled(df.reshape(-1), r.T)
            return found[0].T, found[1].T, found[2].T, found[3].T
    value, first, second = half_step(df)
    square = 1.0 + r * r
    root = np.sqrt(square)
    total, by_a, by_a2 = series(0.5 * df, 0.5 / (root * (root + np.abs(r))))
    log_square = np.log(square)
    log_cdf = np.log(total) - 0.5 * df * log_square - np.log(df) - _HALF_LOG_PI + value
    in_r = df / (root * total)
    in_df = 0.5 * (by_a - log_square) - 1.0 / df + first
    in_df2 = 0.25 * by_a2 + 1.0 / df**2 + second
    # odds of the left tail against what is right of it
    left = np.exp(log_cdf)
    odds = left / (1.0 - left)
    right = r > 0.0
    return (
        np.where(right, np.log1p(-left), log_cdf),
        np.where(right, in_r * odds, in_r),
        np.where(right, -in_df * odds, in_df),
        np.where(right, -odds * (in_df2 + in_df * in_df * (1.0 + odds)), in_df2),
    )


def _compiled(df: Array, r: Array) -> tuple[Array, Array, Array, Array]:
    from mixexperts.kernels.numba_student import tail_rows

    value, first, second = half_step(df)
    constants = np.stack([
        df, value - np.log(df) - _HALF_LOG_PI, first - 1.0 / df, second + 1.0 / df**2
    ])  # fmt: skip
    out = np.empty((4, *r.shape))
    tail_rows(constants, np.ascontiguousarray(r), out)
    return out[0], out[1], out[2], out[3]

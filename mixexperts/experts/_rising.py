"""Sums over the integers below a count, for the negative binomial log probability."""

from __future__ import annotations

import numpy as np

from mixexperts._batch import Array

# Counts up to here are looked up in tables of running sums.
_TABLE = 4096
# From this one over alpha on differences of log gamma and its derivatives are taken term by term.
_LARGE = 50.0


def rising_sums(y: Array, alpha: Array) -> tuple[Array, Array, Array]:
    """Sums over the integers j from 0 to y - 1 that the dispersion comes in by.

    Parameters
    ----------
    y : ndarray
        Integers >= 0.
    alpha : ndarray
        Dispersions > 0; broadcast against y, also as (K,) against (n, 1) or (K, 1) against (1, n).

    Returns
    -------
    log_rising : ndarray
        ``sum log(1 + alpha j)``, the log of ``alpha**y Gamma(y + 1/alpha) / Gamma(1/alpha)``.
    first, square : ndarray
        ``sum alpha j / (1 + alpha j)``, its derivative in log alpha, and the sum of the squares of
        the same terms. No digits are lost as alpha goes to zero.
    """
    y, alpha = np.asarray(y, dtype=np.float64), np.asarray(alpha, dtype=np.float64)
    crossed = y.size * alpha.size == np.broadcast(y, alpha).size and y.ndim == 2
    if not crossed:
        return _sums(y, alpha)
    counts, rows = y.ravel(), alpha.ravel()[:, None]
    index = np.minimum(counts, _TABLE).astype(np.intp)
    tables = _tables(int(index.max(initial=0)), rows)
    found = np.take(tables, index, axis=2)
    large = np.flatnonzero(counts > _TABLE)
    if large.size:
        found[:, :, large] = np.stack(_sums(counts[large], rows))
    if y.shape[0] != 1:  # rows first
        found = found.transpose(0, 2, 1)
    elif y.shape[1] == 1:  # one row: whatever the layout
        found = found.reshape(3, *np.broadcast_shapes(y.shape, alpha.shape))
    return found[0], found[1], found[2]


def log_factorials(y: Array) -> Array:
    """Log of y! for integers >= 0, looked up where y is not large."""
    from scipy.special import gammaln

    index = np.minimum(y, _TABLE).astype(np.intp)
    found: Array = np.take(gammaln(np.arange(1.0, index.max(initial=0) + 2.0)), index)
    large = y > _TABLE
    if large.any():
        found[large] = gammaln(y[large] + 1.0)
    return found


def _tables(most: int, alpha: Array) -> Array:
    """The three sums for counts 0 to ``most``, (3, K, most + 1)."""
    part = alpha * np.arange(most, dtype=np.float64)
    share = part / (1.0 + part)
    tables = np.zeros((3, len(alpha), most + 1))
    for out, terms in zip(tables, (np.log1p(part), share, share * share), strict=True):
        np.cumsum(terms, axis=1, out=out[:, 1:])
    return tables


def _sums(y: Array, alpha: Array) -> tuple[Array, Array, Array]:
    """The same from log gamma and its derivatives."""
    from mixexperts.kernels.special import gamma_functions

    y, alpha = np.broadcast_arrays(y, alpha)
    r = 1.0 / alpha
    z = y + r
    log_z, psi_z, psi1_z = gamma_functions(z)
    log_r, psi_r, psi1_r = gamma_functions(r)
    # Stirling's series, whose leading terms are subtracted before they are added up.
    far = np.maximum(r, _LARGE)
    end = y + far
    log_ratio = np.log1p(y / far)
    low, high = 1.0 / far, 1.0 / end
    by_log = (end - 0.5) * log_ratio - y + (_tail(high, 1) - _tail(low, 1))
    by_psi = far * log_ratio + 0.5 * y * high - far * (_tail(high, 2) - _tail(low, 2))
    by_psi1 = (
        far * y * high
        + 0.5 * (1.0 - (far * high) ** 2)
        + far * far * (_tail(low, 3) - _tail(high, 3))
    )
    small = r < _LARGE
    log_rising = np.where(small, log_z - log_r + y * np.log(alpha), by_log)
    climb = np.where(small, r * (psi_z - psi_r), by_psi)
    turn = np.where(small, r * r * (psi1_r - psi1_z), by_psi1)
    return log_rising, y - climb, y - 2.0 * climb + turn


def _tail(inverse: Array, which: int) -> Array:
    """Sums of Stirling's series for log gamma (1), digamma (2, sign changed) and trigamma (3)."""
    square = inverse * inverse
    tail: Array
    if which == 1:
        tail = inverse * (1 / 12 - square * (1 / 360 - square * (1 / 1260 - square / 1680)))
    elif which == 2:
        tail = square * (1 / 12 - square * (1 / 120 - square * (1 / 252 - square / 240)))
    else:
        tail = inverse * square * (1 / 6 - square * (1 / 30 - square * (1 / 42 - square / 30)))
    return tail

"""Compiled distribution function of Student's t: a table of the series for each df."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import njit

from mixexperts._batch import Array
from mixexperts.kernels._numba_math import EXACT, exp, log

# The series as piecewise polynomials of x in [0, 1/2]. It bends within some 1 / sqrt(df): panels
# that much shorter, of this degree, leave errors below 1e-13.
DEGREE = 9
_FEWEST_PANELS = 8
_PANELS_PER_ROOT = 2.2
_MOST_TERMS = 4000


def polynomial_nodes(degree: int) -> tuple[Array, Array]:
    """Chebyshev's points of [-1, 1], and the matrix from values there to coefficients."""
    nodes = np.cos(np.pi * (np.arange(degree + 1) + 0.5) / (degree + 1))
    chebyshev = np.polynomial.chebyshev.chebvander(nodes, degree)
    monomials = np.stack(
        [np.pad(c, (0, degree + 1 - len(c)))
         for c in (np.polynomial.chebyshev.cheb2poly(e) for e in np.eye(degree + 1))],
        axis=1,
    )  # fmt: skip
    return nodes, monomials @ np.linalg.inv(chebyshev)


@njit(cache=True, nogil=True, fastmath=EXACT, error_model="numpy")
def _series_at(a, x, out):
    """See :func:`mixexperts.kernels.student.series`, at points x of one a."""
    for i in range(len(x)):
        term, slope, bend = 1.0, 0.0, 0.0
        total, first, second = 1.0, 0.0, 0.0
        for k in range(_MOST_TERMS):
            up, down = 1.0 / (2.0 * a + k), 1.0 / (a + 1.0 + k)
            term *= x[i] * (2.0 * a + k) * down
            slope += 2.0 * up - down
            bend += down * down - 4.0 * up * up
            total += term
            first += term * slope
            second += term * (slope * slope + bend)
            if term * (1.0 + slope * slope) <= 1e-17 * total:
                break
        out[0, i] = total
        out[1, i] = first / total
        out[2, i] = second / total - (first / total) ** 2


@functools.lru_cache(maxsize=256)
def _table(df: float) -> Any:
    """Coefficients (panels, DEGREE + 1, 3) of the series and its derivatives."""
    nodes, matrix = polynomial_nodes(DEGREE)
    panels = max(_FEWEST_PANELS, int(np.ceil(_PANELS_PER_ROOT * np.sqrt(df))))
    x = (np.arange(panels)[:, None] + 0.5 * (nodes + 1.0)) * (0.5 / panels)
    values = np.empty((3, x.size))
    _series_at(0.5 * df, x.ravel(), values)
    table = np.einsum("dj,spj->pds", matrix, values.reshape(3, *x.shape))
    return np.ascontiguousarray(table)


@njit(cache=True, nogil=True, fastmath=EXACT, error_model="numpy")
def _row(df, value, first, second, table, r, out):
    last = table.shape[0] - 1
    for i in range(len(r)):
        size = abs(r[i])
        square = 1.0 + size * size
        root = np.sqrt(square)
        place = (last + 1.0) / (root * (root + size))
        panel = min(int(place), last)
        v = 2.0 * (place - panel) - 1.0
        row = table[panel]
        total, by_a, by_a2 = row[DEGREE, 0], row[DEGREE, 1], row[DEGREE, 2]
        for j in range(1, DEGREE + 1):
            total = total * v + row[DEGREE - j, 0]
            by_a = by_a * v + row[DEGREE - j, 1]
            by_a2 = by_a2 * v + row[DEGREE - j, 2]
        log_square = log(square)
        rest = value - 0.5 * df * log_square
        in_r = df / (root * total)
        in_df = 0.5 * (by_a - log_square) + first
        in_df2 = 0.25 * by_a2 + second
        if r[i] > 0.0:
            left = exp(rest) * total
            odds = left / (1.0 - left)
            out[0, i] = log(1.0 - left)
            out[1, i] = in_r * odds
            out[2, i] = -in_df * odds
            out[3, i] = -odds * (in_df2 + in_df * in_df * (1.0 + odds))
        else:
            out[0, i] = rest + log(total)
            out[1, i] = in_r
            out[2, i] = in_df
            out[3, i] = in_df2


def tail_rows(constants: Array, r: Array, out: Array) -> None:
    """Write the four results (4, K, n); ``constants`` (4, K) holds df and sums of each row."""
    for k in range(len(r)):
        df, value, first, second = constants[:, k]
        _row(df, value, first, second, _table(float(df)), r[k], out[:, k])

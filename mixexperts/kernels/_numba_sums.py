"""Sums of products over the rows of a block, in register tiles.

Rows lie contiguously: an array (c, BLOCK) holds c columns of the block, and every inner loop
runs over its first m rows. Numbers of columns and of weights are padded to whole tiles with
zeros (:func:`padded`), so that a few tiles serve all sizes.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from mixexperts.kernels._numba_math import FAST


@njit(inline="always")
def padded(count, step):
    """The smallest multiple of ``step`` that is at least ``count``."""
    return (count + step - 1) // step * step


@njit
def padded_rows(matrix, n_rows, n_columns):
    """A copy of a matrix with rows and columns of zeros added."""
    out = np.zeros((n_rows, n_columns))
    for i in range(matrix.shape[0]):
        for j in range(matrix.shape[1]):
            out[i, j] = matrix[i, j]
    return out


# --- weighted Grams: the product of two columns is made in a register and serves six weights ---


@njit(inline="always")
def _add3(out, g, a, b, x, y, z):
    out[g, a, b] += x
    out[g + 1, a, b] += y
    out[g + 2, a, b] += z


@njit(fastmath=FAST, error_model="numpy")
def _gram62(W, g, x, y, z, m, out, a, b):
    u0, u1, u2, u3, u4, u5 = W[g], W[g + 1], W[g + 2], W[g + 3], W[g + 4], W[g + 5]
    a0 = a1 = a2 = a3 = a4 = a5 = b0 = b1 = b2 = b3 = b4 = b5 = 0.0
    for i in range(m):
        p, q = x[i] * y[i], x[i] * z[i]
        w0, w1, w2, w3, w4, w5 = u0[i], u1[i], u2[i], u3[i], u4[i], u5[i]
        a0 += w0 * p
        a1 += w1 * p
        a2 += w2 * p
        a3 += w3 * p
        a4 += w4 * p
        a5 += w5 * p
        b0 += w0 * q
        b1 += w1 * q
        b2 += w2 * q
        b3 += w3 * q
        b4 += w4 * q
        b5 += w5 * q
    _add3(out, g, a, b, a0, a1, a2)
    _add3(out, g + 3, a, b, a3, a4, a5)
    _add3(out, g, a, b + 1, b0, b1, b2)
    _add3(out, g + 3, a, b + 1, b3, b4, b5)


@njit(fastmath=FAST, error_model="numpy")
def _gram32(W, g, x, y, z, m, out, a, b):
    u0, u1, u2 = W[g], W[g + 1], W[g + 2]
    a0 = a1 = a2 = b0 = b1 = b2 = 0.0
    for i in range(m):
        p, q = x[i] * y[i], x[i] * z[i]
        w0, w1, w2 = u0[i], u1[i], u2[i]
        a0 += w0 * p
        a1 += w1 * p
        a2 += w2 * p
        b0 += w0 * q
        b1 += w1 * q
        b2 += w2 * q
    _add3(out, g, a, b, a0, a1, a2)
    _add3(out, g, a, b + 1, b0, b1, b2)


@njit
def add_grams(W, n_weights, Xt, p, m, out):
    """Add ``sum_i W[g, i] Xt[a, i] Xt[b, i]`` to ``out[g, a, b]`` for b <= a.

    ``n_weights`` is a multiple of 3; Xt has an even number of columns, at least p.
    """
    for a in range(p):
        for b in range(0, a + 1, 2):
            g = 0
            while g + 6 <= n_weights:
                _gram62(W, g, Xt[a], Xt[b], Xt[b + 1], m, out, a, b)
                g += 6
            if g < n_weights:
                _gram32(W, g, Xt[a], Xt[b], Xt[b + 1], m, out, a, b)


@njit(fastmath=FAST, error_model="numpy")
def _gram12(w, x, y, z, m, row, b):
    p = q = 0.0
    for i in range(m):
        weighted = w[i] * x[i]
        p += weighted * y[i]
        q += weighted * z[i]
    row[b] += p
    row[b + 1] += q


@njit(fastmath=FAST, error_model="numpy")
def _cross11(w, x, m):
    total = 0.0
    for i in range(m):
        total += w[i] * x[i]
    return total


@njit
def add_moments(w, Xt, p, m, first, second):
    """Add the first and second moments of p columns under one weight, the lower triangle."""
    for a in range(p):
        first[a] += _cross11(w, Xt[a], m)
        for b in range(0, a + 1, 2):
            _gram12(w, Xt[a], Xt[b], Xt[b + 1], m, second[a], b)


@njit
def triangles(square, n_weights, p):
    """Lower triangles (n_weights, p (p + 1) / 2), row by row, of what :func:`add_grams` fills."""
    out = np.empty((n_weights, p * (p + 1) // 2))
    for g in range(n_weights):
        t = 0
        for a in range(p):
            for b in range(a + 1):
                out[g, t] = square[g, a, b]
                t += 1
    return out


# --- cross products and linear predictors -------------------------------------------------------


@njit(inline="always")
def _add4(row, j, a, b, c, d):
    row[j] += a
    row[j + 1] += b
    row[j + 2] += c
    row[j + 3] += d


@njit(fastmath=FAST, error_model="numpy")
def _cross34(V, g, Xt, j, m, out):
    u, v, w = V[g], V[g + 1], V[g + 2]
    x0, x1, x2, x3 = Xt[j], Xt[j + 1], Xt[j + 2], Xt[j + 3]
    a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = c0 = c1 = c2 = c3 = 0.0
    for i in range(m):
        p, q, r = u[i], v[i], w[i]
        y0, y1, y2, y3 = x0[i], x1[i], x2[i], x3[i]
        a0 += p * y0
        a1 += p * y1
        a2 += p * y2
        a3 += p * y3
        b0 += q * y0
        b1 += q * y1
        b2 += q * y2
        b3 += q * y3
        c0 += r * y0
        c1 += r * y1
        c2 += r * y2
        c3 += r * y3
    _add4(out[g], j, a0, a1, a2, a3)
    _add4(out[g + 1], j, b0, b1, b2, b3)
    _add4(out[g + 2], j, c0, c1, c2, c3)


@njit
def add_cross(V, n_rows, Xt, p, m, out):
    """Add ``sum_i V[g, i] Xt[j, i]`` to ``out[g, j]``; n_rows and p in whole tiles of 3 and 4."""
    for g in range(0, n_rows, 3):
        for j in range(0, p, 4):
            _cross34(V, g, Xt, j, m, out)


@njit(fastmath=FAST, error_model="numpy")
def _set4(out, c, x0, x1, x2, x3, m):
    c0, c1, c2, c3 = c[0], c[1], c[2], c[3]
    for i in range(m):
        out[i] = (c0 * x0[i] + c1 * x1[i]) + (c2 * x2[i] + c3 * x3[i])


@njit(fastmath=FAST, error_model="numpy")
def _more4(out, c, j, x0, x1, x2, x3, m):
    c0, c1, c2, c3 = c[j], c[j + 1], c[j + 2], c[j + 3]
    for i in range(m):
        out[i] += (c0 * x0[i] + c1 * x1[i]) + (c2 * x2[i] + c3 * x3[i])


@njit
def predictor(coef, Xt, p, m, out):
    """``out[i] = sum_j coef[j] Xt[j, i]``; p in whole tiles of 4."""
    if p == 0:
        for i in range(m):
            out[i] = 0.0
        return
    _set4(out, coef, Xt[0], Xt[1], Xt[2], Xt[3], m)
    for j in range(4, p, 4):
        _more4(out, coef, j, Xt[j], Xt[j + 1], Xt[j + 2], Xt[j + 3], m)


# Assignments to slices would do, but compile three seconds of messages about shapes.
@njit(error_model="numpy")
def fill(out, value, m):
    """``out[i] = value``."""
    for i in range(m):
        out[i] = value


@njit(error_model="numpy")
def shift(out, value, m):
    """``out[i] += value``."""
    for i in range(m):
        out[i] += value


@njit(fastmath=FAST, error_model="numpy")
def add_scaled(out, c, x, m):
    """``out[i] += c * x[i]``."""
    for i in range(m):
        out[i] += c * x[i]

"""Compiled kernels: one fused pass over a range of rows, vectorised over the rows of a block.

The rows of a block lie contiguously (feature-major scratch arrays), so that every inner loop
runs over rows and the compiler turns it into vector instructions. Nothing of size n x K is
kept: a block of :data:`BLOCK` rows and its scratch stay in the cache.

Floor per row with p = q columns, P = p (p + 1) / 2 and K experts: about
``K (K + 1) / 2 * P`` multiply-adds for the Grams, ``(4 K - 2) p`` for predictors and cross
products, ``P`` products of columns, ``2 K`` exponentials and one logarithm; ``8 (p + 2)`` bytes.
"""

from __future__ import annotations

import math

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

#: Rows per block.
BLOCK = 256

#: Codes of the elementwise parts in :func:`_family`.
GAUSSIAN = 0
#: Codes of the gate.
CONSTANT, SOFTMAX = 0, 1

# Reassociation lets sums vectorise. Infinities and NaN keep their meaning: no ninf, no nnan.
_FAST = {"contract", "reassoc", "arcp", "nsz"}
# The reduction of the exponent needs its order of operations.
_EXACT = {"contract", "nsz"}

_LOG2E = 1.4426950408889634
_LN2_HIGH = 6.93147180369123816490e-01
_LN2_LOW = 1.90821492927058770002e-10
_HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)


@intrinsic
def _bits_as_double(typing_context, bits):
    """Reinterpret an int64 as a float64."""

    def codegen(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.DoubleType())

    return types.float64(types.int64), codegen


# --- exponential -----------------------------------------------------------------------------


@njit(inline="always")
def _exp(x):
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
    if x >= -708.0:
        return value
    return 0.0 if x < -708.0 else x  # NaN stays NaN


@njit(cache=True, nogil=True, fastmath=_EXACT)
def exp_rows(x, m):
    """Replace the first m entries of x (all <= 709) by their exponentials."""
    for i in range(m):
        x[i] = _exp(x[i])


# --- sums of products ------------------------------------------------------------------------


@njit(cache=True, nogil=True, fastmath=_FAST)
def _tile34(w0, w1, w2, q0, q1, q2, q3, m, out, g, j):
    a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = c0 = c1 = c2 = c3 = 0.0
    for i in range(m):
        u, v, w = w0[i], w1[i], w2[i]
        x0, x1, x2, x3 = q0[i], q1[i], q2[i], q3[i]
        a0 += u * x0
        a1 += u * x1
        a2 += u * x2
        a3 += u * x3
        b0 += v * x0
        b1 += v * x1
        b2 += v * x2
        b3 += v * x3
        c0 += w * x0
        c1 += w * x1
        c2 += w * x2
        c3 += w * x3
    _add4(out[g], j, a0, a1, a2, a3)
    _add4(out[g + 1], j, b0, b1, b2, b3)
    _add4(out[g + 2], j, c0, c1, c2, c3)


@njit(inline="always")
def _add4(row, j, a, b, c, d):
    row[j] += a
    row[j + 1] += b
    row[j + 2] += c
    row[j + 3] += d


@njit(cache=True, nogil=True, fastmath=_FAST)
def _tile14(w, q0, q1, q2, q3, m, out, g, j):
    a = b = c = d = 0.0
    for i in range(m):
        u = w[i]
        a += u * q0[i]
        b += u * q1[i]
        c += u * q2[i]
        d += u * q3[i]
    _add4(out[g], j, a, b, c, d)


@njit(cache=True, nogil=True, fastmath=_FAST)
def _tile31(w0, w1, w2, q, m, out, g, j):
    a = b = c = 0.0
    for i in range(m):
        x = q[i]
        a += w0[i] * x
        b += w1[i] * x
        c += w2[i] * x
    out[g, j] += a
    out[g + 1, j] += b
    out[g + 2, j] += c


@njit(cache=True, nogil=True, fastmath=_FAST)
def _tile11(w, q, m, out, g, j):
    a = 0.0
    for i in range(m):
        a += w[i] * q[i]
    out[g, j] += a


@njit(cache=True, nogil=True)
def add_products(W, Q, n_w, n_q, m, out):
    """``out[g, j] += sum_i W[g, i] Q[j, i]`` over the first m columns, in register tiles."""
    j = 0
    while j + 4 <= n_q:
        g = 0
        while g + 3 <= n_w:
            _tile34(W[g], W[g + 1], W[g + 2], Q[j], Q[j + 1], Q[j + 2], Q[j + 3], m, out, g, j)
            g += 3
        while g < n_w:
            _tile14(W[g], Q[j], Q[j + 1], Q[j + 2], Q[j + 3], m, out, g, j)
            g += 1
        j += 4
    while j < n_q:
        g = 0
        while g + 3 <= n_w:
            _tile31(W[g], W[g + 1], W[g + 2], Q[j], m, out, g, j)
            g += 3
        while g < n_w:
            _tile11(W[g], Q[j], m, out, g, j)
            g += 1
        j += 1


@njit(cache=True, nogil=True, fastmath=_FAST)
def column_products(Xt, p, m, Q):
    """Products of all pairs of columns a >= b, the lower triangle row by row."""
    t = 0
    for a in range(p):
        first = Xt[a]
        for b in range(a + 1):
            second, product = Xt[b], Q[t]
            for i in range(m):
                product[i] = first[i] * second[i]
            t += 1


@njit(cache=True, nogil=True, fastmath=_FAST)
def _add_scaled4(out, c0, x0, c1, x1, c2, x2, c3, x3, m):
    for i in range(m):
        out[i] += (c0 * x0[i] + c1 * x1[i]) + (c2 * x2[i] + c3 * x3[i])


@njit(cache=True, nogil=True, fastmath=_FAST)
def _add_scaled(out, c, x, m):
    for i in range(m):
        out[i] += c * x[i]


@njit(cache=True, nogil=True)
def predictor(coef, Xt, p, m, out):
    """``out[i] = sum_j coef[j] Xt[j, i]``."""
    for i in range(m):
        out[i] = 0.0
    j = 0
    while j + 4 <= p:
        _add_scaled4(
            out, coef[j], Xt[j], coef[j + 1], Xt[j + 1], coef[j + 2], Xt[j + 2], coef[j + 3],
            Xt[j + 3], m,
        )  # fmt: skip
        j += 4
    while j < p:
        _add_scaled(out, coef[j], Xt[j], m)
        j += 1


# --- elementwise parts of the families ---------------------------------------------------------


@njit(cache=True, nogil=True, fastmath=_FAST)
def _gaussian(y, eta, aux, log_f, slope, curve, m):
    inverse = 1.0 / aux
    constant = -math.log(aux) - _HALF_LOG_TWO_PI
    for i in range(m):
        residual = y[i] - eta[i]
        scaled = residual * inverse
        slope[i] = residual
        curve[i] = 1.0
        log_f[i] = constant - 0.5 * scaled * scaled


@njit(cache=True, nogil=True)
def _family(code, y, eta, aux, log_f, slope, curve, m):
    """Log density, residual and Gram weight of a block of rows under one expert."""
    if code == GAUSSIAN:
        _gaussian(y, eta, aux, log_f, slope, curve, m)


# --- the mixture -----------------------------------------------------------------------------


@njit(cache=True, nogil=True, fastmath=_EXACT)
def _normalize(values, n_experts, m, top, total):
    """Replace rows of logs by ``exp(value - top)``; keep the largest log and the sum."""
    for i in range(m):
        top[i] = values[0, i]
        total[i] = 0.0
    for k in range(1, n_experts):
        row = values[k]
        for i in range(m):
            top[i] = max(top[i], row[i])
    for i in range(m):
        # a row without support (all -inf) must give -inf, not NaN, so that the fall is seen
        top[i] = top[i] if top[i] >= -1.7e308 else 0.0
    for k in range(n_experts):
        row = values[k]
        for i in range(m):
            value = _exp(row[i] - top[i])
            row[i] = value
            total[i] += value


@njit(cache=True, nogil=True, fastmath=_FAST)
def _log_likelihood(weight, top, total, gate_top, gate_total, m):
    value = 0.0
    for i in range(m):
        ratio = math.log(total[i] / gate_total[i])
        # a row of weight zero counts for nothing, even where its density is zero
        if weight[i] > 0.0:
            value += weight[i] * ((top[i] - gate_top[i]) + ratio)
    return value


@njit(cache=True, nogil=True, fastmath=_FAST)
def _responsibilities(values, weight, total, n_experts, m, W):
    for i in range(m):
        total[i] = weight[i] / total[i] if total[i] > 0.0 else 0.0
    for k in range(n_experts):
        row, out = values[k], W[k]
        for i in range(m):
            out[i] = row[i] * total[i]


@njit(cache=True, nogil=True, fastmath=_FAST)
def _expert_rows(y, W, slope, curve, V, sums, k, m):
    """Weighted residuals into V, Gram weights into W; add to the sums."""
    w, s, c, v = W[k], slope[k], curve[k], V[k]
    mass = squares = fitted = 0.0
    for i in range(m):
        weighted = w[i] * s[i]
        mass += w[i]
        squares += weighted * s[i]
        fitted += w[i] * (y[i] - s[i])
        v[i] = weighted
    sums[0, k] += mass
    sums[1, k] += squares
    sums[2, k] += fitted
    for i in range(m):
        w[i] = w[i] * c[i]


@njit(cache=True, nogil=True, fastmath=_FAST)
def _gate_rows(prob, resp, weight, total, n_free, m, V, W, first):
    """Gate residuals into V, weights of the gate's information blocks into W from ``first``."""
    for i in range(m):
        total[i] = 1.0 / total[i]
    for a in range(n_free):
        p, r, v = prob[a], resp[a], V[a]
        for i in range(m):
            p[i] = p[i] * total[i]
            v[i] = r[i] - weight[i] * p[i]
    t = first
    for a in range(n_free):
        p = prob[a]
        for b in range(a + 1):
            other, out = prob[b], W[t]
            if a == b:
                for i in range(m):
                    out[i] = weight[i] * p[i] * (1.0 - p[i])
            else:
                for i in range(m):
                    out[i] = -weight[i] * p[i] * other[i]
            t += 1


@njit(cache=True, nogil=True)
def _gather(X, start, m, Xt):
    """Rows of X as columns of the block."""
    for j in range(X.shape[1]):
        row = Xt[j]
        for i in range(m):
            row[i] = X[start + i, j]


@njit(cache=True, nogil=True)
def fused_pass(code, gate_code, same, y, offset, X, Z, weight, coef, aux, gate):
    """One pass over rows: everything an EM iteration needs.

    Parameters
    ----------
    code, gate_code : int
        Family of the experts and kind of gate.
    same : bool
        Whether Z is X: its products of columns are then made once.
    y : ndarray of shape (n,)
    offset : ndarray of shape (n,) or (0,)
    X, Z : ndarray of shape (n, p), (n, q)
    weight : ndarray of shape (n,)
    coef : ndarray of shape (K, p)
    aux : ndarray of shape (K,)
        Scale of each expert.
    gate : ndarray of shape (K, q) or (K, 1)
        Coefficients of a softmax gate, or log weights of a constant one.

    Returns
    -------
    log_likelihood : float
    sums : ndarray of shape (3, K)
        Masses, weighted sums of squared residuals, weighted sums of fitted means.
    gram : ndarray of shape (K, p (p + 1) / 2)
        Lower triangles of the experts' Grams.
    cross : ndarray of shape (K, p)
    gradient : ndarray of shape (K - 1, q)
    information : ndarray of shape (K (K - 1) / 2, q (q + 1) / 2)
        Lower triangles of the gate's information blocks a >= b.
    """
    n, p = X.shape
    q = Z.shape[1]
    K = coef.shape[0]
    softmax = gate_code == SOFTMAX
    free = K - 1 if softmax else 0
    pairs = free * (free + 1) // 2
    n_gram, n_info = p * (p + 1) // 2, q * (q + 1) // 2

    Xt, Q = np.empty((p, BLOCK)), np.empty((n_gram, BLOCK))
    Zt, R = Xt, Q
    if softmax and not same:
        Zt, R = np.empty((q, BLOCK)), np.empty((n_info, BLOCK))
    eta, weights = np.empty(BLOCK), np.empty(BLOCK)
    slope, curve = np.empty((K, BLOCK)), np.empty((K, BLOCK))
    joint, score = np.empty((K, BLOCK)), np.zeros((K, BLOCK))
    W, V = np.empty((K + pairs, BLOCK)), np.empty((K + free, BLOCK))
    top, total = np.empty(BLOCK), np.empty(BLOCK)
    gate_top, gate_total = np.zeros(BLOCK), np.ones(BLOCK)

    sums = np.zeros((3, K))
    shared = softmax and same
    gram = np.zeros((K + pairs if shared else K, n_gram))
    cross = np.zeros((K + free if shared else K, p))
    information = np.zeros((0 if shared else pairs, n_info))
    gradient = np.zeros((0 if shared else free, q))
    log_likelihood = 0.0

    for start in range(0, n, BLOCK):
        m = min(BLOCK, n - start)
        _gather(X, start, m, Xt)
        if softmax and not same:
            _gather(Z, start, m, Zt)
        for i in range(m):
            weights[i] = weight[start + i]
        for k in range(K):
            predictor(coef[k], Xt, p, m, eta)
            if offset.shape[0]:
                for i in range(m):
                    eta[i] += offset[start + i]
            _family(code, y[start : start + m], eta, aux[k], joint[k], slope[k], curve[k], m)
            if softmax:
                if k < free:
                    predictor(gate[k], Zt, q, m, score[k])
                else:
                    for i in range(m):
                        score[k, i] = 0.0
                _add_scaled(joint[k], 1.0, score[k], m)
            else:
                for i in range(m):
                    joint[k, i] += gate[k, 0]
        _normalize(joint, K, m, top, total)
        if softmax:
            _normalize(score, K, m, gate_top, gate_total)
        log_likelihood += _log_likelihood(weights, top, total, gate_top, gate_total, m)
        _responsibilities(joint, weights, total, K, m, W)
        if softmax:
            _gate_rows(score, W, weights, gate_total, free, m, V[K:], W, K)
        for k in range(K):
            _expert_rows(y[start : start + m], W, slope, curve, V, sums, k, m)
        column_products(Xt, p, m, Q)
        if shared:
            add_products(W, Q, K + pairs, n_gram, m, gram)
            add_products(V, Xt, K + free, p, m, cross)
        else:
            add_products(W, Q, K, n_gram, m, gram)
            add_products(V, Xt, K, p, m, cross)
            if softmax:
                column_products(Zt, q, m, R)
                add_products(W[K:], R, pairs, n_info, m, information)
                add_products(V[K:], Zt, free, q, m, gradient)
    if shared:
        return log_likelihood, sums, gram[:K], cross[:K], cross[K:], gram[K:]
    return log_likelihood, sums, gram, cross, gradient, information

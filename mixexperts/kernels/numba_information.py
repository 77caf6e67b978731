"""The observed information of a range of rows, in one compiled loop.

Minus the Hessian of the log-likelihood is a sum of products of the designs of pairs of linear
predictors, with a weight per row and pair (Louis 1982): what the complete data would tell, less
the covariance of its score under the responsibilities. The tiles of the fused pass make the sums.
"""

from __future__ import annotations

import functools

import numpy as np
from numba import njit

from mixexperts.kernels._numba_families import BINOMIAL, GAUSSIAN, SOFTMAX, slopes
from mixexperts.kernels._numba_math import FAST
from mixexperts.kernels._numba_mixture import (
    BLOCK,
    compiled,
    gather,
    mixture,
    version,
    weighted_sum,
)
from mixexperts.kernels._numba_sums import add_cross, add_grams, fill, padded, padded_rows


@njit(fastmath=FAST, error_model="numpy")
def _pair(a, b, free, K, prob, resp, slope, curve, weight, out, m):
    """Weight of the product of predictors a >= b: the gate's come first, then K per kind."""
    if a < free:
        p, q, r, s = prob[a], prob[b], resp[a], resp[b]
        for i in range(m):
            out[i] = weight[i] * (r[i] * s[i] - p[i] * q[i])
        if a == b:
            for i in range(m):
                out[i] += weight[i] * (p[i] - r[i])
        return
    s, r = slope[a - free], resp[(a - free) % K]
    if b < free:
        other = resp[b]
        own = 1.0 if b == (a - free) % K else 0.0
        for i in range(m):
            out[i] = weight[i] * s[i] * r[i] * (other[i] - own)
        return
    t, q = slope[b - free], resp[(b - free) % K]
    for i in range(m):
        out[i] = weight[i] * (r[i] * s[i]) * (q[i] * t[i])
    if (a - b) % K == 0:
        c = curve[((a - free) // K + (b - free) // K) * K + (a - free) % K]
        for i in range(m):
            out[i] += weight[i] * r[i] * (c[i] - s[i] * t[i])


@functools.cache
def information(code, gate_code):
    """The sum for a family of experts and a kind of gate, compiled when it is first called.

    The gate is constant, or softmax with the experts' design.
    """
    return _compile(version(), code, gate_code)


def _compile(key, code, gate_code):
    # What a closure holds is part of the key under which numba stores compiled code.

    def run(
        y, trials, offset, weight, coef, aux, gate,
        X, x_by_column, x_start, x_columns, x_shift, x_factor,
    ):  # fmt: skip
        """Minus the Hessian (P, P) of the log-likelihood.

        The arguments are those of the fused pass. Parameters come in the order of the gate's
        logits, the experts' coefficients and, for Gaussian experts, their log scales.
        """
        key  # noqa: B018
        n, p, K = len(y), len(x_columns), len(coef)
        softmax, free = gate_code == SOFTMAX, K - 1
        kinds = 2 if code == GAUSSIAN else 1
        M = free + kinds * K
        # Wide predictors have the design's p columns, the others one constant column.
        wide = np.zeros(M, np.bool_)
        wide[:free] = softmax
        wide[free : free + K] = True
        offsets = np.zeros(M + 1, np.int64)
        for a in range(M):
            offsets[a + 1] = offsets[a] + (p if wide[a] else 1)
        n_wide = 0
        n_mixed = 0
        for a in range(M):
            for b in range(a + 1):
                n_wide += wide[a] and wide[b]
                n_mixed += wide[a] != wide[b]

        p4, n_gram, n_cross = padded(p, 4), padded(n_wide, 3), padded(n_mixed, 3)
        experts = padded_rows(coef, K, p4)
        logits = padded_rows(gate[: free if softmax else 0], free if softmax else 0, p4)
        Xt = np.zeros((p4, BLOCK))
        joint, mean, score = np.empty((K, BLOCK)), np.empty((K, BLOCK)), np.zeros((K, BLOCK))
        slope, curve = np.empty((kinds * K, BLOCK)), np.empty(((2 * kinds - 1) * K, BLOCK))
        W, V, single = np.zeros((n_gram, BLOCK)), np.zeros((n_cross, BLOCK)), np.empty(BLOCK)
        U = np.empty((0, p4, BLOCK))
        top, total, log_f = np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK)
        gate_top, gate_total = np.zeros(BLOCK), np.ones(BLOCK)
        grams, crosses = np.zeros((n_gram, p4, p4)), np.zeros((n_cross, p4))
        singles = np.zeros((M, M))

        for start in range(0, n, BLOCK):
            m = min(BLOCK, n - start)
            gather(X, x_by_column, x_start + start, m, x_columns, x_shift, x_factor, Xt)
            y_rows, weights = y[start : start + m], weight[start : start + m]
            trial_rows = trials[start : start + m] if code == BINOMIAL else y_rows
            mixture(
                code, gate_code, y_rows, trial_rows, offset[start : start + m], m, experts, aux,
                gate, logits, Xt, Xt, p, mean, joint, score, U, top, total, gate_top,
                gate_total, log_f,
            )  # fmt: skip
            for k in range(K):
                for i in range(m):
                    joint[k, i] = joint[k, i] / total[i] if total[i] > 0.0 else 0.0
                    if not softmax:
                        score[k, i] = np.exp(gate[k, 0])
                    else:
                        score[k, i] /= gate_total[i]
                slopes(code, y_rows, trial_rows, mean[k], aux[k], slope, curve, k, K, m)
            g, v = 0, 0
            for a in range(M):
                for b in range(a + 1):
                    if wide[a] and wide[b]:
                        out = W[g]
                        g += 1
                    elif wide[a] != wide[b]:
                        out = V[v]
                        v += 1
                    else:
                        out = single
                    _pair(a, b, free, K, score, joint, slope, curve, weights, out, m)
                    if not wide[a] and not wide[b]:
                        fill(log_f, 1.0, m)
                        singles[a, b] += weighted_sum(log_f, single, m)
            add_grams(W, n_gram, Xt, p, m, grams)
            add_cross(V, n_cross, Xt, p4, m, crosses)

        return _assembled(wide, offsets, grams, crosses, singles, p)

    return compiled(run, "information", key, code, gate_code)


@njit
def _assembled(wide, offsets, grams, crosses, singles, p):
    """The sums in their places of the symmetric matrix."""
    M = len(wide)
    out = np.empty((offsets[M], offsets[M]))
    g, v = 0, 0
    for a in range(M):
        for b in range(a + 1):
            i, j = offsets[a], offsets[b]
            if wide[a] and wide[b]:
                for s in range(p):
                    for t in range(s + 1):
                        value = grams[g, s, t]
                        out[i + s, j + t] = out[j + t, i + s] = value
                        out[i + t, j + s] = out[j + s, i + t] = value
                g += 1
            elif wide[a] or wide[b]:
                for s in range(p):
                    row, column = (i + s, j) if wide[a] else (i, j + s)
                    out[row, column] = out[column, row] = crosses[v, s]
                v += 1
            else:
                out[i, j] = out[j, i] = singles[a, b]
    return out

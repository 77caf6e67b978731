"""Two compiled passes around the elementwise terms of a family: predictors before, sums after.

Families that are no part of the fused pass compute log densities, slopes and weights as arrays;
what is left, the E-step, the gate and the Grams, is compiled once for all of them.
"""

from __future__ import annotations

import functools

import numpy as np
from numba import njit

from mixexperts.kernels._numba_families import (
    CONSTANT,
    GAUSSIAN_GATE,
    SOFTMAX,
    gaussian_score,
    softmax_rows,
)
from mixexperts.kernels._numba_math import FAST
from mixexperts.kernels._numba_mixture import (
    BLOCK,
    add_shifted,
    compiled,
    gather,
    log_density,
    normalize,
    responsibilities,
    version,
    weighted_sum,
)
from mixexperts.kernels._numba_sums import (
    add_cross,
    add_grams,
    add_moments,
    add_scaled,
    fill,
    padded,
    padded_rows,
    predictor,
    shift,
    triangles,
)


@functools.cache
def linear_predictors():
    """The linear predictors of the experts, compiled when first called."""
    return _compile_predictors(version())


def _compile_predictors(key):
    def run(coef, offset, X, x_by_column, x_start, x_columns, x_shift, x_factor, eta):
        """Write ``offset + design @ coef`` into eta (K, n); arguments as in the fused pass."""
        key  # noqa: B018
        K, n = eta.shape
        p = len(x_columns)
        p4 = padded(p, 4)
        experts = padded_rows(coef, K, p4)
        Xt = np.zeros((p4, BLOCK))
        row = np.empty(BLOCK)
        for start in range(0, n, BLOCK):
            m = min(BLOCK, n - start)
            gather(X, x_by_column, x_start + start, m, x_columns, x_shift, x_factor, Xt)
            for k in range(K):
                predictor(experts[k], Xt, p4, m, row)
                if len(offset):
                    add_scaled(row, 1.0, offset[start : start + m], m)
                out = eta[k][start : start + m]
                for i in range(m):
                    out[i] = row[i]

    return compiled(run, "predictors", key)


@njit(fastmath=FAST, error_model="numpy")
def _weigh(resp, values, out, m):
    """Responsibilities times values; a row that an expert cannot reach counts for nothing."""
    for i in range(m):
        r = resp[i]
        weighted = r * values[i]
        out[i] = weighted if r > 0.0 else 0.0


@functools.cache
def summed(gate_code):
    """The sums of a kind of gate, compiled when first called."""
    return _compile(version(), gate_code)


def _compile(key, gate_code):
    def run(
        same, log_f, slope, curve, weight, gate,
        X, x_by_column, x_start, x_columns, x_shift, x_factor,
        Z, z_by_column, z_start, z_columns, z_shift, z_factor, resp,
    ):  # fmt: skip
        """E-step and sums over rows whose terms are known.

        Parameters
        ----------
        log_f : ndarray of shape (K, n)
            Log density of each row under each expert.
        slope : ndarray of shape (K T, n)
            Its slopes in the T linear predictors of each expert.
        curve : ndarray of shape (K P, n)
            Its weights in P pairs of them.
        same, weight, gate, X, ..., Z, ...
            As in the fused pass.
        resp : ndarray of shape (K, n)
            Written: weights times responsibilities.

        Returns
        -------
        log_likelihood, gram, cross, gradient, information
            As in the fused pass, with K P Grams and K T cross products.
        """
        key  # noqa: B018
        K, n = log_f.shape
        T, P = len(slope) // K, len(curve) // K
        p, q = len(x_columns), len(z_columns)
        softmax, gaussian = gate_code == SOFTMAX, gate_code == GAUSSIAN_GATE
        free = K - 1 if softmax else 0
        pairs = free * (free + 1) // 2 if softmax else (K if gaussian else 0)
        shared = softmax and same
        p4, q4 = padded(p, 4), padded(q, 4)
        n_gram = padded(K * P + (pairs if shared else 0), 3)
        n_cross = padded(K * T + (free if shared else 0), 3)
        n_info = 0 if shared else padded(pairs, 3)
        n_grad = 0 if shared else (K if gaussian else padded(free, 3))
        logits = padded_rows(gate[:free], free, q4)

        Xt = np.zeros((p4, BLOCK))
        Zt = Xt if same else np.zeros((q4, BLOCK))
        joint, score = np.empty((K, BLOCK)), np.zeros((K, BLOCK))
        R = np.zeros((K, BLOCK))
        W, V = np.zeros((n_gram, BLOCK)), np.zeros((n_cross, BLOCK))
        W_gate, V_gate = W[K * P :], V[K * T :]
        if not shared:
            W_gate, V_gate = np.zeros((n_info, BLOCK)), np.zeros((n_grad, BLOCK))
        U = np.zeros((K if gaussian else 0, q4, BLOCK))
        top, total, log_p = np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK)
        gate_top, gate_total = np.zeros(BLOCK), np.ones(BLOCK)

        gram, cross = np.zeros((n_gram, p4, p4)), np.zeros((n_cross, p4))
        information, gradient = np.zeros((n_info, q4, q4)), np.zeros((n_grad, q4))
        log_likelihood = 0.0

        for start in range(0, n, BLOCK):
            m = min(BLOCK, n - start)
            stop = start + m
            gather(X, x_by_column, x_start + start, m, x_columns, x_shift, x_factor, Xt)
            if not same and gate_code != CONSTANT:
                gather(Z, z_by_column, z_start + start, m, z_columns, z_shift, z_factor, Zt)
            weights = weight[start:stop]
            for k in range(K):
                source, row = log_f[k][start:stop], joint[k]
                for i in range(m):
                    row[i] = source[i]
                if gate_code == CONSTANT:
                    shift(row, gate[k, 0], m)
                elif gate_code == GAUSSIAN_GATE:
                    gaussian_score(gate[k], Zt, q, m, U[k], score[k])
                    add_scaled(row, 1.0, score[k], m)
                elif k < free:
                    predictor(logits[k], Zt, len(Zt), m, score[k])
                else:
                    fill(score[k], 0.0, m)
            if gate_code == SOFTMAX:
                add_shifted(score, K, m, top, joint)
            normalize(joint, K, m, top, total)
            if gate_code == SOFTMAX:
                normalize(score, K, m, gate_top, gate_total)
            fill(log_p, 0.0, m)
            log_density(top, total, gate_top, gate_total, log_p, m)
            log_likelihood += weighted_sum(weights, log_p, m)

            responsibilities(joint, weights, total, K, m, R)
            if softmax:
                softmax_rows(score, R, weights, gate_total, K, m, V_gate, W_gate)
            elif gaussian:
                for k in range(K):
                    add_moments(R[k], U[k], q, m, gradient[k], information[k])
            for k in range(K):
                for t in range(k * T, (k + 1) * T):
                    _weigh(R[k], slope[t][start:stop], V[t], m)
                for t in range(k * P, (k + 1) * P):
                    _weigh(R[k], curve[t][start:stop], W[t], m)
                out, row = resp[k][start:stop], R[k]
                for i in range(m):
                    out[i] = row[i]
            add_grams(W, n_gram, Xt, p, m, gram)
            add_cross(V, n_cross, Xt, p4, m, cross)
            if softmax and not same:
                add_grams(W_gate, n_info, Zt, q, m, information)
                add_cross(V_gate, n_grad, Zt, q4, m, gradient)
        if shared:
            information, gradient = gram[K * P :], cross[K * T :]
        return (
            log_likelihood,
            triangles(gram, K * P, p),
            cross[: K * T, :p],
            gradient[: K if gaussian else free, :q],
            triangles(information, pairs, q),
        )

    return compiled(run, "summed", key, gate_code)

"""The fused pass: everything an EM iteration needs from a range of rows, in one compiled loop.

The rows of a block lie contiguously (feature-major scratch arrays), so that every inner loop
runs over rows and the compiler turns it into vector instructions. Nothing of size n x K, and
no second copy of the features, is kept: rows are standardised as they are read, and a block of
:data:`BLOCK` rows and its scratch stay in the cache.

Floor per row with p = q columns, P = p (p + 1) / 2 and K experts under a softmax gate: about
``K (K + 1) / 2 * P`` multiply-adds for the Grams, ``(4 K - 2) p`` for predictors and cross
products, ``P`` products of columns, ``2 K`` exponentials and one logarithm; ``8 (p + 2)`` bytes.
"""

from __future__ import annotations

import functools

import numpy as np

from mixexperts.kernels._numba_families import (
    BINOMIAL,
    CONSTANT,
    GAUSSIAN_GATE,
    SOFTMAX,
    moments,
    softmax_rows,
)
from mixexperts.kernels._numba_mixture import (
    BLOCK,
    compiled,
    gather,
    mixture,
    responsibilities,
    version,
    weighted_sum,
)
from mixexperts.kernels._numba_sums import (
    add_cross,
    add_grams,
    add_moments,
    padded,
    padded_rows,
    triangles,
)


@functools.cache
def fused_pass(code, gate_code):
    """The pass of a family of experts and a kind of gate, compiled when it is first called."""
    return _compile(version(), code, gate_code)


def _compile(key, code, gate_code):
    # What a closure holds is part of the key under which numba stores compiled code.

    def run(
        same, y, trials, offset, weight, coef, aux, gate,
        X, x_by_column, x_start, x_columns, x_shift, x_factor,
        Z, z_by_column, z_start, z_columns, z_shift, z_factor,
    ):  # fmt: skip
        """One pass over rows: everything an EM iteration needs.

        Parameters
        ----------
        same : bool
            Whether the gate sees the experts' columns: their products are then made once.
        y : ndarray of shape (n,)
        trials, offset : ndarray of shape (n,) or (0,)
        weight : ndarray of shape (n,)
        coef : ndarray of shape (K, p)
        aux : ndarray of shape (K,)
            Scale of each expert.
        gate : ndarray of shape (K, ...)
            Coefficients (K, q) of a softmax gate, log weights (K, 1) of a constant one, or the
            rows of :func:`gaussian_score`.
        X : ndarray of shape (N, d), or (d, N) where ``x_by_column``
            The rows x_start to x_start + n of it are read.
        x_columns, x_shift, x_factor : ndarray of shape (p,)
            Column j of the design is ``(X[:, x_columns[j]] - x_shift[j]) * x_factor[j]``, or one
            where x_columns[j] is -1.
        Z, z_by_column, z_start, z_columns, z_shift, z_factor
            The same for the gate's q columns; not read where ``same``.

        Returns
        -------
        log_likelihood : float
        sums : ndarray of shape (3, K)
            Masses, weighted sums of squared residuals, weighted sums of fitted means.
        gram : ndarray of shape (K, p (p + 1) / 2)
            Lower triangles of the experts' Grams.
        cross : ndarray of shape (K, p)
        gradient : ndarray of shape (K - 1, q) for softmax, (K, q) sums of u for Gaussian gates
        information : ndarray of shape (G, q (q + 1) / 2)
            Lower triangles of the gate's information blocks a >= b, or of K sums of u u'.
        """
        key  # noqa: B018
        n, p, q, K = len(y), len(x_columns), len(z_columns), len(coef)
        softmax, gaussian = gate_code == SOFTMAX, gate_code == GAUSSIAN_GATE
        free = K - 1 if softmax else 0
        pairs = free * (free + 1) // 2 if softmax else (K if gaussian else 0)
        shared = softmax and same
        # Padded to whole tiles; what is added is zero and stays zero.
        p4, q4, K3 = padded(p, 4), padded(q, 4), padded(K, 3)
        n_gram = padded(K + pairs, 3) if shared else K3
        n_cross = padded(K + free, 3) if shared else K3
        n_info = 0 if shared else padded(pairs, 3)
        n_grad = 0 if shared else (K if gaussian else padded(free, 3))
        experts = padded_rows(coef, K, p4)
        logits = padded_rows(gate[:free], free, q4)

        Xt = np.zeros((p4, BLOCK))
        Zt = Xt if same else np.zeros((q4, BLOCK))
        joint, mean, score = np.empty((K, BLOCK)), np.empty((K, BLOCK)), np.zeros((K, BLOCK))
        W, V = np.zeros((n_gram, BLOCK)), np.zeros((n_cross, BLOCK))
        W_gate, V_gate = W[K:], V[K:]
        if not shared:
            W_gate, V_gate = np.zeros((n_info, BLOCK)), np.zeros((n_grad, BLOCK))
        U = np.zeros((K if gaussian else 0, q4, BLOCK))
        top, total, log_f = np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK)
        gate_top, gate_total = np.zeros(BLOCK), np.ones(BLOCK)

        sums = np.zeros((3, K))
        gram, cross = np.zeros((n_gram, p4, p4)), np.zeros((n_cross, p4))
        information, gradient = np.zeros((n_info, q4, q4)), np.zeros((n_grad, q4))
        log_likelihood = 0.0

        for start in range(0, n, BLOCK):
            m = min(BLOCK, n - start)
            gather(X, x_by_column, x_start + start, m, x_columns, x_shift, x_factor, Xt)
            if not same and gate_code != CONSTANT:
                gather(Z, z_by_column, z_start + start, m, z_columns, z_shift, z_factor, Zt)
            y_rows, weights = y[start : start + m], weight[start : start + m]
            trial_rows = trials[start : start + m] if code == BINOMIAL else y_rows

            mixture(
                code, gate_code, y_rows, trial_rows, offset[start : start + m], m, experts, aux,
                gate, logits, Xt, Zt, q, mean, joint, score, U, top, total, gate_top,
                gate_total, log_f,
            )  # fmt: skip
            log_likelihood += weighted_sum(weights, log_f, m)

            responsibilities(joint, weights, total, K, m, W)
            if softmax:
                softmax_rows(score, W, weights, gate_total, K, m, V_gate, W_gate)
            elif gaussian:
                for k in range(K):
                    add_moments(W[k], U[k], q, m, gradient[k], information[k])
            for k in range(K):
                moments(code, y_rows, trial_rows, mean[k], W[k], V[k], sums, k, m)
            add_grams(W, n_gram, Xt, p, m, gram)
            add_cross(V, n_cross, Xt, p4, m, cross)
            if softmax and not same:
                add_grams(W_gate, n_info, Zt, q, m, information)
                add_cross(V_gate, n_grad, Zt, q4, m, gradient)
        if shared:
            information, gradient = gram[K:], cross[K:]
        return (
            log_likelihood,
            sums,
            triangles(gram, K, p),
            cross[:K, :p],
            gradient[: K if gaussian else free, :q],
            triangles(information, pairs, q),
        )

    return compiled(run, "fused", key, code, gate_code)

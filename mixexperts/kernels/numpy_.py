"""Reference kernels in NumPy. n rows, K experts, p columns; all arrays float64."""

from __future__ import annotations

import numpy as np

from mixexperts._batch import Array

# Rows whose products of columns are held at a time: they stay in the cache.
_ROWS = 2048


def e_step(log_joint: Array) -> tuple[Array, Array]:
    """Responsibilities and log density from log(gate x expert).

    Parameters
    ----------
    log_joint : ndarray of shape (u, K)
        Log of gate weight times expert density. Overwritten.

    Returns
    -------
    resp : ndarray of shape (u, K)
        Responsibilities; rows sum to one, or to zero where no expert has support.
    log_density : ndarray of shape (u,)
        Log of the row sums of ``exp(log_joint)``.
    """
    top = log_joint.max(axis=1)
    # A row without support (all -inf) must give -inf, not NaN, so that the fall is seen.
    shift = np.where(np.isfinite(top), top, 0.0)
    resp = np.exp(np.subtract(log_joint, shift[:, None], out=log_joint), out=log_joint)
    total = resp.sum(axis=1)
    with np.errstate(divide="ignore"):
        resp /= np.where(total > 0.0, total, 1.0)[:, None]
        log_density: Array = np.log(total) + shift
    return resp, log_density


def log_softmax(logits: Array) -> Array:
    """Log of the softmax over axis 1, (u, K)."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_prob: Array = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return log_prob


def weighted_gram(X: Array, weight: Array) -> Array:
    """K weighted Gram matrices: X (n, p), weight (n, K) -> (K, p, p)."""
    gram = np.empty((weight.shape[1], X.shape[1], X.shape[1]))
    scaled = np.empty_like(X)
    for k in range(weight.shape[1]):
        np.multiply(X, weight[:, k, None], out=scaled)
        np.matmul(X.T, scaled, out=gram[k])
    return gram


def many_grams(X: Array, weight: Array) -> Array:
    """The same as :func:`weighted_gram`, in less time where K is not small.

    The products of two columns are made once, and summed for all K in one matrix product:
    ``n p^2 K`` operations in place of ``2 n p^2 K``.
    """
    n, p = X.shape
    first, second = np.tril_indices(p)
    half = np.zeros((weight.shape[1], len(first)))
    products = np.empty((len(first), min(n, _ROWS)))
    for start in range(0, n, _ROWS):
        columns = np.ascontiguousarray(X[start : start + _ROWS].T)
        part = products[:, : columns.shape[1]]
        for i in range(p):
            at = i * (i + 1) // 2
            np.multiply(columns[i], columns[: i + 1], out=part[at : at + i + 1])
        half += weight[start : start + _ROWS].T @ part.T
    gram = np.empty((weight.shape[1], p, p))
    gram[:, first, second] = gram[:, second, first] = half
    return gram


def weighted_cross(X: Array, values: Array) -> Array:
    """Cross products: X (n, p), values (n, K) -> (K, p)."""
    cross: Array = values.T @ X
    return cross


def softmax_stats(Z: Array, prob: Array, resp: Array, weight: Array) -> tuple[Array, Array]:
    """Gradient and negative Hessian of the softmax gate's expected log-likelihood.

    Parameters
    ----------
    Z : ndarray of shape (u, q)
        Gate design.
    prob : ndarray of shape (u, K)
        Gate probabilities at the current coefficients.
    resp : ndarray of shape (u, K)
        Responsibilities times weight.
    weight : ndarray of shape (u,)
        Weight of each unit.

    Returns
    -------
    gradient : ndarray of shape (K - 1, q)
    information : ndarray of shape (K - 1, K - 1, q, q)
        Symmetric in the first and in the last two axes; the last expert is the reference.
    """
    free = prob.shape[1] - 1
    q = Z.shape[1]
    weighted = prob[:, :free] * weight[:, None]
    gradient: Array = (resp[:, :free] - weighted).T @ Z
    information = np.empty((free, free, q, q))
    for a in range(free):
        for b in range(a + 1):
            mix = weighted[:, a] * ((a == b) - prob[:, b])
            information[a, b] = information[b, a] = Z.T @ (Z * mix[:, None])
    return gradient, information

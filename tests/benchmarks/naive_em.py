"""The yardstick: a plain vectorised NumPy EM for a softmax gate and Gaussian experts.

What a careful person writes in an hour: whole arrays, an exact Newton step of the gate,
no acceleration, no blocks. Kept here to be measured against, never to be used.
"""

from __future__ import annotations

import numpy as np


def naive_pass(y, X, coef, scale, gate):
    """One EM iteration; returns log-likelihood and new parameters."""
    p = X.shape[1]
    n_experts = len(scale)
    logits = X @ gate.T
    logits -= logits.max(axis=1, keepdims=True)
    log_gate = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    residual = y[:, None] - X @ coef.T
    log_f = -0.5 * (residual / scale) ** 2 - np.log(scale) - 0.5 * np.log(2 * np.pi)
    joint = log_gate + log_f
    top = joint.max(axis=1, keepdims=True)
    unnormalised = np.exp(joint - top)
    total = unnormalised.sum(axis=1, keepdims=True)
    log_likelihood = float(np.sum(np.log(total) + top))
    resp = unnormalised / total

    new_coef, new_scale = np.empty_like(coef), np.empty_like(scale)
    for k in range(n_experts):
        weighted = X * resp[:, k, None]
        new_coef[k] = np.linalg.solve(X.T @ weighted, weighted.T @ y)
        fitted = y - X @ new_coef[k]
        new_scale[k] = np.sqrt(resp[:, k] @ fitted**2 / resp[:, k].sum())

    free = n_experts - 1
    prob = np.exp(log_gate)
    gradient = ((resp - prob)[:, :free].T @ X).ravel()
    hessian = np.empty((free * p, free * p))
    for a in range(free):
        for b in range(free):
            mix = prob[:, a] * ((a == b) - prob[:, b])
            hessian[a * p : (a + 1) * p, b * p : (b + 1) * p] = X.T @ (X * mix[:, None])
    new_gate = gate.copy()
    new_gate[:free] += np.linalg.solve(hessian, gradient).reshape(free, p)
    return log_likelihood, new_coef, new_scale, new_gate


def naive_em(y, X, coef, scale, gate, *, tol=1e-12, max_iter=5000):
    """Iterate to a relative change of ``tol``; returns log-likelihood, passes and parameters."""
    previous = -np.inf
    for iteration in range(1, max_iter + 1):  # noqa: B007 (returned)
        log_likelihood, coef, scale, gate = naive_pass(y, X, coef, scale, gate)
        if log_likelihood - previous <= tol * abs(log_likelihood):
            break
        previous = log_likelihood
    return log_likelihood, iteration, (coef, scale, gate)

"""The group lasso over experts and gate: its M-step, and where slopes begin."""

from __future__ import annotations

import numpy as np

from mixexperts._batch import Array
from mixexperts.em.sparse.problem import Point, Problem, Slopes
from mixexperts.em.sparse.rows import SparseParams

_MOST_SWEEPS = 30
# The Hessian of a log softmax is at most half the identity (Boehning 1992).
_SOFTMAX_CURVE = 0.5


def grouped_descent(
    problem: Problem, point: Point, tol: float
) -> tuple[Array, Array, Array, Array, Array, Array]:
    """M-step of both rooms together, since groups reach across them.

    Returns
    -------
    coef, intercept, gate_coef, gate_intercept, eta, score : ndarray
        Coefficients as in :class:`SparseParams`, and the predictors that they make.
    """
    from mixexperts.kernels import numba_descent

    params = point.params
    K, L, q = params.coef.shape
    slope, gate = problem.residuals(point)
    weighted = point.resp * problem.rows.weight
    each = weighted if L == 1 else np.repeat(weighted, L, axis=0)
    curve = each * (point.terms.curve if L == 1 else _SOFTMAX_CURVE)
    gate_curve = np.broadcast_to(_SOFTMAX_CURVE * problem.rows.weight, gate.shape)
    coef = np.column_stack(
        [
            np.concatenate([params.intercept.ravel(), params.gate_intercept]),
            np.vstack([params.coef.reshape(K * L, q), params.gate_coef]),
        ]
    )
    start, members, l1, unit, l2 = _plan(problem, params)
    move = np.zeros((len(coef), problem.XT.shape[1]))
    numba_descent.group_descent()(
        np.vstack([np.ones((1, problem.XT.shape[1])), problem.XT]),
        np.vstack([slope, gate]),
        np.vstack([curve, gate_curve]),
        coef, unit, l2, start, members, l1, tol, _MOST_SWEEPS, move,
    )  # fmt: skip
    cut = K * L
    return (
        np.ascontiguousarray(coef[:cut, 1:]).reshape(K, L, q),
        coef[:cut, 0].reshape(K, L).copy(),
        np.ascontiguousarray(coef[cut:, 1:]),
        coef[cut:, 0].copy(),
        point.eta + move[:cut],
        point.score + move[cut:],
    )


def _plan(problem: Problem, params: SparseParams) -> tuple[Array, Array, Array, Array, Array]:
    """Groups of coordinates, intercepts first, each alone and free.

    Returns
    -------
    start : ndarray of shape (G + 1,)
    members : ndarray of int
        Coordinates group by group, ``m * (q + 1) + j`` with the intercept at j = 0.
    l1 : ndarray of shape (G,)
    unit, l2 : ndarray of shape (M, q + 1)
    """
    K, L, q = params.coef.shape
    scale, strength, labels = problem.pull.norms(params)
    scale[: K * L] *= np.repeat(problem.pull.units(params)[:, 0], L, axis=0)
    ridge = problem.total * np.vstack(
        [
            (
                np.broadcast_to(problem.penalty.ridge("expert"), params.coef.shape)
                * problem.pull.units(params) ** 2
            ).reshape(K * L, q),
            np.broadcast_to(problem.penalty.ridge("gate"), params.gate_coef.shape),
        ]
    )
    free_rows = list(range(K * L)) if problem.family.intercept else []
    free_rows += [K * L + k for k in range(K - 1)]
    alone = [m * (q + 1) for m in free_rows]
    m, j = np.nonzero((scale == 0.0) & np.isfinite(scale))
    alone += (m * (q + 1) + j + 1).tolist()
    m, j = np.nonzero((scale > 0.0) & np.isfinite(scale))
    order = np.lexsort((j, m, labels[j]))
    m, j = m[order], j[order]
    groups, first = np.unique(labels[j], return_index=True)
    start = np.concatenate([np.arange(len(alone)), len(alone) + first, [len(alone) + len(m)]])
    members = np.concatenate([np.array(alone, dtype=np.int64), m * (q + 1) + j + 1])
    l1 = np.concatenate([np.zeros(len(alone)), problem.total * strength[groups]])
    unit = np.where((scale > 0.0) & np.isfinite(scale), scale, 1.0)
    ones, zeros = np.ones((len(scale), 1)), np.zeros((len(scale), 1))
    return (
        start.astype(np.int64),
        members.astype(np.int64),
        l1,
        np.hstack([ones, unit]),
        np.hstack([zeros, ridge]),
    )


def group_alpha_max(problem: Problem, params: SparseParams, slopes: Slopes) -> tuple[float, float]:
    """The least strengths, in proportion, at which all slopes stay zero."""
    coef, gate = slopes.coef.copy(), slopes.gate_coef.copy()
    for gradient, mask in zip((coef, gate), problem.masks, strict=True):
        if mask is not None:
            gradient[..., ~mask] = 0.0
    penalty = problem.penalty
    coef /= problem.pull.units(params)
    factor = penalty.zero_factor(coef / problem.total, gate / problem.total)
    return penalty.alpha * factor, penalty.gate_alpha * factor

"""The group lasso over experts and gate: its M-step, and its derivatives for Newton's steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mixexperts._batch import Array
from mixexperts.em.sparse.problem import Point, Problem, Slopes
from mixexperts.em.sparse.rows import SparseParams

if TYPE_CHECKING:
    from mixexperts.em.sparse.newton import Predictor

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
    scale, strength, labels = _norms(problem, params)
    ridge = problem.total * np.vstack(
        [
            np.broadcast_to(problem.penalty.ridge("expert"), params.coef.shape).reshape(K * L, q),
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


def _norms(problem: Problem, params: SparseParams) -> tuple[Array, Array, Array]:
    """Factors (M, q) inside of the norms, of the norms (G,), and the group of each column."""
    blocks = problem.penalty.blocks(params.coef, params.gate_coef)
    scale = np.array(blocks.scale)
    K, L, _ = params.coef.shape
    for mask, rows in zip(problem.masks, (slice(0, K * L), slice(K * L, None)), strict=True):
        if mask is not None:
            scale[rows, ~mask] = np.inf
    if problem.n_experts == 1:
        scale[K * L :] = np.inf
    return scale, blocks.strength, blocks.labels


def group_derivatives(
    problem: Problem, params: SparseParams, predictors: Sequence[Predictor], cuts: Array
) -> tuple[Array, Array]:
    """Gradient and Hessian of the penalty in the free parameters of Newton's step."""
    K, L, _ = params.coef.shape
    scale, strength, labels = _norms(problem, params)
    ridge = [problem.penalty.ridge(room) for room in ("expert", "gate")]
    gradient = np.zeros(int(cuts[-1]))
    hessian = np.zeros((len(gradient), len(gradient)))
    place, factor, group, value = [], [], [], []
    for a, p in enumerate(predictors):
        if p.room == "shape" or not len(p.active):
            continue
        gate = p.room == "gate"
        own = params.gate_coef[p.expert] if gate else params.coef[p.expert, p.part]
        like = params.gate_coef if gate else params.coef
        l2 = np.broadcast_to(ridge[gate], like.shape)
        l2 = l2[p.expert] if gate else l2[p.expert, p.part]
        row = K * L + p.expert if gate else p.expert * L + p.part
        at = np.arange(cuts[a] + p.intercept, cuts[a + 1])
        gradient[at] += l2[p.active] * own[p.active]
        hessian[at, at] += l2[p.active]
        place.append(at)
        factor.append(np.where(np.isfinite(scale[row, p.active]), scale[row, p.active], 0.0))
        group.append(labels[p.active])
        value.append(own[p.active])
    if place:
        at, s, g, b = (np.concatenate(part) for part in (place, factor, group, value))
        for one in np.unique(g):
            mine = np.flatnonzero(g == one)
            norm = float(np.linalg.norm(s[mine] * b[mine]))
            if norm == 0.0:
                continue
            pull = s[mine] ** 2 * b[mine]
            gradient[at[mine]] += strength[one] * pull / norm
            bend = np.diag(s[mine] ** 2) / norm - np.outer(pull, pull) / norm**3
            hessian[np.ix_(at[mine], at[mine])] += strength[one] * bend
    return problem.total * gradient, problem.total * hessian


def group_alpha_max(problem: Problem, slopes: Slopes) -> tuple[float, float]:
    """The least strengths, in proportion, at which all slopes stay zero."""
    coef, gate = slopes.coef.copy(), slopes.gate_coef.copy()
    for gradient, mask in zip((coef, gate), problem.masks, strict=True):
        if mask is not None:
            gradient[..., ~mask] = 0.0
    penalty = problem.penalty
    factor = penalty.zero_factor(coef / problem.total, gate / problem.total)
    return penalty.alpha * factor, penalty.gate_alpha * factor

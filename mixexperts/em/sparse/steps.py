"""The M-step of a penalised fit: coordinate descent on the quadratics of experts and gate."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mixexperts._batch import Array
from mixexperts.em.sparse.problem import Point, Problem
from mixexperts.em.sparse.rows import SparseParams

_MOST_SWEEPS = 100
_MAX_HALVINGS = 30


def em_step(problem: Problem, point: Point, tol: float) -> Point:
    """The next point: an M-step under the responsibilities, halved until the objective rises.

    ``tol`` is what a coordinate may leave to gain. A point without a rise is given back as it was.
    """
    moved, eta, score = m_step(problem, point, tol)
    slack = 1e-12 * abs(point.objective)
    share = 1.0
    for _ in range(_MAX_HALVINGS):
        trial = problem.evaluate(moved, eta, score)
        if trial.objective >= point.objective - slack:
            return trial
        share *= 0.5
        moved = mixed(point.params, moved, 0.5)
        eta, score = 0.5 * (point.eta + eta), 0.5 * (point.score + score)
    return point


def m_step(problem: Problem, point: Point, tol: float) -> tuple[SparseParams, Array, Array]:
    """Parameters that raise the penalised quadratic of the M-step, and their predictors."""
    if problem.penalty.kind == "group":
        from mixexperts.em.sparse.groups import grouped_descent

        coef, intercept, gate_coef, gate_intercept, eta, score = grouped_descent(
            problem, point, tol
        )
    else:
        l1, gate_l1, l2, gate_l2 = problem.pull.thresholds(point.params)
        coef, intercept, eta = expert_descent(problem, point, l1, l2, tol)
        gate_coef, gate_intercept, score = gate_descent(problem, point, gate_l1, gate_l2, tol)
    shapes = point.params.shapes
    if problem.family.free_shapes:
        moved = SparseParams(intercept, coef, gate_intercept, gate_coef, shapes)
        weighted = point.resp * problem.rows.weight
        with np.errstate(all="ignore"):
            shapes = problem.family.next_shapes(
                problem.rows.y,
                problem.shifted(eta),
                shapes,
                weighted,
                problem.pull.on_scales(moved),
            )
    moved = SparseParams(intercept, coef, gate_intercept, gate_coef, shapes)
    if problem.penalty.kind != "lasso":  # of the lasso it was done by the descent
        moved = problem.centred(moved)
    return moved, eta, score


def expert_descent(
    problem: Problem, point: Point, l1: Array, l2: Array, tol: float
) -> tuple[Array, Array, Array]:
    """Coefficients, intercepts and predictors of the experts after descent."""
    from mixexperts.kernels import numba_descent

    params, terms, XT = point.params, point.terms, problem.XT
    K, L = params.intercept.shape
    coef, intercept = params.coef.copy(), params.intercept.copy()
    move = np.zeros(point.eta.shape)
    weighted = point.resp * problem.rows.weight
    if terms.share is None:
        run = numba_descent.linear_descent()
        G, H = weighted * terms.slope, weighted * terms.curve
        for k in range(K):
            intercept[k, 0] += run(
                XT, G[k], H[k], coef[k, 0], problem.family.intercept, l1[k, 0], l2[k, 0], tol,
                _MOST_SWEEPS, move[k],
            )  # fmt: skip
        return coef, intercept, point.eta + move
    descend, gauge = numba_descent.softmax_descent(), numba_descent.gauge()
    slope = terms.slope.reshape(K, L, -1) * weighted[:, None]
    for k in range(K):
        share = np.ascontiguousarray(terms.share[k])
        descend(
            XT, slope[k], share * weighted[k], share, coef[k], intercept[k],
            problem.family.intercept, l1[k], l2[k], tol, _MOST_SWEEPS,
            move[k * L : (k + 1) * L], np.zeros(XT.shape[1]),
        )  # fmt: skip
        if problem.penalty.kind == "lasso":
            gauge(coef[k], l1[k], l2[k])
    return coef, intercept, point.eta + move


def gate_descent(
    problem: Problem, point: Point, l1: Array, l2: Array, tol: float
) -> tuple[Array, Array, Array]:
    """Coefficients, intercepts and logits of the gate after descent."""
    from mixexperts.kernels import numba_descent

    params = point.params
    coef, intercept = params.gate_coef.copy(), params.gate_intercept.copy()
    if problem.n_experts == 1:
        return coef, intercept, point.score
    free = problem.gate_rows
    move = np.zeros(point.score.shape)
    weight = problem.rows.weight
    numba_descent.softmax_descent()(
        problem.XT, (point.resp - point.prob) * weight, point.prob * weight, point.prob,
        coef[:free], intercept[:free], True, l1[:free], l2[:free], tol, _MOST_SWEEPS,
        move, np.zeros(len(weight)),
    )  # fmt: skip
    if free == problem.n_experts and problem.penalty.kind == "lasso":
        numba_descent.gauge()(coef, l1, l2)
    return coef, intercept, point.score + move


def mixed(left: SparseParams, right: SparseParams, share: float) -> SparseParams:
    """Parameters between two others, ``share`` of the way from left to right."""

    def between(a: Array, b: Array) -> Array:
        middle: Array = a + share * (b - a)
        return middle

    shapes = {name: between(values, right.shapes[name]) for name, values in left.shapes.items()}
    return replace(
        left,
        intercept=between(left.intercept, right.intercept),
        coef=between(left.coef, right.coef),
        gate_intercept=between(left.gate_intercept, right.gate_intercept),
        gate_coef=between(left.gate_coef, right.gate_coef),
        shapes=shapes,
    )

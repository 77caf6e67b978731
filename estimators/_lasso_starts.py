"""What ``init`` may be, turned into starts of a penalised fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mixexperts._batch import Array
from mixexperts.em.sparse import SparseFit, SparseParams, SparseRows, fit_sparse
from mixexperts.estimators._lasso_problem import Problem, centred
from mixexperts.estimators._starts import (
    is_start,
    parameters_of,
    responsibilities_of,
    rows_of_init,
    start_from_estimator,
)
from mixexperts.experts.multinomial import Multinomial
from mixexperts.penalties.sparse import SparsePenalty

# Share of every row that a hard partition spreads over all experts.
_SOFTNESS = 0.05
# A start need not be exact.
_TOL, _PASSES = 1e-4, 50


def given_starts(
    init: Any, problem: Problem, penalty: SparsePenalty
) -> tuple[tuple[SparseParams, ...] | None, tuple[str, ...]]:
    """Starts that ``init`` states, and a name for each.

    A name of a kind of starts gives None, and the name: the solver makes them.

    Raises
    ------
    ValueError, TypeError
        If ``init`` is neither a name nor something that a start can be made of.
    """
    if isinstance(init, str):
        return None, (init,)
    several = isinstance(init, list | tuple) and any(is_start(item) for item in init)
    items = init if several else [init]
    starts, names = [], []
    for item in items:
        if isinstance(item, str):
            raise TypeError(
                f"init is a list that holds the name {item!r} beside other starts; give the name "
                "alone, or a list of labels, responsibilities, parameters and fitted models"
            )
        name, params = _start(item, problem, penalty)
        starts.append(centred(penalty, params))
        names.append(name)
    return tuple(starts), tuple(names)


def _start(item: Any, problem: Problem, penalty: SparsePenalty) -> tuple[str, SparseParams]:
    if isinstance(item, dict):
        theta = parameters_of(item, problem.n_experts, problem.model, problem.frame)
        return "parameters", problem.params(theta)
    if hasattr(item, "estimator"):
        item = item.estimator
    if hasattr(item, "fit") and hasattr(item, "get_params"):
        return "model", _from_estimator(item, problem)
    values = rows_of_init(item, problem.data.n_given)
    if problem.data.given.used is not None:
        values = values[problem.data.given.used]
    resp = responsibilities_of(values, problem.n_experts)
    return "labels", from_responsibilities(problem, penalty, resp)


def _from_estimator(est: Any, problem: Problem) -> SparseParams:
    start = start_from_estimator(est, problem.n_experts, problem.model, problem.frame)
    if start.kind == "split":
        raise ValueError(
            f"init is a model of {len(est.mass_)} experts, but n_experts={problem.n_experts}; "
            "start from a model with as many"
        )
    assert start.theta is not None
    return problem.params(start.theta)


def from_responsibilities(problem: Problem, penalty: SparsePenalty, resp: Array) -> SparseParams:
    """The M-step at responsibilities (n, K): each expert, and the gate, fitted by itself."""
    rows, n_experts = problem.rows, problem.n_experts
    resp = (1.0 - _SOFTNESS) * resp + _SOFTNESS / n_experts
    total = float(rows.weight.sum())
    experts = []
    for k in range(n_experts):
        weight = rows.weight * resp[:, k]
        own = _one_of(penalty, k, total / float(weight.sum()))
        experts.append(_single(problem.family, replace(rows, weight=weight), own))
    gate_intercept, gate_coef = _gate(rows, penalty, resp)
    return SparseParams(
        np.concatenate([fit.params.intercept for fit in experts]),
        np.concatenate([fit.params.coef for fit in experts]),
        gate_intercept,
        gate_coef,
        {
            name: np.concatenate([fit.params.shapes[name] for fit in experts])
            for name in experts[0].params.shapes
        },
    )


def _one_of(penalty: SparsePenalty, k: int, factor: float) -> SparsePenalty:
    """The penalty of expert k alone, per unit of weight of its own rows."""
    weights = penalty.weights
    if weights is not None and weights.ndim == 3:
        weights = weights[k : k + 1]
    return replace(
        penalty,
        alpha=penalty.alpha * factor,
        gate_alpha=penalty.gate_alpha * factor,
        weights=weights,
        gate_weights=None,
    )


def _gate(rows: SparseRows, penalty: SparsePenalty, resp: Array) -> tuple[Array, Array]:
    """Gate fitted to responsibilities: classes with soft labels, a row for each of them."""
    n, n_experts = resp.shape
    if n_experts == 1:
        return np.zeros(1), np.zeros((1, rows.X.shape[1]))
    label = np.repeat(np.arange(n_experts), n).astype(np.float64)
    copies = SparseRows(
        X=np.asfortranarray(np.tile(rows.X, (n_experts, 1))),
        y=label,
        weight=(rows.weight[:, None] * resp).T.ravel(),
        offset=None,
        expert_mask=rows.gate_mask,
        gate_mask=None,
    )
    weights = penalty.gate_weights
    if weights is not None and weights.ndim == 2:
        weights = weights[None]
    own = replace(
        penalty, alpha=penalty.gate_alpha, weights=weights, gate_weights=None, groups=None,
        kind="lasso" if penalty.kind == "group" else penalty.kind,
    )  # fmt: skip
    fit = _single(Multinomial(n_classes=n_experts), copies, own)
    return fit.params.intercept[0], fit.params.coef[0]


def _single(family: Any, rows: SparseRows, penalty: SparsePenalty) -> SparseFit:
    return fit_sparse(family, rows, 1, penalty, n_init=1, tol=_TOL, max_iter=_PASSES).best


def names_of(names: Sequence[str], fits: Sequence[SparseFit]) -> list[str]:
    """Kind of the start of each fit: those that were given, or those that the solver made."""
    return list(names) if len(names) == len(fits) and len(fits) > 1 else [f.kind for f in fits]

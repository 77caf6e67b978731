"""What ``init`` may be, turned into starts of a penalised fit."""

from __future__ import annotations

from typing import Any

import numpy as np

from mixexperts.em.sparse import SparseParams
from mixexperts.em.sparse.problem import Problem as Solver
from mixexperts.em.sparse.starts import from_responsibilities
from mixexperts.estimators._lasso_problem import Problem, centred
from mixexperts.estimators._starts import (
    is_start,
    parameters_of,
    responsibilities_of,
    rows_of_init,
    start_from_estimator,
)
from mixexperts.penalties.sparse import SparsePenalty

# Share of every row that a hard partition spreads over all experts.
_SOFTNESS = 0.05


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
    resp = (1.0 - _SOFTNESS) * resp + _SOFTNESS / problem.n_experts
    solver = Solver.of(problem.family, problem.rows, problem.n_experts, penalty)
    return "labels", from_responsibilities(solver, np.ascontiguousarray(resp.T))


def _from_estimator(est: Any, problem: Problem) -> SparseParams:
    start = start_from_estimator(est, problem.n_experts, problem.model, problem.frame)
    if start.kind == "split":
        raise ValueError(
            f"init is a model of {len(est.mass_)} experts, but n_experts={problem.n_experts}; "
            "start from a model with as many"
        )
    assert start.theta is not None
    return problem.params(start.theta)

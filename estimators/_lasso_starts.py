"""What ``init`` may be, turned into starts of a penalised fit."""

from __future__ import annotations

from typing import Any

import numpy as np

from mixexperts._batch import Batch
from mixexperts.em.init import keyed_rng, split_rows, theta_from_responsibilities, worst_explained
from mixexperts.em.sparse import SparseParams
from mixexperts.em.sparse.problem import Problem as Solver
from mixexperts.em.sparse.starts import (
    from_responsibilities,
    initial_params,
    named_starts,
    screened_columns,
)
from mixexperts.estimators._lasso_problem import Problem, centred, seen_theta
from mixexperts.estimators._starts import (
    is_start,
    parameters_of,
    responsibilities_of,
    rows_of_init,
    start_from_estimator,
)
from mixexperts.kernels.numpy_ import e_step
from mixexperts.penalties.sparse import SparsePenalty

# Share of every row that a hard partition spreads over all experts.
_SOFTNESS = 0.05
# Columns, beside those of a fit, that its experts are split by.
_SEEN = 6


def given_starts(
    init: Any, problem: Problem, penalty: SparsePenalty, n_init: int
) -> tuple[tuple[SparseParams, ...] | None, tuple[str, ...]]:
    """Starts that ``init`` states, and a name for each.

    The name of a kind of starts, alone, gives None and the name: the solver makes them. In a list
    it gives ``n_init`` starts of the kind.

    Raises
    ------
    ValueError, TypeError
        If ``init`` is neither a name nor something that a start can be made of.
    """
    if isinstance(init, str):
        return None, (init,)
    several = isinstance(init, list | tuple) and any(is_start(item) for item in init)
    starts: list[SparseParams] = []
    names: list[str] = []
    solver = Solver.of(problem.family, problem.rows, problem.n_experts, penalty)
    for item in init if several else [init]:
        if isinstance(item, str):
            kinds = named_kinds(solver, item, n_init)
            starts += [initial_params(solver, kind, i, problem.seed) for kind, i in kinds]
            names += [kind for kind, _ in kinds]
            continue
        name, params = _start(item, problem, solver)
        starts.append(centred(penalty, params))
        names.append(name)
    return tuple(starts), tuple(names)


def named_kinds(solver: Solver, name: str, n_init: int) -> list[tuple[str, int]]:
    """Kinds of starts and their numbers; ``"auto"`` takes kinds in turn."""
    return [("single", 0)] if solver.n_experts == 1 else named_starts(solver, name, n_init)


def _start(item: Any, problem: Problem, solver: Solver) -> tuple[str, SparseParams]:
    if isinstance(item, dict):
        theta = parameters_of(item, problem.n_experts, problem.model, problem.frame)
        return "parameters", problem.params(theta)
    if hasattr(item, "estimator"):
        item = item.estimator
    if hasattr(item, "fit") and hasattr(item, "get_params"):
        start = start_from_estimator(item, problem.n_experts, problem.model, problem.frame)
        assert start.theta is not None
        params = problem.params(start.theta)
        return start.kind, params if start.kind == "model" else _grown(params, problem, solver)
    values = rows_of_init(item, problem.data.n_given)
    if problem.data.given.used is not None:
        values = values[problem.data.given.used]
    resp = responsibilities_of(values, problem.n_experts)
    resp = (1.0 - _SOFTNESS) * resp + _SOFTNESS / problem.n_experts
    return "labels", from_responsibilities(solver, np.ascontiguousarray(resp.T))


def _grown(params: SparseParams, problem: Problem, solver: Solver) -> SparseParams:
    """A start from a fit of fewer experts: the worst explained are split until there are enough.

    What is split is seen through the columns that the fit uses and those that go best with the
    response: distances in very many columns tell nothing.
    """
    rng = keyed_rng(problem.seed, "split", 0)
    rows = problem.rows
    used = np.union1d(np.flatnonzero(params.active()), screened_columns(solver)[:_SEEN])
    design = np.column_stack([np.ones(len(rows.weight)), rows.X[:, used]])
    batch = Batch(rows.y, {"mean": design}, design, rows.weight, offset=rows.offset)
    theta = seen_theta(problem.family, params, used)
    resp, _ = e_step(problem.model.log_joint(theta, batch))
    while resp.shape[1] < problem.n_experts:
        worst = int(worst_explained(problem.model, batch, theta)[0])
        resp = split_rows(problem.model, batch, theta, resp, worst, rng)
        if resp.shape[1] < problem.n_experts:
            theta = theta_from_responsibilities(problem.model, batch, resp, rng)
    return from_responsibilities(solver, np.ascontiguousarray(resp.T))

"""Some of the rows of a penalised fit as a problem of their own, and others seen through it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from mixexperts._batch import Array
from mixexperts.em.init import keyed_rng
from mixexperts.em.sparse import SparseParams, SparseRows, log_likelihood, responsibilities
from mixexperts.estimators._data import Resident
from mixexperts.estimators._lasso_problem import Problem
from mixexperts.estimators._several import refuse_constant
from mixexperts.estimators._units import Given

# A column whose range is no wider than this share of its size does not vary.
_CONSTANT = 32.0 * float(np.finfo(float).eps)


def keyed_seed(seed: int, *key: Any) -> int:
    """A seed of its own for each key, whatever is done before or in parallel."""
    return int(keyed_rng(seed, " ".join(map(str, key)), 0).integers(2**31))


def part_of(problem: Problem, rows: Array, seed: int, *, standardize: bool) -> Problem:
    """The problem of some rows, standardised anew; columns that do not vary in them are left out.

    Parameters
    ----------
    problem : Problem
        Of all rows.
    rows : ndarray of int or bool of shape (m,) or (n,)
        Among the rows of positive weight.
    seed : int
        Of the starts.
    standardize : bool
        As the estimator has it.

    Returns
    -------
    Problem
        With the classes of all rows, and the names of all columns.

    Raises
    ------
    ValueError
        If the response does not vary in these rows.
    """
    own = _taken(problem.data.given, rows)
    data = Resident(own, seed=seed)
    refuse_constant(data, problem.family)
    varies = _varies(own.X)
    columns = problem.frame.expert_columns, problem.frame.gate_columns
    return Problem.of(
        problem.family,
        data,
        (columns[0][varies[columns[0]]], columns[1][varies[columns[1]]]),
        _names(problem),
        problem.n_experts,
        standardize,
        seed,
        problem.classes,
    )


def rows_under(problem: Problem, given: Given, rows: Array | None = None) -> SparseRows:
    """Rows as a problem standardises its own; ``rows`` (None: all) are among those of ``given``."""
    own = given if rows is None else _taken(given, rows)
    center, scale = np.zeros(len(problem.taken)), np.ones(len(problem.taken))
    maps = problem.frame.expert_map, problem.frame.gate_map
    for design, at in zip(maps, problem.room_columns, strict=True):
        center[at], scale[at] = design.center, design.scale
    return replace(
        problem.rows,
        X=np.asfortranarray((own.X[:, problem.taken] - center) / scale),
        y=problem.frame.response(own.y),
        weight=own.weight,
        offset=None if own.offset is None else own.offset / problem.unit,
    )


def held_out_score(problem: Problem, params: SparseParams, rows: SparseRows) -> float:
    """Mean log density per unit of weight of rows that :func:`rows_under` made, on y's scale."""
    total = float(rows.weight.sum())
    with np.errstate(all="ignore"):  # a density of zero
        found = log_likelihood(problem.family, rows, params)
    return (found + float(problem.frame.log_jacobian(total, total))) / total


def matching(resp: Array, target: Array, weight: Array) -> Array:
    """Order (K,) of the experts of ``resp`` (n, K) in which they are most like those of ``target``.

    Expert k of the target is the one that ``order[k]`` names: the assignment of the least sum of
    absolute differences of the responsibilities.
    """
    from scipy.optimize import linear_sum_assignment

    cost = np.stack(
        [weight @ np.abs(resp - target[:, [k]]) for k in range(target.shape[1])]
    )  # (K of the target, K)
    order: Array = linear_sum_assignment(cost)[1]
    return order


def all_responsibilities(problem: Problem, params: SparseParams, rows: SparseRows) -> Array:
    """Responsibilities (n, K); even ones where a row is out of the reach of all experts."""
    with np.errstate(all="ignore"):
        resp = responsibilities(problem.family, rows, params)
    found: Array = np.where(np.isfinite(resp), resp, 1.0 / params.n_experts)
    return found


def row_numbers(problem: Problem) -> Array:
    """For each row given, its number among those of positive weight; -1 for the others."""
    data = problem.data
    numbers: Array = np.full(data.n_given, -1)
    used = data.given.used
    used = np.arange(data.n_given) if used is None else used
    numbers[used] = np.arange(data.n_rows)
    return numbers


def _taken(given: Given, rows: Array) -> Given:
    offset = None if given.offset is None else given.offset[rows]
    return Given.of(given.X[rows], given.y[rows], offset, given.weight[rows], None, None)


def _varies(X: Array) -> Array:
    low, high = X.min(axis=0), X.max(axis=0)
    varies: Array = high - low > _CONSTANT * np.maximum(np.abs(low), np.abs(high))
    return varies


def _names(problem: Problem) -> tuple[str, ...]:
    """Names of the columns of X as far as a room uses them; the others have none."""
    names = [""] * problem.data.n_features
    maps = problem.frame.expert_map, problem.frame.gate_map
    columns = problem.frame.expert_columns, problem.frame.gate_columns
    for design, own in zip(maps, columns, strict=True):
        for j, name in zip(own, design.column_names(), strict=True):
            names[j] = name
    return tuple(names)

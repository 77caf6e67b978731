"""Some of the rows of a penalised fit as a problem of their own, and others seen through it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from mixexperts._batch import Array, weighted_mean
from mixexperts.em.init import keyed_rng
from mixexperts.em.sparse import (
    SparseFit,
    SparseParams,
    SparseRows,
    log_likelihood,
    responsibilities,
)
from mixexperts.errors import InferenceRefusedError
from mixexperts.estimators._data import Resident
from mixexperts.estimators._lasso_problem import Problem, centred, is_constant, spread_of
from mixexperts.estimators._several import refuse_constant
from mixexperts.estimators._units import Given


class ConstantPartError(ValueError):
    """The response does not vary in some of the rows."""


def keyed_seed(seed: int, *key: Any) -> int:
    """A seed of its own for each key, whatever is done before or in parallel."""
    return int(keyed_rng(seed, " ".join(map(str, key)), 0).integers(2**31))


def part_of(
    problem: Problem,
    rows: Array,
    seed: int,
    *,
    standardize: bool,
    columns: tuple[Array, Array] | None = None,
) -> Problem:
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
    columns : pair of ndarray of int, optional
        Columns of X for experts and gate, by default those of the problem.

    Returns
    -------
    Problem
        With the classes of all rows, and the names of all columns.

    Raises
    ------
    ConstantPartError
        If the response does not vary in these rows.
    """
    own = _taken(problem.data.given, rows)
    data = Resident(own, seed=seed)
    try:
        refuse_constant(data, problem.family)
    except ValueError as error:
        raise ConstantPartError(str(error)) from error
    varies = _varies(own)
    if columns is None:
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


class Parts:
    """What an estimator does with some of the rows, for inference by resampling."""

    standardize: bool

    def _checker(self) -> Any:
        """An estimator that checks data as the fit does."""
        return self

    def _settled(self, problem: Problem) -> Any:
        """The estimator with the form of penalty of all rows, whatever part of them it is given."""
        est: Any = self
        return est.set_params(**self._form(problem))

    def _form(self, problem: Problem) -> dict[str, bool]:
        est: Any = self
        if "by_scale" not in est.get_params(deep=False) or est.by_scale != "auto":
            return {}
        return {"by_scale": est._is_by_scale(problem)}

    def _without_constant(self, problem: Problem, rows: Array) -> dict[str, list[int]]:
        """Settings that leave out columns that do not vary in some rows; {} if all do."""
        varies = _varies(_taken(problem.data.given, rows))
        frame = problem.frame
        columns = {"expert_features": frame.expert_columns, "gate_features": frame.gate_columns}
        if all(varies[own].all() for own in columns.values()):
            return {}
        return {name: own[varies[own]].tolist() for name, own in columns.items()}

    def _row_numbers(self, problem: Problem) -> Array:
        return row_numbers(problem)

    def _tracked(self, problem: Problem, fit: SparseFit) -> Array:
        """Responsibilities (n, K) of the rows of a fit, in the final order of its experts."""
        order = problem.order(fit, self.gate_coding)  # type: ignore[attr-defined]
        return all_responsibilities(problem, fit.params, problem.rows)[:, order]

    def _selects(
        self, problem: Problem, rows: Array, number: int, target: Array
    ) -> tuple[Array, Array, Array] | None:
        """Columns of X that a fit of some rows selects; None where it is not sound.

        By each expert (K, n_features), numbered as in the responsibilities ``target`` (n, K), by
        the gate (n_features,), and by any of them.
        """
        est: Any = self
        seed = keyed_seed(problem.seed, "part", number)
        try:
            part = part_of(problem, rows, seed, standardize=bool(self.standardize))
        except ConstantPartError:
            return None
        if lacks_class(problem, rows) is not None:
            return None
        fit, _, penalty = est._solve(part, est._penalty(part))
        if fit.status not in ("converged", "max_iter"):
            return None
        params = centred(penalty, fit.params)
        seen = rows_under(part, problem.data.given)
        resp = all_responsibilities(part, params, seen)
        params = params.permute(matching(resp, target, seen.weight))
        experts = np.zeros((problem.n_experts, problem.data.n_features), dtype=bool)
        gate = np.zeros(problem.data.n_features, dtype=bool)
        experts[:, part.taken] = (params.coef != 0.0).any(axis=1)
        gate[part.taken] = (params.gate_coef != 0.0).any(axis=0)
        return experts, gate, experts.any(axis=0) | gate

    def _carried(self, problem: Problem, rows: Array, fitted: Any) -> tuple[Problem, SparseParams]:
        """Some rows with the columns that a fit of others selected, and its parameters there.

        Raises
        ------
        InferenceRefusedError
            If a selected column or the response does not vary in these rows, or they lack a
            class.
        """
        lost = lacks_class(problem, rows)
        if lost is None and problem.classes is not None:
            unseen = np.setdiff1d(problem.classes, fitted.classes_)
            lost = plain(unseen[0]) if len(unseen) else None
        if lost is not None:
            raise InferenceRefusedError(
                f"class {lost!r} is missing in one of the two parts of the rows; use another "
                "random_state, or leave out classes of few rows"
            )
        used = [
            columns[coef.reshape(-1, len(columns)).any(axis=0)]
            for columns, coef in (
                (fitted.frame_.expert_columns, fitted.coef_),
                (fitted.frame_.gate_columns, fitted.gate_coef_),
            )
        ]
        try:
            part = part_of(
                problem, rows, problem.seed, standardize=True, columns=(used[0], used[1])
            )
        except ConstantPartError as error:
            raise InferenceRefusedError(f"in the rows that estimate {error}") from error
        kept = part.frame.expert_columns, part.frame.gate_columns
        dropped = np.setdiff1d(np.concatenate(used), np.concatenate(kept))
        if len(dropped):
            raise InferenceRefusedError(
                f"the selected column {_names(problem)[dropped[0]]!r} does not vary in the rows "
                "that estimate, so that they say nothing of it; use another random_state, or a "
                "smaller fraction"
            )
        return part, _carried_params(part, fitted)


def _carried_params(part: Problem, fitted: Any) -> SparseParams:
    """Parameters of a fitted estimator on the scale of a problem of some of its columns."""
    frame, (experts, gate) = part.frame, part.room_columns
    at = _places(fitted.frame_.expert_columns, frame.expert_columns)
    gate_at = _places(fitted.frame_.gate_columns, frame.gate_columns)
    nominal = part.family.nominal
    slopes = fitted.coef_[..., at] if nominal else fitted.coef_[:, None, at]
    level = fitted.intercept_ if nominal else fitted.intercept_[:, None]
    coef = np.zeros((*slopes.shape[:2], len(part.taken)))
    coef[:, :, experts] = slopes * frame.expert_map.scale / part.unit
    intercept = (level + slopes @ frame.expert_map.center - frame.loc) / part.unit
    gate_slopes = fitted.gate_coef_[:, gate_at]
    gate_coef = np.zeros((part.n_experts, len(part.taken)))
    gate_coef[:, gate] = gate_slopes * frame.gate_map.scale
    gate_intercept = fitted.gate_intercept_ + gate_slopes @ frame.gate_map.center
    shapes: dict[str, Array] = {}
    if len(fitted.theta_.expert) > 1:
        raw = fitted.frame_.raw(fitted.model_, fitted.theta_)
        raw = {**raw, "coef": raw["coef"][..., at], "gate_coef": gate_slopes}
        theta = frame.engine(part.model, raw)
        shapes = {name: values for name, values in theta.expert.items() if name != "coef"}
    return SparseParams(intercept, coef, gate_intercept, gate_coef, shapes)


def _places(columns: Array, wanted: Array) -> Array:
    """Where the columns wanted stand among columns in any order."""
    order = np.argsort(columns)
    places: Array = order[np.searchsorted(columns, wanted, sorter=order)]
    return places


def lacks_class(problem: Problem, rows: Array) -> Any:
    """Label of a class that none of the rows is of; None if there is none."""
    if problem.classes is None:
        return None
    seen = np.isin(np.arange(len(problem.classes)), problem.data.given.y[rows])
    if seen.all():
        return None
    return plain(problem.classes[~seen][0])


def plain(label: Any) -> Any:
    """A label as messages show it."""
    return label.item() if isinstance(label, np.generic) else label


def _taken(given: Given, rows: Array) -> Given:
    offset = None if given.offset is None else given.offset[rows]
    return Given.of(given.X[rows], given.y[rows], offset, given.weight[rows], None, None)


def _varies(given: Given) -> Array:
    """Columns (n_features,) bool that a problem of these rows does not refuse as constant."""
    X, weight = given.X, given.weight
    varies: Array = ~is_constant(X, spread_of(X, weighted_mean(X, weight), weight))
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

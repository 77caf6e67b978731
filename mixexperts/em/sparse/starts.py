"""Starts of penalised fits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mixexperts._batch import Array, Batch
from mixexperts.em.init import initial_theta, keyed_rng
from mixexperts.em.model import Model
from mixexperts.em.sparse.problem import Point, Problem, narrowed
from mixexperts.em.sparse.rows import SparseParams
from mixexperts.em.sparse.steps import m_step
from mixexperts.experts.multinomial import Multinomial
from mixexperts.gates.softmax import Softmax
from mixexperts.kernels.numpy_ import e_step

#: The kinds that ``init="auto"`` runs through, in turn.
AUTO = ("kmeans", "residual", "elemental", "random")
#: The same where columns are as many as rows: short runs find what single draws miss.
AUTO_WIDE = (
    "kmeans", "residual", "small_em", "elemental", "random",
    "kmeans", "residual", "elemental", "random", "elemental",
)  # fmt: skip
# Columns that starts look at: those most correlated with the response.
_SEEN = 6
# Starts that draw their columns take them from as many of the best.
_DRAWN_FROM = 40
_ROUNDS = 2


def named_starts(problem: Problem, init: str, n_init: int) -> list[tuple[str, int]]:
    """Kinds of ``n_init`` starts, and of each the number among its kind."""
    wide = len(problem.XT) >= len(problem.rows.weight)
    kinds = (AUTO_WIDE if wide else AUTO) if init == "auto" else (init,)
    chosen = [kinds[i % len(kinds)] for i in range(n_init)]
    return [(kind, chosen[:i].count(kind)) for i, kind in enumerate(chosen)]


def initial_params(problem: Problem, kind: str, index: int, seed: int) -> SparseParams:
    """Parameters of a start: those of :mod:`mixexperts.em.init`, on a few columns.

    Distances between rows in very many columns tell nothing. Even starts of a kind take the
    columns that go best with the response, odd ones draw theirs among more of them.
    """
    rng = keyed_rng(seed, kind, index)
    if problem.n_experts == 1:
        return from_responsibilities(problem, np.ones((1, len(problem.rows.weight))))
    columns = _columns(problem, index, rng)
    rows = problem.rows
    design = np.column_stack([np.ones(len(rows.weight)), problem.XT[columns].T])
    batch = Batch(
        y=rows.y, designs={"mean": design}, Z=design, weight=rows.weight, offset=rows.offset
    )
    model = Model(Softmax(), problem.family.expert)
    theta = initial_theta(model, batch, problem.n_experts, kind, rng)
    resp, _ = e_step(model.log_joint(theta, batch))
    return from_responsibilities(problem, np.ascontiguousarray(resp.T))


def _columns(problem: Problem, index: int, rng: np.random.Generator) -> Array:
    order = screened_columns(problem)
    if len(order) <= _SEEN:
        return order
    if index % 2 == 0:
        return order[:_SEEN]
    return np.sort(rng.choice(order[:_DRAWN_FROM], _SEEN, replace=False))


def screened_columns(problem: Problem) -> Array:
    """Columns by their correlation with the response, most correlated first."""
    rows = problem.rows
    batch = Batch(
        y=rows.y,
        designs={"mean": np.ones((len(rows.weight), 1))},
        Z=np.ones((len(rows.weight), 1)),
        weight=rows.weight,
        offset=rows.offset,
    )
    expert = problem.family.expert
    if isinstance(expert, Multinomial):
        values = (rows.y[:, None] == np.arange(problem.family.n_predictors)).astype(float)
    else:
        values = expert.working_response(batch).reshape(len(rows.weight), -1)
    values = values - rows.weight @ values / problem.total
    size = np.sqrt(np.maximum((problem.XT**2) @ rows.weight, 1e-300))
    with np.errstate(invalid="ignore"):
        strength = np.abs(problem.XT @ (values * rows.weight[:, None])).max(axis=1) / size
    for mask in problem.masks:
        if mask is not None and problem.masks[0] is not None and problem.masks[1] is not None:
            strength = np.where(problem.masks[0] | problem.masks[1], strength, -1.0)
    # rounding must not decide between columns that are alike
    order = np.argsort(-np.round(strength / (strength.max(initial=0.0) or 1.0), 9), kind="stable")
    return order[strength[order] > 0.0] if (strength > 0.0).any() else order[:1]


def from_responsibilities(problem: Problem, resp: Array, rounds: int = _ROUNDS) -> SparseParams:
    """Parameters fitted to responsibilities (K, n) by penalised M-steps from no slopes."""
    rows = problem.rows
    K, p = problem.n_experts, len(problem.XT)
    intercept, shapes = problem.family.start(rows.y, rows.offset, resp, rows.weight)
    mass = np.maximum(resp @ rows.weight, 1e-12 * problem.total)
    gate_intercept = np.log(mass / mass.sum())
    params = SparseParams(
        intercept,
        np.zeros((K, problem.family.n_predictors, p)),
        gate_intercept - gate_intercept[-1],
        np.zeros((K, p)),
        shapes,
    )
    for _ in range(rounds):
        point = _held(problem, params, resp)
        expert, gate = problem.distances(point)
        distance = np.maximum(expert, gate)
        columns = params.active() | _strongest(distance, int(min(p, max(32, len(rows.weight) / 8))))
        columns = problem.whole_groups(columns)
        number = np.flatnonzero(columns)
        part = problem.restricted(number)
        point = _held(part, narrowed(params, number), resp)
        moved, _, _ = m_step(part, point, 1e-5 * problem.total)
        params = problem.spread(moved, number)
    return params


def _held(problem: Problem, params: SparseParams, resp: Array) -> Point:
    """The point of some parameters, with responsibilities that are given."""
    return replace(problem.at(params), resp=resp)


def _strongest(distance: Array, most: int) -> Array:
    chosen = distance > 0.0
    if int(chosen.sum()) > most:
        chosen = np.zeros(len(distance), dtype=bool)
        chosen[np.argsort(-distance, kind="stable")[:most]] = True
    return chosen

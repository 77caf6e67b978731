"""Members of a composite: experts seen one by one, and which of them suits which rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mixexperts._batch import Array, Batch, Params
from mixexperts._design import DesignMap
from mixexperts.experts.base import Derivatives, Expert

if TYPE_CHECKING:
    from mixexperts.experts._composite import Composite

# Log densities below it are all the same: a row out of reach.
_OUT_OF_REACH = -30.0

NO_COLUMNS = DesignMap(
    (), np.empty(0), np.empty(0), np.empty((0, 0), dtype=np.int64), intercept=False
)


@dataclass(frozen=True, slots=True)
class Member:
    """Expert k by itself: its family, its parameters as those of one expert, its view of rows.

    Attributes
    ----------
    k : int
    family : Expert
    params : mapping of str to ndarray
    loc, scale : float
        The family sees the response as ``(y - loc) / scale``.
    batch : Batch
    allowed : ndarray of bool of shape (n,) or None
        Rows that the expert can have produced; None: all of them.
    """

    k: int
    family: Expert
    params: Params
    loc: float
    scale: float
    batch: Batch
    allowed: Array | None


def regresses(family: Expert) -> bool:
    """Whether a family has coefficients of the features."""
    return family.uses_features and "coef" in family.param_names


def log_prob_of(m: Member) -> Array:
    """Log density (n, 1) of the response as given; -inf where it is impossible."""
    log_prob = m.family.log_prob(m.params, m.batch) - np.log(m.scale)
    return log_prob if m.allowed is None else np.where(m.allowed[:, None], log_prob, -np.inf)


def take_rows(batch: Batch, rows: Array) -> Batch:
    """Some of the rows, each a unit of its own."""
    return Batch(
        batch.y[rows],
        {name: design[rows] for name, design in batch.designs.items()},
        np.empty((rows.size, 0)),
        np.ones(rows.size),
        offset=None if batch.offset is None else batch.offset[rows],
    )


def same_design(left: Array, right: Array) -> bool:
    """Whether two designs are one and the same: the object, or a column of ones."""
    if left is right:
        return True
    alike = left.shape == right.shape and left.shape[1] == 1
    return bool(alike and (left == 1.0).all() and (right == 1.0).all())


def best_places(
    composite: Composite, batch: Batch, resp: Array, labels: Array, rng: np.random.Generator
) -> Array:
    """The assignment of clusters to families with the largest log-likelihood."""
    from scipy.optimize import linear_sum_assignment

    rows = batch.spread_units(resp)
    weight = batch.spread_units(batch.weight)[:, None] * rows
    allowed = composite.allowed(batch.y, len(labels))
    gain = np.zeros((len(labels), len(labels)))  # of the family of expert k, cluster c
    for k in np.unique(labels):
        unit = composite.measure(batch, k, allowed[k])
        view = composite.view(batch, k, *unit, allowed[k])
        for c in range(len(labels)):
            own = composite.fit_one(batch, k, rows[:, c], allowed[k], unit, rng)
            log_f = composite.families[k].log_prob(own, view)[:, 0] - np.log(unit[1])
            if allowed[k] is not None:
                log_f = np.where(allowed[k], log_f, _OUT_OF_REACH)
            gain[labels == k, c] = weight[:, c] @ np.maximum(log_f, _OUT_OF_REACH)
    order: Array = linear_sum_assignment(-gain)[1]
    return order


def joint_derivatives(members: list[Member], heads: list[int], rests: list[int]) -> Derivatives:
    """Derivatives of all members in predictors that they share where they can.

    ``heads`` and ``rests`` are their numbers of penalised coefficients and of other parameters.
    """
    n, n_experts = members[0].batch.n_rows, len(members)
    found = [m.family.derivatives(m.params, m.batch) for m in members]
    designs: list[Array] = []
    taken: list[dict[int, int]] = []  # by predictor: expert, and which of its own it is
    for k, own in enumerate(found):
        for t, design in enumerate(own.designs):
            place = next(
                (i for i, d in enumerate(designs) if k not in taken[i] and same_design(d, design)),
                len(designs),
            )
            if place == len(designs):
                designs.append(design)
                taken.append({})
            taken[place][k] = t
    size = len(designs)
    slope, curve = np.zeros((size, n, n_experts)), np.zeros((size, size, n, n_experts))
    for k, (m, own) in enumerate(zip(members, found, strict=True)):
        places = {users[k]: i for i, users in enumerate(taken) if k in users}
        inside = 1.0 if m.allowed is None else m.allowed
        for t, i in places.items():
            slope[i, :, k] = own.slope[t, :, 0] * inside
            for u, j in places.items():
                curve[i, j, :, k] = own.curve[t, u, :, 0] * inside
    merge = _merging(heads, rests, designs, taken, n_experts)
    return Derivatives(tuple(designs), slope, curve, (False,) * size, merge)


def _merging(
    heads: list[int],
    rests: list[int],
    designs: list[Array],
    taken: list[dict[int, int]],
    n_experts: int,
) -> Array:
    """Which coefficients of the predictors stand where in :meth:`pack`."""
    widths = [design.shape[1] for design in designs]
    starts = np.cumsum([0, *(n_experts * width for width in widths)])
    rest_at = np.cumsum([sum(heads), *rests])
    head_at = np.cumsum([0, *heads])
    merge = np.zeros((starts[-1], sum(heads) + sum(rests)))
    for k in range(n_experts):
        order = sorted((users[k], i) for i, users in enumerate(taken) if k in users)
        rows = np.concatenate(
            [starts[i] + k * widths[i] + np.arange(widths[i]) for _, i in order]
            or [np.empty(0, dtype=np.int64)]
        )
        columns = np.concatenate(
            [head_at[k] + np.arange(heads[k]), rest_at[k] + np.arange(rests[k])]
        )
        merge[rows, columns] = 1.0
    return merge

"""The observed information, as a sum over rows."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from mixexperts._batch import Array, Batch, Stats, Theta
from mixexperts.em.information_units import unit_information
from mixexperts.em.model import Model
from mixexperts.em.passes import fused_information
from mixexperts.errors import UnsupportedCombinationError
from mixexperts.experts.base import Derivatives
from mixexperts.kernels import numpy_

# Rows taken at a time: what is made of them stays in the cache.
_ROWS = 2048


def has_information(model: Model) -> bool:
    """Whether gate and family depend on their parameters through linear predictors."""
    return model.gate.has_logits and model.expert.has_derivatives


def observed_information(
    model: Model, theta: Theta, batch: Batch, *, compiled: bool = True
) -> Stats:
    """Minus the Hessian (P, P) of the log-likelihood of a block with respect to ``pack``.

    Louis' identity (1982): the information about the complete data less the covariance of its
    score under the responsibilities. Both are weighted Grams of the designs, since gate and
    families depend on their parameters through linear predictors.

    Parameters
    ----------
    model, theta, batch
        As in a pass.
    compiled : bool, default=True
        Whether the compiled sums may serve, where they can.

    Returns
    -------
    dict with ``"information"``, an ndarray of shape (P, P) that adds over blocks.

    Raises
    ------
    UnsupportedCombinationError
        If the gate or the family has another form.
    """
    if not has_information(model):
        raise UnsupportedCombinationError(
            f"no observed information of the gate {model.gate.name!r} with the expert "
            f"{model.expert.name!r}"
        )
    found = fused_information(model, theta, batch) if compiled else None
    if found is not None:
        return {"information": model.expert.tie(theta.expert, found)}
    blocks = (_rows_of(model, theta, block.dense()) for block in batch.split(_ROWS))
    return {"information": functools.reduce(np.add, blocks)}


def _rows_of(model: Model, theta: Theta, batch: Batch) -> Array:
    joint = model.log_joint(theta, batch)
    seen = _block(model, theta, batch, joint, model.expert.derivatives(theta.expert, batch))
    if not model.expert.truncates:
        return seen
    # The log-likelihood is that of the rows less the log of their chance to be sampled.
    sampled = model.log_sampled(theta, batch)
    derivatives = model.expert.inside_derivatives(theta.expert, batch)
    return seen - _block(model, theta, batch, sampled, derivatives)


def _block(
    model: Model, theta: Theta, batch: Batch, joint: Array, derivatives: Derivatives
) -> Array:
    if batch.unit is not None:
        return unit_information(model, theta, batch, joint, derivatives)
    Z = model.gate.logit_design(theta.gate, batch)
    score = model.gate.log_score(theta.gate, batch)
    resp, _ = numpy_.e_step(joint)
    # rows of experts: loops run over the rows of the block
    weight = np.where(batch.weight > 0.0, batch.weight, 0.0)
    rows = _Rows(np.ascontiguousarray(resp.T), np.exp(numpy_.log_softmax(score)).T, derivatives)
    groups = [_Group(Z, None, False)] * (resp.shape[1] > 1)
    groups += [_Group(d, t, derivatives.tied[t]) for t, d in enumerate(derivatives.designs)]
    blocks: list[list[Array]] = [[np.empty(0)] * len(groups) for _ in groups]
    for i, left in enumerate(groups):
        for j in range(i, len(groups)):
            weights = rows.pair(left.family, groups[j].family) * weight
            blocks[i][j] = _assemble(left, groups[j], weights, i == j)
            blocks[j][i] = blocks[i][j].T
    information: Array = np.block(blocks) if groups else np.empty((0, 0))
    return _merged(information, derivatives.merge)


def _merged(information: Array, merge: Array | None) -> Array:
    """The same in the free parameters of the family, where these are fewer."""
    if merge is None:
        return information
    cut = len(information) - len(merge)
    full = np.eye(len(information), cut + merge.shape[1])
    full[cut:, cut:] = merge
    merged: Array = full.T @ information @ full
    return merged


@dataclass(frozen=True)
class _Group:
    """Predictors that share a design: the gate's logits (None), or one predictor of the family."""

    design: Array
    family: int | None
    tied: bool


@dataclass(frozen=True)
class _Rows:
    """Responsibilities and gate weights, (K, n), and what pairs of predictors weigh in each row."""

    resp: Array
    prob: Array
    derivatives: Derivatives

    def pair(self, s: int | None, t: int | None) -> Array:
        """Row weights of the products of two groups, (a, b, n)."""
        resp, prob = self.resp, self.prob
        own = np.eye(len(resp))[:, :, None]
        if s is None and t is None:
            complete = prob[:-1, None] * (own[:-1, :-1] - prob[None, :-1])
            lost = resp[:-1, None] * (own[:-1, :-1] - resp[None, :-1])
            return complete - lost
        right = self._slope(t)
        if s is None:
            return (resp[:-1, None] - own[:-1]) * right[None]
        pairs = self._slope(s)[:, None] * right[None]
        curve, slope = self.derivatives.curve, self.derivatives.slope
        k = np.arange(len(resp))
        pairs[k, k] += resp * (curve[s, t] - slope[s] * slope[t]).T
        return pairs

    def _slope(self, t: int | None) -> Array:
        slope: Array = self.resp * self.derivatives.slope[t].T
        return slope


def _assemble(left: _Group, right: _Group, weights: Array, same: bool) -> Array:
    """Weighted products of two groups' designs, in the order of ``pack``."""
    if left.tied:
        weights = weights.sum(axis=0, keepdims=True)
    if right.tied:
        weights = weights.sum(axis=1, keepdims=True)
    a, b, n = weights.shape
    if same:  # symmetric in the predictors
        first, second = np.tril_indices(a)
        half = _grams(weights[first, second], left.design, right.design)
        products = np.empty((a, a, *half.shape[1:]))
        products[first, second] = half
        products[second, first] = half.transpose(0, 2, 1)
    else:
        products = _grams(weights.reshape(a * b, n), left.design, right.design)
        products = products.reshape(a, b, *products.shape[1:])
    p, q = products.shape[2:]
    block: Array = products.transpose(0, 2, 1, 3).reshape(a * p, b * q)
    return block


def _grams(weights: Array, left: Array, right: Array) -> Array:
    """``sum_i weights[g, i] left[i, p] right[i, q]``, (G, p, q)."""
    p, q = left.shape[1], right.shape[1]
    if q == 1 or p == 1:
        flat: Array = (weights * right[:, 0]) @ left if q == 1 else (weights * left[:, 0]) @ right
        return flat.reshape(len(weights), p, q)
    columns, others = np.ascontiguousarray(left.T), np.ascontiguousarray(right.T)
    if left is not right:
        products = (columns[:, None] * others[None]).reshape(p * q, len(left))
        crossed: Array = (weights @ products.T).reshape(len(weights), p, q)
        return crossed
    rows, cols = np.tril_indices(p)
    products = np.empty((len(rows), len(left)))
    for i in range(p):
        at = i * (i + 1) // 2
        np.multiply(columns[i], columns[: i + 1], out=products[at : at + i + 1])
    half = weights @ products.T
    square = np.empty((len(weights), p, p))
    square[:, rows, cols] = half
    square[:, cols, rows] = half
    return square


def penalty_information(model: Model, theta: Theta) -> Array | None:
    """Hessian (P, P) of both penalties with respect to ``pack``; None if one is not smooth."""
    size = model.pack(theta).size
    hessian = np.zeros((size, size))
    cut = model.gate.n_params(theta.gate)
    for room, penalty, params in model.penalized_rooms(theta):
        coef = room.penalized_coef(params)
        diagonal = penalty.curvature(coef, room.penalized(coef.shape[1]))
        if diagonal is None:
            return None
        if room is model.gate:
            # the gate's penalty acts on coefficients centred over the K experts
            n_experts, q = coef.shape
            centre = (np.eye(n_experts) - 1.0 / n_experts)[:, :-1]
            block = np.einsum("ka,kq,kb->aqb", centre, diagonal, centre)
            full = np.zeros((n_experts - 1, q, n_experts - 1, q))
            full[:, np.arange(q), :, np.arange(q)] = block.transpose(1, 0, 2)
            hessian[:cut, :cut] += full.reshape(cut, cut)
        else:
            own = model.expert.penalty_information(params, diagonal)
            hessian[cut : cut + len(own), cut : cut + len(own)] += own
    return hessian

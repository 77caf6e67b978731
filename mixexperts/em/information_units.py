"""The observed information where several rows share one expert."""

from __future__ import annotations

import numpy as np

from mixexperts._batch import Array, Batch, Theta
from mixexperts.em.model import Model
from mixexperts.experts.base import Derivatives
from mixexperts.kernels import numpy_


def unit_information(
    model: Model, theta: Theta, batch: Batch, joint: Array, derivatives: Derivatives
) -> Array:
    """Minus the Hessian (P, P) of the log-likelihood of whole sampling units.

    Louis' identity (1982), as for single rows, but the score of the complete data is that of a
    unit: sums over its rows. With S_uk the score of unit u in the parameters of expert k, r its
    responsibilities, and I the information about the complete data,

    ``sum_u w_u (I_u - sum_k r_uk S_uk S_uk' + (sum_k r_uk S_uk) (sum_k r_uk S_uk)')``.
    """
    Z = model.gate.logit_design(theta.gate, batch)
    prob = np.exp(numpy_.log_softmax(model.gate.log_score(theta.gate, batch)))
    resp, _ = numpy_.e_step(joint)
    weight = np.where(batch.weight > 0.0, batch.weight, 0.0)
    free = resp.shape[1] - 1
    gate = _gate_block(Z, prob, resp, weight)
    if not derivatives.designs:  # experts without parameters
        return gate
    scores = [
        _unit_scores(derivatives, t, batch) for t in range(len(derivatives.designs))
    ]  # of predictor t: (u, K, p_t)
    expert = _complete(derivatives, batch.spread_units(resp * weight[:, None]))
    sizes = [score.shape[2] for score in scores]
    n_experts = free + 1
    mean = np.concatenate(
        [(resp[:, :, None] * score).reshape(len(resp), -1) for score in scores], axis=1
    )
    expert += mean.T @ (mean * weight[:, None])
    columns = _columns(sizes, n_experts)
    cross = np.zeros((free * Z.shape[1], mean.shape[1]))
    if free:
        pulled = (resp[:, :free, None] * Z[:, None, :]).reshape(len(resp), -1)
        cross = (pulled * weight[:, None]).T @ mean
    for k in range(n_experts):
        own = np.concatenate([score[:, k] for score in scores], axis=1)
        weighted = own * (weight * resp[:, k])[:, None]
        expert[np.ix_(columns[k], columns[k])] -= own.T @ weighted
        if k < free:
            rows = slice(k * Z.shape[1], (k + 1) * Z.shape[1])
            cross[rows, columns[k]] -= Z.T @ weighted
    merge = _merging(sizes, n_experts, derivatives.tied)
    merge = merge if derivatives.merge is None else merge @ derivatives.merge
    information: Array = np.block(
        [[gate, cross @ merge], [(cross @ merge).T, merge.T @ expert @ merge]]
    )
    return information


def _gate_block(Z: Array, prob: Array, resp: Array, weight: Array) -> Array:
    """Complete less lost information about the gate's logits, (K-1)q by (K-1)q."""
    free, q = resp.shape[1] - 1, Z.shape[1]
    block = np.empty((free * q, free * q))
    for a in range(free):
        for b in range(a + 1):
            complete = prob[:, a] * (float(a == b) - prob[:, b])
            lost = resp[:, a] * (float(a == b) - resp[:, b])
            part = Z.T @ (Z * (weight * (complete - lost))[:, None])
            block[a * q : (a + 1) * q, b * q : (b + 1) * q] = part
            block[b * q : (b + 1) * q, a * q : (a + 1) * q] = part.T
    return block


def _unit_scores(derivatives: Derivatives, t: int, batch: Batch) -> Array:
    """Score of each unit in the coefficients of predictor t of each expert, (u, K, p_t)."""
    rows = derivatives.slope[t][:, :, None] * derivatives.designs[t][:, None, :]
    return batch.sum_units(rows)


def _complete(derivatives: Derivatives, weight: Array) -> Array:
    """Information about the complete data, predictor by predictor; ``weight`` (n, K)."""
    sizes = [design.shape[1] for design in derivatives.designs]
    n_experts = weight.shape[1]
    columns = _columns(sizes, n_experts)
    starts = np.cumsum([0, *sizes])
    full = np.zeros((n_experts * starts[-1], n_experts * starts[-1]))
    for k in range(n_experts):
        for s, left in enumerate(derivatives.designs):
            for t, right in enumerate(derivatives.designs):
                curve = (weight[:, k] * derivatives.curve[s, t][:, k])[:, None]
                rows = columns[k][starts[s] : starts[s + 1]]
                cols = columns[k][starts[t] : starts[t + 1]]
                full[np.ix_(rows, cols)] = left.T @ (right * curve)
    return full


def _columns(sizes: list[int], n_experts: int) -> list[Array]:
    """Where each expert's coefficients stand: predictor by predictor, then expert by expert."""
    columns = []
    for k in range(n_experts):
        at, found = 0, []
        for p in sizes:
            found.append(np.arange(at + k * p, at + (k + 1) * p))
            at += n_experts * p
        columns.append(np.concatenate(found))
    return columns


def _merging(sizes: list[int], n_experts: int, tied: tuple[bool, ...]) -> Array:
    """The matrix that adds up coefficients that all experts share."""
    blocks = [
        np.tile(np.eye(p), (n_experts, 1)) if one else np.eye(n_experts * p)
        for p, one in zip(sizes, tied, strict=True)
    ]
    merge = np.zeros((sum(len(b) for b in blocks), sum(b.shape[1] for b in blocks)))
    row = column = 0
    for block in blocks:
        merge[row : row + len(block), column : column + block.shape[1]] = block
        row, column = row + len(block), column + block.shape[1]
    return merge

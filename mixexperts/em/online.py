"""Learning block by block, each read once: stochastic approximation of EM."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mixexperts._archive import saveable
from mixexperts._batch import Array, Batch, Theta
from mixexperts.em.information import penalty_information
from mixexperts.em.model import Model, em_pass
from mixexperts.errors import UnsupportedCombinationError
from mixexperts.experts.base import Expert
from mixexperts.gates.base import Gate
from mixexperts.kernels import numpy_

# Units of a block that its information is taken from; the gradient is that of all.
_UNITS = 1000
# Step of the differences, in the engine's units: wide enough to see the mean curvature of
# families whose gradient has jumps, as that of Laplace.
_STEP = 0.02
# Longest step before it is damped, in standard deviations of one unit.
_LONGEST = 0.5
# Smallest eigenvalue of the information that counts, relative to the largest.
_SMALLEST = 1e-9
# Weight of late parameters in the average; 0 weighs all alike.
_LATE = 1.0
_MAX_HALVINGS = 20


@saveable("online")
@dataclass(frozen=True)
class Online:
    """Where learning from blocks stands.

    Attributes
    ----------
    theta : Theta
        The last parameters.
    average : Theta
        Their average, weighted towards the late ones.
    information : ndarray of shape (P, P)
        Running mean of the information about the complete data, per unit of weight.
    share : ndarray of shape (K,)
        Running mean of the responsibilities.
    weight, row_weight : float
        Sums of the weights seen, over sampling units and over rows.
    history : ndarray of shape (n_blocks,)
        Mean log-likelihood per unit of each block, at the parameters before it.
    """

    theta: Theta
    average: Theta
    information: Array
    share: Array
    weight: float
    row_weight: float
    history: Array


def begin(
    model: Model, theta: Theta, batch: Batch, share: Array, weight: float, row_weight: float
) -> Online:
    """Go on from parameters that were fitted to rows of so much weight."""
    information = complete_information(model, theta, batch)
    return Online(theta, theta, information, share, weight, row_weight, np.empty(0))


def learn(model: Model, state: Online, batch: Batch, power: float) -> Online:
    r"""Learn from one block.

    With N the weight seen so far, m that of the block, and :math:`\gamma = (N / m)^{-power}`,

    .. math::
        H &\leftarrow H + \gamma (H_b - H) \\
        \theta &\leftarrow \theta + \gamma H^{-1} s_b / m

    where :math:`s_b` is the gradient of the block's log-likelihood, by Fisher's identity that of
    the expected complete one, and :math:`H_b` the information about the complete data per unit.
    To first order this is the online EM of Cappe and Moulines (2009), whose averaged statistics
    of an exponential family do the same; it needs gradients only, and so serves every gate and
    family.

    References
    ----------
    Titterington, D. M. (1984). Recursive parameter estimation using incomplete data. Journal of
    the Royal Statistical Society B 46, 257-267.
    Cappe, O. and Moulines, E. (2009). On-line expectation-maximization algorithm for latent data
    models. Journal of the Royal Statistical Society B 71, 593-613.
    Polyak, B. T. and Juditsky, A. B. (1992). Acceleration of stochastic approximation by
    averaging. SIAM Journal on Control and Optimization 30, 838-855.
    Shamir, O. and Zhang, T. (2013). Stochastic gradient descent for non-smooth optimization:
    convergence results and optimal averaging schemes. ICML.
    """
    block_weight = float(batch.weight.sum())
    total = state.weight + block_weight
    blocks = total / block_weight
    gamma = blocks**-power
    scaled = model.rescaled(block_weight)
    with np.errstate(all="ignore"):
        stats = em_pass(scaled, state.theta, batch)
    value = float(stats["log_likelihood"]) / block_weight
    information = state.information + gamma * (
        complete_information(model, state.theta, batch) - state.information
    )
    step = _newton(information, scaled.score(state.theta, stats) / block_weight)
    here = model.pack(state.theta)
    theta = state.theta
    floor = stats["log_likelihood"] - scaled.penalty_value(theta)
    for halving in range(_MAX_HALVINGS):
        trial = model.unpack(here + 0.5**halving * gamma * step, state.theta)
        with np.errstate(all="ignore"):
            found = em_pass(model, trial, batch)["log_likelihood"] - scaled.penalty_value(trial)
        # The step ascends the block's own likelihood. Where it falls, the step was too long for
        # its quadratic model, which happens far from a maximum only.
        if np.isfinite(found) and not found < floor and not model.at_boundary(trial):
            theta = trial
            break
    late = min(1.0, (_LATE + 1.0) / (blocks + _LATE))
    mean = model.pack(state.average)
    average = model.unpack(mean + late * (model.pack(theta) - mean), theta)
    mass = stats.get("mass", stats["expert.mass"]) / block_weight
    rows = float(batch.spread_units(batch.weight[:, None]).sum())
    return replace(
        state,
        theta=theta,
        average=average,
        information=information,
        share=state.share + gamma * (mass - state.share),
        weight=total,
        row_weight=state.row_weight + rows,
        history=np.append(state.history, value),
    )


def _newton(information: Array, score: Array) -> Array:
    """The step, shortened where it is long; directions without information are left."""
    values, vectors = np.linalg.eigh(information)
    size = np.abs(values)
    keep = size > _SMALLEST * size.max(initial=0.0)
    along = np.where(keep, vectors.T @ score, 0.0) / np.where(keep, size, 1.0)
    length = float(np.sqrt(size @ along**2))
    step: Array = vectors @ along
    return step * min(1.0, _LONGEST / length) if length > 0.0 else step


def complete_information(model: Model, theta: Theta, batch: Batch) -> Array:
    """Information (P, P) about the complete data per unit of weight, of part of a block.

    Differences of the gradient of the expected complete log-likelihood at fixed
    responsibilities, and the Hessian of the penalties.

    Raises
    ------
    UnsupportedCombinationError
        If a penalty is not smooth.
    """
    penalty = penalty_information(model, theta)
    if penalty is None:
        raise UnsupportedCombinationError(
            "partial_fit takes gradients, which this penalty lacks at zero; use Ridge or none"
        )
    if batch.n_units > _UNITS:
        batch = batch.pick(np.unique(np.linspace(0, batch.n_units - 1, _UNITS).astype(np.int64)))
    batch = batch.dense()
    total = float(batch.weight.sum())
    with np.errstate(all="ignore"):
        resp, _ = numpy_.e_step(model.log_joint(theta, batch))
        resp = np.where(np.isfinite(resp), resp, 0.0) * batch.weight[:, None]
        gate = _differences(model.gate, theta.gate, batch, resp)
        expert = _differences(model.expert, theta.expert, batch, batch.spread_units(resp))
    cut = len(gate)
    penalty[:cut, :cut] += gate / total
    penalty[cut:, cut:] += expert / total
    return penalty


def _differences(room: Gate | Expert, params: object, batch: Batch, weight: Array) -> Array:
    """Minus the derivative of a room's gradient under fixed weights."""

    def gradient(point: object) -> Array:
        return room.score(point, room.accumulate(point, batch, weight))  # type: ignore[arg-type]

    at = room.pack(params)  # type: ignore[arg-type]
    columns = np.zeros((len(at), len(at)))
    for j in range(len(at)):
        move = np.zeros_like(at)
        move[j] = _STEP * max(1.0, abs(at[j]))
        ends = [gradient(room.unpack(at + sign * move, params)) for sign in (-1.0, 1.0)]  # type: ignore[arg-type]
        columns[j] = (ends[0] - ends[1]) / (2.0 * move[j])
    columns = np.where(np.isfinite(columns), columns, 0.0)
    symmetric: Array = 0.5 * (columns + columns.T)
    return symmetric

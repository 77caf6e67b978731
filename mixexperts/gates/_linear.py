"""Gates with logits that are linear in a design."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mixexperts._batch import Array, Batch, Params, Stats, dense
from mixexperts._design import DesignMap
from mixexperts.gates.base import Gate
from mixexperts.kernels import numpy_ as kernels
from mixexperts.penalties.base import Penalty, Ridge, solve_symmetric

# Information about the gate, per direction of its standardised design and in effective rows,
# below which the direction is not identified. A converged separated gate is near 1e-6.
_SEPARATION = 1e-3


class LinearGate(Gate):
    """Softmax of logits ``columns(batch) @ coef.T``, zero for the last expert."""

    def columns(self, batch: Batch) -> Array:
        """Design (u, q) of the logits."""
        design: Array = dense(batch.Z)
        return design

    def init_params(self, batch: Batch, resp: Array, rng: np.random.Generator) -> Params:
        """A few ridge-damped Newton steps towards the responsibilities."""
        weight = resp * batch.weight[:, None]
        params: Params = {"coef": np.zeros((resp.shape[1], batch.Z.shape[1]))}
        # The damping keeps a start finite where hard labels separate the experts perfectly.
        damping = Ridge(0.01).scaled(float(batch.weight.sum()))
        for _ in range(4):
            params = self.update(params, self.accumulate(params, batch, weight), damping)
        return params

    def log_score(self, params: Params, batch: Batch) -> Array:
        return self.log_prob(params, batch)

    def log_prob(self, params: Params, batch: Batch) -> Array:
        return kernels.log_softmax(self.columns(batch) @ params["coef"].T)

    def accumulate(self, params: Params, batch: Batch, weight: Array) -> Stats:
        prob = np.exp(self.log_prob(params, batch))
        gradient, information = kernels.softmax_stats(
            self.columns(batch), prob, weight, batch.weight
        )
        return {"gradient": gradient, "information": information}

    def fused_inputs(self, params: Params) -> Array:
        return params["coef"]

    def fused_stats(
        self, params: Params, sums: Array, gradient: Array, information: Array
    ) -> Stats:
        free, q = gradient.shape
        blocks = np.empty((free, free, q, q))
        first, second = np.tril_indices(free)
        blocks[first, second] = blocks[second, first] = information
        return {"gradient": gradient, "information": blocks}

    def update(self, params: Params, stats: Stats, penalty: Penalty) -> Params:
        free, q = stats["gradient"].shape
        if free == 0:
            return params
        if penalty.is_null:
            step = solve_symmetric(_square(stats["information"]), stats["gradient"].ravel())
            coef = params["coef"].copy()
            coef[:free] += step.reshape(free, q)
            return {"coef": coef}
        # A penalty acts on the coefficients of all K experts, so that it knows no reference.
        # Both sides of the system sum to zero over the experts, and so does its solution.
        gradient = np.vstack([stats["gradient"], -stats["gradient"].sum(axis=0)])
        coef = self.penalized_coef(params)
        step = penalty.minimize_quadratic(
            _square(_all_experts(stats["information"])),
            gradient.ravel(),
            coef.ravel(),
            np.tile(self.penalized(q), free + 1),
        )
        coef = coef + step.reshape(free + 1, q)
        return {"coef": coef - coef[-1]}

    def penalized_coef(self, params: Params) -> Array:
        """Coefficients centred over the experts: the same whichever expert is the reference."""
        centred: Array = params["coef"] - params["coef"].mean(axis=0)
        return centred

    def logit_design(self, params: Params, batch: Batch) -> Array:
        return self.columns(batch)

    def pack(self, params: Params) -> Array:
        return params["coef"][:-1].ravel()

    def unpack(self, vector: Array, like: Params) -> Params:
        coef = np.zeros_like(like["coef"])
        coef[:-1] = vector.reshape(coef[:-1].shape)
        return {"coef": coef}

    def score(self, params: Params, stats: Stats) -> Array:
        gradient: Array = stats["gradient"].ravel()
        return gradient

    def raw(self, params: Params, design: DesignMap) -> dict[str, Array]:
        intercept, coef = design.raw_coefficients(params["coef"])
        return {"gate_intercept": intercept, "gate_coef": coef}

    def engine(self, raw: Mapping[str, Array], design: DesignMap) -> Params:
        coef = design.engine_coefficients(raw["gate_intercept"], raw["gate_coef"])
        return {"coef": coef - coef[-1]}

    def permute(self, params: Params, order: Array) -> Params:
        coef = params["coef"][order]
        return {"coef": coef - coef[-1]}

    def n_params(self, params: Params) -> int:
        n_experts, q = params["coef"].shape
        return int((n_experts - 1) * q)

    def separation(self, params: Params, stats: Stats) -> bool:
        information = _square(stats["information"])
        if information.size == 0:
            return False
        return bool(np.linalg.eigvalsh(information)[0] < _SEPARATION)

    def bound_rows(
        self, raw: Mapping[str, Array], design: DesignMap, terms: tuple[str, ...]
    ) -> set[tuple[int, str]]:
        return reference_rows(raw, terms)

    def reference(self, raw: Mapping[str, Array]) -> int | None:
        return len(raw["gate_intercept"])


def linear_coef(design: Array, weight: Array, total: Array) -> Array:
    """Coefficients (K, q) of a linear softmax gate near responsibilities: damped Newton steps."""
    n_experts, q = weight.shape[1], design.shape[1]
    coef = np.zeros((n_experts, q))
    free = (n_experts - 1) * q
    damping = Ridge(0.01).scaled(float(total.sum()))
    for _ in range(4 if free else 0):
        prob = np.exp(kernels.log_softmax(design @ coef.T))
        gradient, blocks = kernels.softmax_stats(design, prob, weight, total)
        square = blocks.transpose(0, 2, 1, 3).reshape(free, free)
        step = damping.minimize_quadratic(
            square, gradient.ravel(), coef[:-1].ravel(), np.ones(free, dtype=bool)
        )
        coef[:-1] += step.reshape(n_experts - 1, q)
    return coef


def reference_rows(raw: Mapping[str, Array], terms: tuple[str, ...]) -> set[tuple[int, str]]:
    """Entries of a table that belong to the last expert, the reference."""
    return {(len(raw["gate_intercept"]), term) for term in terms}


def _all_experts(information: Array) -> Array:
    """Blocks (K-1, K-1, q, q) without the reference, with it: (K, K, q, q) that sum to zero."""
    free, _, q, _ = information.shape
    full = np.zeros((free + 1, free + 1, q, q))
    full[:free, :free] = information
    full[free, :free] = -information.sum(axis=0)
    full[:free, free] = -information.sum(axis=1)
    full[free, free] = information.sum(axis=(0, 1))
    return full


def _square(information: Array) -> Array:
    """(K-1, K-1, q, q) blocks as one symmetric matrix."""
    free, _, q, _ = information.shape
    square: Array = information.transpose(0, 2, 1, 3).reshape(free * q, free * q)
    return square

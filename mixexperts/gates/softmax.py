"""Softmax gates: linear in the features, or constant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mixexperts._batch import Array, Batch, Params, Stats, dense
from mixexperts._design import DesignMap
from mixexperts.gates.base import Gate
from mixexperts.kernels import numpy_ as kernels
from mixexperts.penalties.base import Penalty, Ridge, solve_symmetric

# Smallest weight of a constant gate: an expert that lost all its rows keeps a finite log weight.
_MIN_WEIGHT = 1e-20
# Information about the gate, per direction of its standardised design and in effective rows,
# below which the direction is not identified. A converged separated gate is near 1e-6.
_SEPARATION = 1e-3


@dataclass(frozen=True)
class Softmax(Gate):
    """Softmax gate, ``g_k(x) = exp(b_k + x @ a_k) / sum_l exp(b_l + x @ a_l)``.

    The last expert is the reference: its coefficients are zero.

    Parameters
    ----------
    fit_intercept : bool, default=True
        Whether the gate has intercepts.

    Notes
    -----
    The update is one Newton step on the expected log-likelihood, which is concave in the
    coefficients; the engine halves the step in the rare case that the likelihood falls.

    References
    ----------
    Jacobs, R. A., Jordan, M. I., Nowlan, S. J. and Hinton, G. E. (1991). Adaptive mixtures of
    local experts. Neural Computation 3, 79-87.
    """

    fit_intercept: bool = True
    name: ClassVar[str] = "softmax"
    fused_code: ClassVar[int | None] = 1
    has_logits: ClassVar[bool] = True

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
        return kernels.log_softmax(batch.Z @ params["coef"].T)

    def accumulate(self, params: Params, batch: Batch, weight: Array) -> Stats:
        prob = np.exp(self.log_prob(params, batch))
        gradient, information = kernels.softmax_stats(batch.Z, prob, weight, batch.weight)
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
        design: Array = dense(batch.Z)
        return design

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


@dataclass(frozen=True)
class Constant(Gate):
    """Constant mixing weights: the ordinary finite mixture of regressions."""

    name: ClassVar[str] = "constant"
    fused_code: ClassVar[int | None] = 0
    has_logits: ClassVar[bool] = True
    uses_features: ClassVar[bool] = False

    def init_params(self, batch: Batch, resp: Array, rng: np.random.Generator) -> Params:
        return self._from_mass(batch.weight @ resp)

    def _from_mass(self, mass: Array) -> Params:
        weight = np.maximum(mass / mass.sum(), _MIN_WEIGHT)
        return {"log_weight": np.log(weight / weight.sum())}

    def log_score(self, params: Params, batch: Batch) -> Array:
        return self.log_prob(params, batch)

    def log_prob(self, params: Params, batch: Batch) -> Array:
        log_weight = params["log_weight"]
        return np.tile(log_weight, (batch.n_units, 1))

    def accumulate(self, params: Params, batch: Batch, weight: Array) -> Stats:
        return {"mass": weight.sum(axis=0)}

    def fused_inputs(self, params: Params) -> Array:
        return params["log_weight"][:, None]

    def fused_stats(
        self, params: Params, sums: Array, gradient: Array, information: Array
    ) -> Stats:
        return {"mass": sums[0]}

    def update(self, params: Params, stats: Stats, penalty: Penalty) -> Params:
        return self._from_mass(stats["mass"])

    def logit_design(self, params: Params, batch: Batch) -> Array:
        return np.ones((batch.n_units, 1))

    def pack(self, params: Params) -> Array:
        log_weight = params["log_weight"]
        packed: Array = log_weight[:-1] - log_weight[-1]
        return packed

    def unpack(self, vector: Array, like: Params) -> Params:
        logits = np.append(vector, 0.0)[None, :]
        return {"log_weight": kernels.log_softmax(logits)[0]}

    def score(self, params: Params, stats: Stats) -> Array:
        mass = stats["mass"]
        score: Array = mass - mass.sum() * np.exp(params["log_weight"])
        return score[:-1]

    def raw(self, params: Params, design: DesignMap) -> dict[str, Array]:
        log_weight = params["log_weight"]
        none = np.zeros((len(log_weight), 0))
        return {"gate_intercept": log_weight - log_weight[-1], "gate_coef": none}

    def engine(self, raw: Mapping[str, Array], design: DesignMap) -> Params:
        return {"log_weight": kernels.log_softmax(raw["gate_intercept"][None, :])[0]}

    def permute(self, params: Params, order: Array) -> Params:
        return {"log_weight": params["log_weight"][order]}

    def n_params(self, params: Params) -> int:
        return len(params["log_weight"]) - 1

    def penalized(self, n_columns: int) -> Array:
        return np.zeros(n_columns, dtype=bool)


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

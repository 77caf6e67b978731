"""Sigmoid gates: one logistic curve per expert, normalised."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mixexperts._batch import Array, Batch, Params
from mixexperts._design import DesignMap
from mixexperts.gates._activations import logistic
from mixexperts.gates._linear import linear_coef
from mixexperts.gates._predictors import NO_MAXIMUM, PredictorGate, softmax_derivatives
from mixexperts.kernels import numpy_ as kernels


@dataclass(frozen=True)
class Sigmoid(PredictorGate):
    r"""Sigmoid gate, ``g_k(x) = s(b_k + x @ a_k) / sum_l s(b_l + x @ a_l)``, s the logistic curve.

    Every expert has an affinity between zero and one of its own, and the weights are their
    shares. No expert is the reference: all K rows of coefficients are free. Where all
    affinities are small the gate is a softmax gate; experts whose affinities are both near one
    share the rows evenly, which a softmax gate cannot keep up over a region.

    Parameters
    ----------
    fit_intercept : bool, default=True
        Whether the gate has intercepts.

    Notes
    -----
    The expected log-likelihood is not concave in the coefficients. If the data come from a
    softmax gate, all intercepts drift to minus infinity together; the fit is then flagged as
    separated, and its coefficients have no meaning beyond their differences.

    There are no Newton steps for this gate: ``tol`` is on the gain of EM's next step alone.

    References
    ----------
    Csordas, R., Irie, K. and Schmidhuber, J. (2023). Approximating two-layer feedforward
    networks for efficient transformers. Findings of EMNLP 2023, 674-692.
    Nguyen, H., Ho, N. and Rinaldo, A. (2024). Sigmoid gating is more sample efficient than
    softmax gating in mixture of experts. Advances in Neural Information Processing Systems 37.
    """

    fit_intercept: bool = True
    name: ClassVar[str] = "sigmoid"
    needs_features: ClassVar[bool] = True
    separation_reason: ClassVar[str] = NO_MAXIMUM

    def design_fault(self, design: DesignMap) -> str | None:
        return None if design.names else no_features(self.name)

    def starts(self, batch: Batch, resp: Array) -> list[Params]:
        """Equal weights, and slopes of a softmax gate where the curves begin to level off.

        From equal weights alone most climbs end in the limit that is a softmax gate.
        """
        design = self.columns(batch)
        linear = linear_coef(design, resp * batch.weight[:, None], batch.weight)
        linear -= linear.mean(axis=0)
        high = np.eye(1, linear.shape[1]) * self.fit_intercept
        return [{"coef": coef} for coef in (0.0 * linear, linear + high, 2.0 * linear + 3.0 * high)]

    def predictors(self, params: Params) -> Array:
        return params["coef"]

    def with_predictors(self, like: Params, coef: Array) -> Params:
        return {"coef": coef}

    def log_weights(self, params: Params, eta: Array) -> Array:
        return kernels.log_softmax(-np.logaddexp(0.0, -eta))

    def derivatives(self, params: Params, eta: Array, weight: Array) -> tuple[Array, Array, Array]:
        away = logistic(-eta)  # 1 - s(eta), the slope of log s
        k = np.arange(eta.shape[1])
        jacobian = np.zeros((*eta.shape, eta.shape[1]), eta.dtype)
        jacobian[:, k, k] = away
        score = -np.logaddexp(0.0, -eta)
        gradient, fisher, excess, _ = softmax_derivatives(score, jacobian, weight)
        curvature = fisher.copy()
        curvature[:, k, k] += excess * away * (1.0 - away)
        return gradient, curvature, fisher

    def raw(self, params: Params, design: DesignMap) -> dict[str, Array]:
        """``gate_intercept`` (K,) and ``gate_coef`` (K, q'), all free."""
        intercept, coef = design.raw_coefficients(params["coef"])
        return {"gate_intercept": intercept, "gate_coef": coef}

    def engine(self, raw: Mapping[str, Array], design: DesignMap) -> Params:
        return {"coef": design.engine_coefficients(raw["gate_intercept"], raw["gate_coef"])}

    def table_title(self, n_experts: int) -> str:
        return "log odds of each expert's own affinity"


def no_features(name: str) -> str:
    """Why a gate cannot be fitted without features."""
    return (
        f"gate={name!r} needs features, but there are none; name at least one column in "
        "gate_features (in a formula, a term of the gate), or use gate='constant'"
    )

"""DSelect-k gates: sparse weights that are differentiable in the parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mixexperts._batch import Array, Batch, Params
from mixexperts._design import DesignMap
from mixexperts.gates._codes import along_features, codes
from mixexperts.gates._linear import linear_coef
from mixexperts.gates._predictors import PredictorGate
from mixexperts.gates.sigmoid import no_features
from mixexperts.gates.top_k import check_k
from mixexperts.kernels import numpy_ as kernels

# Width of the smooth step in units of its predictor: its log odds then have slope one at zero.
_WIDTH = 6.0
# Starts keep predictors of the steps within this range, where no weight is zero.
_START_RANGE = 2.5


@dataclass(frozen=True)
class DSelectK(PredictorGate):
    r"""DSelect-k gate: at most about k experts with positive weight, chosen by smooth steps.

    ``g_i(x) = sum_l softmax(alpha(x))_l r_i(z_l(x))``: each of k selectors l picks an expert by
    its binary code, ``r_i(z) = prod_j S(z_j)^c_ij (1 - S(z_j))^(1 - c_ij)``. S is the cubic
    step from 0 to 1 that is flat beyond, so that a selector whose bits are all decided gives all
    its mass to one expert. The z and alpha are linear in x. Weights are continuously
    differentiable in the parameters, and exactly zero where no selector looks.

    Parameters
    ----------
    k : int, default=2
        Number of selectors. Where all bits are decided at most k experts have weight; between
        decided regions more can.
    entropy : float, default=0.0
        Weight per row of the selectors' entropies, taken off the log-likelihood: it drives
        every selector to a single expert. Zero is maximum likelihood.
    fit_intercept : bool, default=True
        Whether the predictors have intercepts.

    Notes
    -----
    Experts are the leaves of a binary tree of least depth, and their codes the paths to them,
    so that no code is unused when K is no power of two; bits are shared between branches. The
    width of the step in the paper is a unit of z, and is not a parameter here.

    Different parameters can give the same weights: selectors can be exchanged, and where two
    look at the same expert their shares are arbitrary. ``n_params`` counts all coefficients.
    Where a weight is zero its gradient is zero too, so that a fit can be stuck with an expert
    left out: several starts are needed. Starts have positive weights everywhere.

    References
    ----------
    Hazimeh, H., Zhao, Z., Chowdhery, A., Sathiamoorthy, M., Chen, Y., Mazumder, R., Hong, L.
    and Chi, E. (2021). DSelect-k: differentiable selection in the mixture of experts with
    applications to multi-task learning. Advances in Neural Information Processing Systems 34.
    """

    k: int = 2
    entropy: float = 0.0
    fit_intercept: bool = True

    name: ClassVar[str] = "dselect_k"
    sparse: ClassVar[bool] = True
    identified: ClassVar[bool] = False
    needs_features: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_k(self.k)
        if isinstance(self.entropy, bool) or not isinstance(self.entropy, int | float | np.number):
            raise TypeError(f"entropy must be a number, got {self.entropy!r}")
        if not (math.isfinite(self.entropy) and self.entropy >= 0.0):
            raise ValueError(f"entropy must be a finite number >= 0, got {self.entropy!r}")

    @property
    def dialect(self) -> str:
        """Coefficients belong to selectors."""
        return f"dselect_k {self.k}"

    def design_fault(self, design: DesignMap) -> str | None:
        return None if design.names else no_features(self.name)

    def _selectors(self, n_experts: int) -> int:
        return min(self.k, n_experts)

    def _bits(self, params: Params) -> tuple[int, int]:
        """Numbers of selectors and of bits."""
        n_experts, depth = params["code"].shape
        return self._selectors(n_experts), depth

    # --- parameters: rows for the shares of all selectors but the last, then bits by selector ---

    def starts(self, batch: Batch, resp: Array) -> list[Params]:
        """The first selector follows the responsibilities, the others begin near undecided."""
        n_experts, q = resp.shape[1], batch.Z.shape[1]
        code = np.empty_like(codes(n_experts))
        code[along_features(batch, resp)] = codes(n_experts)
        depth = code.shape[1]
        selectors = self._selectors(n_experts)
        design = self.columns(batch)
        weight = resp * batch.weight[:, None]
        rows = np.zeros((selectors * (1 + depth) - 1 if depth else 0, q))
        for j in range(depth):
            sides = np.stack([weight @ (code[:, j] == value) for value in (1, 0)], axis=1)
            coef = linear_coef(design, sides, sides.sum(axis=1))[0]
            reach = np.abs(design @ coef).max(initial=0.0)
            coef = coef * min(1.0, _START_RANGE / max(reach, 1e-300))
            for selector in range(selectors):
                # Later selectors lean less and less on the same experts, in turn to either side.
                rows[selectors - 1 + selector * depth + j] = coef * (-0.5) ** selector
        return [self._tiled(code, rows)]

    @staticmethod
    def _tiled(code: Array, rows: Array) -> dict[str, Array]:
        """Coefficients belong to all experts: each holds them."""
        return {"code": code, "coef": np.tile(rows, (len(code), 1, 1))}

    def predictors(self, params: Params) -> Array:
        rows: Array = params["coef"][0]
        return rows

    def with_predictors(self, like: Params, coef: Array) -> Params:
        return self._tiled(like["code"], coef)

    def _shares(self, params: Params, eta: Array) -> Array:
        """Shares of the selectors, (u, k)."""
        selectors, _ = self._bits(params)
        alpha = np.zeros((len(eta), selectors), eta.dtype)
        alpha[:, :-1] = eta[:, : selectors - 1]
        return np.exp(kernels.log_softmax(alpha))

    def _steps(self, params: Params, eta: Array) -> tuple[Array, Array, Array]:
        """Factor of each expert, selector and bit, (u, k, m, K), and two derivatives."""
        selectors, depth = self._bits(params)
        code = params["code"]
        z = eta[:, selectors - 1 :].reshape(len(eta), selectors, depth)
        t = np.clip(z / _WIDTH + 0.5, 0.0, 1.0)
        inside = (t > 0.0) & (t < 1.0)
        sides = (  # of bits 0 and 1; the step as seen from zero keeps its digits
            (1.0 - t) ** 2 * (1.0 + 2.0 * t),
            t * t * (3.0 - 2.0 * t),
        )
        slope = np.where(inside, 6.0 * t * (1.0 - t), 0.0) / _WIDTH
        bend = np.where(inside, 6.0 - 12.0 * t, 0.0) / _WIDTH**2
        shape = (*z.shape, len(code))
        factor, first, second = (np.zeros(shape, eta.dtype) for _ in range(3))
        for j in range(depth):
            for k, value in enumerate(code[:, j]):
                if value < 0:
                    factor[:, :, j, k] = 1.0
                    continue
                sign = 1.0 if value else -1.0
                factor[:, :, j, k] = sides[value][:, :, j]
                first[:, :, j, k] = sign * slope[:, :, j]
                second[:, :, j, k] = sign * bend[:, :, j]
        return factor, first, second

    def log_weights(self, params: Params, eta: Array) -> Array:
        if len(params["code"]) == 1:
            return np.zeros((len(eta), 1), eta.dtype)
        picked = self._steps(params, eta)[0].prod(axis=2)
        weight = np.matmul(self._shares(params, eta)[:, None, :], picked)[:, 0]
        weight = weight / weight.sum(axis=1, keepdims=True)  # one, to rounding
        with np.errstate(divide="ignore"):
            log_weight: Array = np.minimum(np.log(weight), 0.0)
        return log_weight

    def derivatives(self, params: Params, eta: Array, weight: Array) -> tuple[Array, Array, Array]:
        selectors, depth = self._bits(params)
        share = self._shares(params, eta)
        factor, first, second = self._steps(params, eta)
        picked = factor.prod(axis=2)  # (u, k, K)
        total = np.matmul(share[:, None, :], picked)[:, 0]
        safe = np.where(total > 0.0, total, 1.0)
        # What lies on experts without weight says nothing about the weights of the others.
        pull = np.where(total > 0.0, weight, 0.0) / safe
        n, size = len(eta), eta.shape[1]
        jacobian = np.zeros((n, size, total.shape[1]), eta.dtype)
        hessian = np.zeros((n, size, size), eta.dtype)
        shares = range(selectors - 1)
        away = picked - total[:, None, :]
        drift = np.matmul(away, pull[:, :, None])[:, :, 0]  # (u, k)
        for a in shares:
            jacobian[:, a] = share[:, a, None] * away[:, a]
            for b in shares:
                hessian[:, a, b] = -share[:, a] * share[:, b] * (drift[:, a] + drift[:, b])
            hessian[:, a, a] += share[:, a] * drift[:, a]
        for s in range(selectors):
            at = selectors - 1 + s * depth
            for i in range(depth):
                others = np.delete(factor[:, s], i, axis=1)
                rest = others.prod(axis=1)
                moved = rest * first[:, s, i]
                jacobian[:, at + i] = share[:, s, None] * moved
                tug = (moved * pull).sum(axis=1)
                for a in shares:
                    mixed = share[:, s] * ((a == s) - share[:, a]) * tug
                    hessian[:, a, at + i] = hessian[:, at + i, a] = mixed
                bent = (rest * second[:, s, i] * pull).sum(axis=1)
                hessian[:, at + i, at + i] = share[:, s] * bent
                for j in range(i):
                    rest = np.delete(factor[:, s], [j, i], axis=1).prod(axis=1)
                    mixed = (rest * first[:, s, i] * first[:, s, j] * pull).sum(axis=1)
                    hessian[:, at + i, at + j] = hessian[:, at + j, at + i] = share[:, s] * mixed
        gradient = np.matmul(jacobian, pull[:, :, None])[:, :, 0]
        relative = jacobian / safe[:, None, :]
        kept = np.where(total > 0.0, weight, 0.0)
        curvature = np.matmul(relative * kept[:, None, :], relative.transpose(0, 2, 1)) - hessian
        mass = kept.sum(axis=1)[:, None, None] * np.where(total > 0.0, total, 0.0)[:, None, :]
        fisher = np.matmul(relative * mass, relative.transpose(0, 2, 1))
        if self.entropy:
            self._add_entropy(params, eta, weight, (factor, first, second), gradient, curvature)
        return gradient, curvature, fisher

    # --- the entropy of the selectors ------------------------------------------------------------

    @property
    def row_penalized(self) -> bool:
        return self.entropy > 0.0

    def row_penalty(self, params: Params, eta: Array, weight: Array) -> float:
        if not self.entropy or len(params["code"]) == 1:
            return 0.0
        picked = self._steps(params, eta)[0].prod(axis=2)
        surprise = -picked * np.log(np.where(picked > 0.0, picked, 1.0))
        return self.entropy * float(weight.sum(axis=1) @ surprise.sum(axis=(1, 2)))

    def _add_entropy(
        self,
        params: Params,
        eta: Array,
        weight: Array,
        steps: tuple[Array, Array, Array],
        gradient: Array,
        curvature: Array,
    ) -> None:
        """Take the entropies' derivatives off; ``sum_k`` of derivatives of r_k is zero."""
        selectors, depth = self._bits(params)
        factor, first, second = steps
        scale = self.entropy * weight.sum(axis=1)
        for s in range(selectors):
            at = selectors - 1 + s * depth
            picked = factor[:, s].prod(axis=1)
            positive = picked > 0.0
            log = np.log(np.where(positive, picked, 1.0))
            inverse = np.where(positive, 1.0, 0.0) / np.where(positive, picked, 1.0)
            moved = [
                np.delete(factor[:, s], i, axis=1).prod(axis=1) * first[:, s, i]
                for i in range(depth)
            ]
            for i in range(depth):
                gradient[:, at + i] += scale * (moved[i] * log).sum(axis=1)
                for j in range(i + 1):
                    rest = np.delete(factor[:, s], sorted({i, j}), axis=1).prod(axis=1)
                    twice = second[:, s, i] if i == j else first[:, s, i] * first[:, s, j]
                    bent = rest * twice * log + moved[i] * moved[j] * inverse
                    curvature[:, at + i, at + j] -= scale * bent.sum(axis=1)
                    if i != j:
                        curvature[:, at + j, at + i] -= scale * bent.sum(axis=1)

    # --- the user's scale --------------------------------------------------------------------

    @property
    def shared_raw(self) -> frozenset[str]:  # type: ignore[override]
        """Codes and coefficients of the selectors, none of which belong to one expert."""
        return frozenset({"gate_code", "gate_selector_intercept", "gate_selector_coef"})

    def raw(self, params: Params, design: DesignMap) -> dict[str, Array]:
        """``gate_code`` (K, m), ``gate_selector_intercept`` (L,), ``gate_selector_coef`` (L, q').

        Rows are the k - 1 log odds of the selectors' shares against the last, then m bits for each
        selector. A bit counts as decided beyond 3 to either side.
        """
        intercept, coef = design.raw_coefficients(self.predictors(params))
        return {
            "gate_code": params["code"].astype(float),
            "gate_selector_intercept": intercept,
            "gate_selector_coef": coef,
        }

    def engine(self, raw: Mapping[str, Array], design: DesignMap) -> Params:
        code = np.asarray(raw["gate_code"])
        wanted = codes(len(code))
        if sorted(code.tolist()) != sorted(wanted.tolist()):
            raise ValueError(
                f"init['gate_code'] must hold the codes {wanted.tolist()} in some order, got "
                f"{code.tolist()}"
            )
        coef = design.engine_coefficients(raw["gate_selector_intercept"], raw["gate_selector_coef"])
        return self._tiled(code.astype(np.int64), coef)

    def neutral_raw(self, n_experts: int, design: DesignMap) -> dict[str, Array]:
        """All bits undecided: the weights are equal where K is a power of two."""
        code = codes(n_experts)
        depth = code.shape[1]
        rows = self._selectors(n_experts) * (1 + depth) - 1 if depth else 0
        return {
            "gate_code": code.astype(float),
            "gate_selector_intercept": np.zeros(rows),
            "gate_selector_coef": np.zeros((rows, design.n_terms)),
        }

    def own_rows(self, raw: Mapping[str, Array], design: DesignMap) -> dict[str, Array]:
        """The bits of the experts' codes; -1 where a bit does not matter."""
        return {f"bit {j + 1}": column for j, column in enumerate(raw["gate_code"].T)}

    def bound_rows(
        self, raw: Mapping[str, Array], design: DesignMap, terms: tuple[str, ...]
    ) -> set[tuple[int, str]]:
        """No entry is a parameter: they belong to selectors."""
        return {(k, term) for k in range(1, len(raw["gate_code"]) + 1) for term in terms}

    def table_title(self, n_experts: int) -> str:
        return "codes of the experts (coefficients of the selectors: gate_selector_coef_)"

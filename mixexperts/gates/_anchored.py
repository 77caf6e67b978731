"""Softmax gates with an activation, an estimated temperature or columns of each expert's own.

Such a gate depends on which expert is the reference: parameters carry it along, and permuting
the experts moves it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mixexperts._batch import Array, Batch, Params, Stats, dense
from mixexperts._design import DesignMap
from mixexperts.gates._activations import SLOPE_AT_ZERO, activate, transformed
from mixexperts.gates._linear import linear_coef
from mixexperts.gates._predictors import NO_MAXIMUM, PredictorGate, softmax_derivatives
from mixexperts.kernels import numpy_ as kernels

#: Bounds of an estimated temperature.
COLDEST, HOTTEST = 1e-3, 1e3
_LOG_BOUNDS = math.log(COLDEST), math.log(HOTTEST)
#: Role of the reference among the logits.
REFERENCE = -1


@dataclass(frozen=True)
class AnchoredGate(PredictorGate):
    """``g_k(x) = softmax_k((phi(a_k @ x) + b_k) / tau)``, zero for the reference.

    Parameters are ``coef`` (K, q), the intercepts b first, both divided by tau; ``role`` (K,), the
    entry of ``features`` that an expert uses, -1 for the reference; and ``log_temperature`` (K,),
    all the same. With a / tau held, a temperature bends the logits and does not scale them: where
    the data want straight ones it is the only coefficient without a maximum.
    """

    activation: str = "identity"
    temperature: float | Literal["estimate"] = 1.0
    transform: str | None = None
    features: tuple[tuple[int, ...] | None, ...] | None = None
    fit_intercept: bool = True

    separation_reason = NO_MAXIMUM

    @property
    def _estimated(self) -> bool:
        return self.temperature == "estimate"

    @property
    def _curved(self) -> bool:
        return self.activation != "identity"

    @property
    def _lead(self) -> int:
        """Columns of ones before the design's own: an estimated temperature needs one."""
        return int(self._estimated and not self.fit_intercept)

    def columns(self, batch: Batch) -> Array:
        design = mapped(dense(batch.Z), self.transform, self.fit_intercept)
        if not self._lead:
            return design
        return np.hstack([np.ones((len(design), 1), design.dtype), design])

    def _mask(self, params: Params) -> Array:
        """Coefficients that are free, (K, q) bool."""
        role, coef = params["role"], params["coef"]
        mask = np.ones(coef.shape, dtype=bool)
        if self.features is not None:
            shift = int(self.fit_intercept)
            for k, own in enumerate(role):
                taken = None if own == REFERENCE else self.features[int(own)]
                if taken is not None:
                    mask[k, shift:] = False
                    mask[k, [shift + j for j in taken]] = True
        mask[role == REFERENCE] = False
        return mask

    def _stacked(self, coef: Array, last: float | bool) -> Array:
        """Rows of the predictors: arguments of phi, intercepts, and the temperature's."""
        if not self._curved:
            return coef
        lead, shift = self._lead, int(self.fit_intercept)
        n_experts = len(coef)
        rows = np.zeros((n_experts + shift * n_experts + self._estimated, coef.shape[1] + lead),
                        coef.dtype)  # fmt: skip
        rows[:n_experts, lead + shift :] = coef[:, shift:]
        if shift:
            rows[n_experts : 2 * n_experts, 0] = coef[:, 0]
        if self._estimated:
            rows[-1, 0] = last
        return rows

    def predictors(self, params: Params) -> Array:
        log_temperature = params["log_temperature"][0] if self._estimated else 0.0
        return self._stacked(params["coef"], float(log_temperature))

    def free(self, params: Params) -> Array:
        return self._stacked(self._mask(params), len(params["role"]) > 1).astype(bool)

    def with_predictors(self, like: Params, coef: Array) -> Params:
        n_experts = len(like["role"])
        own = coef
        if self._curved:
            own = np.array(coef[:n_experts, self._lead :])
            if self.fit_intercept:
                own[:, 0] = coef[n_experts : 2 * n_experts, 0]
        params = {"coef": own, "role": like["role"]}
        if self._estimated:
            log_temperature = np.clip(coef[-1, 0], *_LOG_BOUNDS)
            params["log_temperature"] = np.full(n_experts, log_temperature)
        return params

    def _scores(self, params: Params, eta: Array) -> tuple[Array, Array, Array, float]:
        """Scores (u, K), first two derivatives of phi at its argument, and the temperature."""
        n_experts = len(params["role"])
        temperature = self._temperature(params) if self._curved else 1.0
        value, slope, bend = activate(self.activation, temperature * eta[:, :n_experts])
        score = value / temperature
        if self._curved and self.fit_intercept:
            score = score + eta[:, n_experts : 2 * n_experts]
        return score, slope, bend, temperature

    def _temperature(self, params: Params) -> float:
        if self._estimated:
            return math.exp(float(params["log_temperature"][0]))
        return float(self.temperature)

    def log_weights(self, params: Params, eta: Array) -> Array:
        return kernels.log_softmax(self._scores(params, eta)[0])

    def derivatives(self, params: Params, eta: Array, weight: Array) -> tuple[Array, Array, Array]:
        score, slope, bend, temperature = self._scores(params, eta)
        n_experts, size = score.shape[1], eta.shape[1]
        k = np.arange(n_experts)
        jacobian = np.zeros((len(eta), n_experts, size), eta.dtype)
        jacobian[:, k, k] = slope
        shifted = self._curved and self.fit_intercept
        if shifted:
            jacobian[:, k, n_experts + k] = 1.0
        u = eta[:, :n_experts]
        bare = score - eta[:, n_experts : 2 * n_experts] if shifted else score
        if self._estimated:
            jacobian[:, :, -1] = slope * u - bare
        gradient, fisher, excess, _ = softmax_derivatives(score, jacobian, weight)
        curvature = fisher.copy()
        curvature[:, k, k] -= excess * temperature * bend
        if self._estimated:
            cross = excess * temperature * bend * u
            curvature[:, k, -1] -= cross
            curvature[:, -1, k] -= cross
            twice = temperature * bend * u * u - slope * u + bare
            curvature[:, -1, -1] -= (excess * twice).sum(axis=1)
        return gradient, curvature, fisher

    def last_bounds(self, params: Params) -> tuple[float, float] | None:
        return _LOG_BOUNDS if self._estimated and len(params["role"]) > 1 else None

    def penalized(self, n_columns: int) -> Array:
        mask = np.ones(n_columns, dtype=bool)
        mask[: int(self.fit_intercept) + self._lead] = False
        return mask

    def starts(self, batch: Batch, resp: Array) -> list[Params]:
        """The linear gate near these responsibilities, with the activation's slope at zero.

        A temperature begins at one and where the logits are nearly straight.
        """
        n_experts = resp.shape[1]
        role = np.append(np.arange(n_experts - 1), REFERENCE)
        design = self.columns(batch)[:, self._lead :]
        coef = linear_coef(design, resp * batch.weight[:, None], batch.weight)
        coef[:, int(self.fit_intercept) :] /= SLOPE_AT_ZERO[self.activation]
        params: dict[str, Array] = {"coef": coef, "role": role}
        params["coef"] = np.where(self._mask(params), coef, 0.0)
        if not self._estimated:
            return [params]
        return [{**params, "log_temperature": np.full(n_experts, at)} for at in (0.0, -2.0)]

    def separation(self, params: Params, stats: Stats) -> bool:
        if self._estimated and len(params["role"]) > 1:
            at = params["log_temperature"][0]
            if not _LOG_BOUNDS[0] < at < _LOG_BOUNDS[1]:
                return True
        return super().separation(params, stats)

    # --- the user's scale --------------------------------------------------------------------

    @property
    def shared_raw(self) -> frozenset[str]:  # type: ignore[override]
        """Parameters without an axis of experts, and the roles, which tell no expert apart."""
        return frozenset({"gate_temperature", "gate_role"})

    def raw(self, params: Params, design: DesignMap) -> dict[str, Array]:
        coef = self._temperature(params) * params["coef"]
        intercept, coef = to_raw(coef, design, self.transform)
        role = params["role"].astype(float)
        raw = {"gate_intercept": intercept, "gate_coef": coef, "gate_role": role}
        if self._estimated:
            raw["gate_temperature"] = np.array(self._temperature(params))
        return raw

    def engine(self, raw: Mapping[str, Array], design: DesignMap) -> Params:
        role = np.asarray(raw["gate_role"])
        n_experts = len(role)
        if sorted(role.tolist()) != [REFERENCE, *range(n_experts - 1)]:
            raise ValueError(
                "init['gate_role'] must hold -1 for the reference and 0, 1, ... for the others, "
                f"got {role}"
            )
        coef = to_engine(raw["gate_intercept"], raw["gate_coef"], design, self.transform)
        params: dict[str, Array] = {"coef": coef, "role": role.astype(np.int64)}
        mask = self._mask(params)
        shift = int(self.fit_intercept)
        loose = (np.asarray(raw["gate_coef"]) != 0.0) & ~mask[:, shift:]
        reference = role == REFERENCE
        if loose.any() or (shift and np.asarray(raw["gate_intercept"])[reference].any()):
            raise ValueError(
                "init['gate_coef'] and init['gate_intercept'] must be zero for the reference and "
                "where an expert does not use a feature"
            )
        params["coef"] = np.where(mask, coef, 0.0)
        if self._estimated:
            temperature = float(raw["gate_temperature"])
            if not COLDEST <= temperature <= HOTTEST:
                raise ValueError(
                    f"init['gate_temperature'] must lie in [{COLDEST:g}, {HOTTEST:g}], got "
                    f"{temperature:g}"
                )
            params["log_temperature"] = np.full(n_experts, math.log(temperature))
        params["coef"] = params["coef"] / self._temperature(params)
        return params

    def neutral_raw(self, n_experts: int, design: DesignMap) -> dict[str, Array]:
        neutral = super().neutral_raw(n_experts, design)
        neutral["gate_role"] = np.append(np.arange(n_experts - 1.0), float(REFERENCE))
        if self._estimated:
            neutral["gate_temperature"] = np.array(1.0)
        return neutral

    def reference(self, raw: Mapping[str, Array]) -> int | None:
        return int(np.flatnonzero(raw["gate_role"] == REFERENCE)[0]) + 1

    def own_rows(self, raw: Mapping[str, Array], design: DesignMap) -> dict[str, Array]:
        rows = super().own_rows(raw, design)
        if self._estimated:
            temperature = float(raw["gate_temperature"])
            rows["temperature"] = np.full(len(raw["gate_role"]), temperature)
        return rows

    def bound_rows(
        self, raw: Mapping[str, Array], design: DesignMap, terms: tuple[str, ...]
    ) -> set[tuple[int, str]]:
        role = raw["gate_role"]
        shift = int(self.fit_intercept)
        bare = {"role": role, "coef": np.zeros((len(role), shift + design.n_terms))}
        mask = self._mask(bare)
        # Rows of the table: the intercept, the temperature, the coefficients.
        entries = np.zeros((len(role), len(terms)), dtype=bool)
        entries[:, :shift] = mask[:, :shift]
        entries[0, shift : shift + self._estimated] = len(role) > 1
        entries[:, shift + self._estimated :] = mask[:, shift:]
        return {(int(k) + 1, terms[j]) for k, j in zip(*np.nonzero(~entries), strict=True)}


def mapped(design: Array, transform: str | None, intercept: bool) -> Array:
    """The design with a function of each standardised column in its place."""
    if transform is None:
        return design
    changed = transformed(transform, design)
    if intercept:
        changed[:, 0] = design[:, 0]
    return changed


def to_raw(coef: Array, design: DesignMap, transform: str | None) -> tuple[Array, Array]:
    """Intercepts (K,) and coefficients (K, q') on the user's scale."""
    if transform is None:
        return design.raw_coefficients(coef)
    if not design.intercept:
        return np.zeros(len(coef)), coef
    return coef[:, 0], coef[:, 1:]


def to_engine(intercept: Array, coef: Array, design: DesignMap, transform: str | None) -> Array:
    """Inverse of :func:`to_raw`."""
    if transform is None:
        return design.engine_coefficients(intercept, coef)
    return np.column_stack([intercept, coef]) if design.intercept else np.array(coef)

"""Cosine gates: softmax of the angles between the features and one direction per expert."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from mixexperts._batch import Array, Batch, Params, dense
from mixexperts._design import DesignMap
from mixexperts.gates._anchored import to_engine, to_raw
from mixexperts.gates._columns import dependent_fault
from mixexperts.gates._linear import LinearGate


@dataclass(frozen=True)
class Cosine(LinearGate):
    r"""Cosine gate with perturbed norms, ``g_k(x) = softmax_k(b_k + c_k(x) / T)``.

    ``c_k(x) = w_k @ z / ((|w_k| + t) (|z| + t))`` is the cosine of the angle between a direction
    of the expert and the standardised features z, up to the perturbation t. Logits are bounded
    however far x lies from the data: the weights far away depend on the direction alone.

    Parameters
    ----------
    perturbation : float, default=0.1
        The t added to both norms, in standard deviations of the features. It keeps the gate
        smooth at z = 0.
    fit_intercept : bool, default=True
        Whether the gate has intercepts b.

    Notes
    -----
    The lengths of the directions and the temperature T are not identified one by one: the weights
    depend on the differences of ``w_k / (|w_k| + t) / T`` between experts alone, and every
    matrix of differences can be had. So the gate is a softmax gate that is linear in
    ``u = z / (|z| + t)``, and it is fitted as one: the update is the Newton step of a concave
    problem, and no parameter is counted that is none. ``gate_coef_`` is per unit of u, zero for
    the last expert; :meth:`cosine_form` writes it as directions and a temperature.

    References
    ----------
    Chi, Z. et al. (2022). On the representation collapse of sparse mixture of experts. Advances
    in Neural Information Processing Systems 35.
    Nguyen, H., Akbarian, P., Pham, T., Nguyen, T., Zhang, S. and Ho, N. (2025). Statistical
    advantages of perturbing cosine router in mixture of experts. International Conference on
    Learning Representations.
    """

    perturbation: float = 0.1
    fit_intercept: bool = True

    name: ClassVar[str] = "cosine"
    has_logits: ClassVar[bool] = True
    needs_features: ClassVar[bool] = True

    def __post_init__(self) -> None:
        t = self.perturbation
        if isinstance(t, bool) or not isinstance(t, int | float | np.number):
            raise TypeError(f"perturbation must be a number, got {t!r}")
        if not (math.isfinite(t) and t > 0.0):
            raise ValueError(f"perturbation must be a positive finite number, got {t!r}")

    @property
    def dialect(self) -> str:
        """Coefficients are per unit of a column that depends on the perturbation."""
        return f"cosine {float(self.perturbation)!r}"

    def design_options(self) -> Mapping[str, Any]:
        return {"orthogonalize": False, "center": True}

    def design_fault(self, design: DesignMap) -> str | None:
        return dependent_fault(self.name, design)

    def terms(self, design: DesignMap) -> tuple[str, ...]:
        """Names such as ``cosine(x1)``: the column's share of the length of z."""
        return tuple(f"cosine({name})" for name in design.column_names())

    def columns(self, batch: Batch) -> Array:
        design = dense(batch.Z)
        shift = int(self.fit_intercept)
        z = design[:, shift:]
        largest = np.abs(z).max(axis=1, initial=1.0, keepdims=True)  # squares may overflow
        length = largest * np.sqrt(((z / largest) ** 2).sum(axis=1, keepdims=True))
        return np.hstack([design[:, :shift], z / (length + z.dtype.type(self.perturbation))])

    def cosine_form(self, coef: Array) -> tuple[Array, float]:
        """Directions w (K, d) and the temperature T of coefficients ``gate_coef_``.

        Of all that give the same weights those with slopes that sum to zero over the
        experts and a longest direction of length one.

        Parameters
        ----------
        coef : ndarray of shape (K, d)

        Returns
        -------
        directions : ndarray of shape (K, d)
        temperature : float
            Infinite where the weights do not depend on the features.
        """
        coef = np.asarray(coef, dtype=np.float64)
        slope = coef - coef.mean(axis=0)
        length = np.sqrt((slope**2).sum(axis=1))
        t = float(self.perturbation)
        if not length.max() > 0.0:
            return np.zeros_like(slope), math.inf
        temperature = 1.0 / ((1.0 + t) * length.max())
        share = length * temperature  # |w| / (|w| + t)
        size = t * share / (1.0 - share)
        unit = np.where(length > 0.0, 1.0 / np.where(length > 0.0, length, 1.0), 0.0)
        return slope * (size * unit)[:, None], float(temperature)

    def raw(self, params: Params, design: DesignMap) -> dict[str, Array]:
        """``gate_intercept`` (K,) and ``gate_coef`` (K, d) per unit of u."""
        intercept, coef = to_raw(params["coef"], design, self.name)
        return {"gate_intercept": intercept, "gate_coef": coef}

    def engine(self, raw: Mapping[str, Array], design: DesignMap) -> Params:
        coef = to_engine(raw["gate_intercept"], raw["gate_coef"], design, self.name)
        return {"coef": coef - coef[-1]}

    def table_title(self, n_experts: int) -> str:
        return f"log odds against expert {n_experts}, per unit of z / (|z| + perturbation)"

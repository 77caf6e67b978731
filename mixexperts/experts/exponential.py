"""Exponential experts: waiting times without memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mixexperts._batch import Array
from mixexperts.experts._linear import Terms
from mixexperts.experts._positive import MAX_ETA, PositiveExpert


@dataclass(frozen=True)
class Exponential(PositiveExpert):
    r"""Exponential experts with mean ``mu_k = exp(offset + intercept_k + x @ coef_k)``.

    The density is :math:`\mu_k^{-1} e^{-y / \mu_k}`: that of ``Gamma`` and of ``Weibull`` experts
    of shape one.

    Parameters
    ----------
    degree : int, default=1
        Total degree of the polynomial in the features.
    fit_intercept : bool, default=True
        Whether each expert has an intercept.

    References
    ----------
    Kalbfleisch, J. D. and Prentice, R. L. (2002). The Statistical Analysis of Failure Time Data,
    2nd edition, section 2.2. Wiley.
    """

    degree: int = 1
    fit_intercept: bool = True
    name: ClassVar[str] = "exponential"
    param_names: ClassVar[tuple[str, ...]] = ("coef",)
    shortens: ClassVar[bool] = True

    @staticmethod
    def _ratio(y: Array, eta: Array) -> tuple[Array, Array, Array]:
        """Log of y, of y over the mean, and y over the mean."""
        log_y = np.log(y)
        log_ratio = log_y - np.minimum(eta, MAX_ETA)
        return log_y, log_ratio, np.exp(np.minimum(log_ratio, MAX_ETA))

    def terms(self, y: Array, eta: Array, **shapes: Array) -> Terms:
        log_y, log_ratio, ratio = self._ratio(y, eta)
        return Terms(
            log_ratio - ratio - log_y, np.exp(np.minimum(eta, MAX_ETA)), (ratio - 1.0,), (ratio,)
        )

    def curves(self, y: Array, eta: Array, **shapes: Array) -> list[list[Array]]:
        return [[self._ratio(y, eta)[2]]]

    def start_shapes(self, y: Array, eta: Array, weight: Array) -> dict[str, Array]:
        return {}

    def mean_at(self, eta: Array, **shapes: Array) -> Array:
        return np.exp(np.minimum(eta, MAX_ETA))

    def variance_at(self, eta: Array, **shapes: Array) -> Array:
        return self.mean_at(eta) ** 2

    def cdf_at(self, y: Array, eta: Array, **shapes: Array) -> Array:
        return -np.expm1(-self._ratio(y, eta)[2])

    def sf_at(self, y: Array, eta: Array, **shapes: Array) -> Array:
        return np.exp(-self._ratio(y, eta)[2])

    def flows_at(self, y: Array, eta: Array, **shapes: Array) -> tuple[Array | None, ...]:
        return (y,)

    def quantile_at(self, probability: float, eta: Array, **shapes: Array) -> Array:
        quantile: Array = -np.log1p(-np.asarray(probability, dtype=float)) * self.mean_at(eta)
        return quantile

    def draw(self, rng: np.random.Generator, eta: Array, **shapes: Array) -> Array:
        return rng.exponential(self.mean_at(eta))

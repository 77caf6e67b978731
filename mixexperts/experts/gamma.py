"""Gamma experts: positive responses whose standard deviation grows with the mean."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mixexperts._batch import Array
from mixexperts.errors import InvalidResponseError
from mixexperts.experts._glm import first_row
from mixexperts.experts._linear import LinearExpert, Shape, Terms

_MAX_ETA = 300.0


@dataclass(frozen=True)
class Gamma(LinearExpert):
    r"""Gamma experts with mean ``mu_k = exp(offset + intercept_k + x @ coef_k)``.

    The density has shape :math:`a_k` and scale :math:`\mu_k / a_k`; the coefficient of variation
    is :math:`a_k^{-1/2}`, and the dispersion of a generalised linear model :math:`1 / a_k`.

    Parameters
    ----------
    degree : int, default=1
        Total degree of the polynomial in the features.
    shared_shape : bool, default=False
        One shape for all experts instead of one each.
    fit_intercept : bool, default=True
        Whether each expert has an intercept.

    References
    ----------
    McCullagh, P. and Nelder, J. A. (1989). Generalized Linear Models, 2nd edition, chapter 8.
    Chapman and Hall.
    """

    degree: int = 1
    shared_shape: bool = False
    fit_intercept: bool = True
    name: ClassVar[str] = "gamma"
    mean_link: ClassVar[str | None] = "log"
    param_names: ClassVar[tuple[str, ...]] = ("coef", "shape")
    shapes: ClassVar[tuple[Shape, ...]] = (Shape("shape", 1e-6, 1e10),)
    support: ClassVar[tuple[float, float]] = (0.0, math.inf)
    has_derivatives: ClassVar[bool] = True
    shortens: ClassVar[bool] = True

    def check_response(self, y: Array) -> None:
        """Finite numbers > 0; the first row at fault is named."""
        bad = ~(np.isfinite(y) & (y > 0.0))
        if bad.any():
            row = first_row(bad)
            raise InvalidResponseError(
                f"gamma experts take numbers > 0 as y; row {row} holds {y[row]:g}. For zeros among "
                "positive numbers wrap the family in ZeroInflated or Hurdle"
            )

    def terms(self, y: Array, eta: Array, **shapes: Array) -> Terms:
        from mixexperts.kernels.special import gamma_functions

        shape = shapes["shape"]
        eta = np.minimum(eta, _MAX_ETA)
        # log y - eta, and y / mean from it: neither overflows where the other is a number
        log_ratio = np.log(y) - eta
        ratio = np.exp(np.minimum(log_ratio, _MAX_ETA))
        log_gamma, psi, psi1 = gamma_functions(shape)
        excess = log_ratio - ratio
        log_f = shape * (excess + np.log(shape)) - log_gamma - np.log(y)
        slope = shape * (ratio - 1.0)
        towards = shape * (excess + np.log(shape) + 1.0 - psi)
        # In log shape the expected information is a^2 psi1(a) - a, which is positive.
        flat = np.broadcast_to(shape * (shape * psi1 - 1.0), log_f.shape)
        return Terms(log_f, np.exp(eta), (slope, towards), (shape * ratio, flat))

    def curves(self, y: Array, eta: Array, **shapes: Array) -> list[list[Array]]:
        from mixexperts.kernels.special import gamma_functions

        shape = shapes["shape"]
        log_ratio = np.log(y) - np.minimum(eta, _MAX_ETA)
        ratio = np.exp(np.minimum(log_ratio, _MAX_ETA))
        _, psi, psi1 = gamma_functions(shape)
        first = shape * (log_ratio - ratio + np.log(shape) + 1.0 - psi)
        cross = -shape * (ratio - 1.0)
        return [[shape * ratio, cross], [cross, shape * (shape * psi1 - 1.0) - first]]

    def nearest(self, y: Array) -> tuple[Array, Array]:
        return np.log(y), np.ones_like(y)

    def start_shapes(self, y: Array, eta: Array, weight: Array) -> dict[str, Array]:
        """Moments: the variance of y over its mean is one over the shape."""
        square = np.clip(np.exp(np.minimum(np.log(y) - eta, 20.0)) - 1.0, -10.0, 10.0) ** 2
        mass = np.maximum(weight.sum(axis=0), 1e-300)
        return {"shape": 1.0 / np.maximum((weight * square).sum(axis=0) / mass, 1e-4)}

    def mean_at(self, eta: Array, **shapes: Array) -> Array:
        return np.exp(np.minimum(eta, _MAX_ETA))

    def variance_at(self, eta: Array, **shapes: Array) -> Array:
        variance: Array = self.mean_at(eta) ** 2 / shapes["shape"]
        return variance

    def cdf_at(self, y: Array, eta: Array, **shapes: Array) -> Array:
        from scipy.special import gammainc

        return np.asarray(gammainc(shapes["shape"], self._scaled(y, eta, shapes["shape"])))

    def sf_at(self, y: Array, eta: Array, **shapes: Array) -> Array:
        from scipy.special import gammaincc

        return np.asarray(gammaincc(shapes["shape"], self._scaled(y, eta, shapes["shape"])))

    def flows_at(self, y: Array, eta: Array, **shapes: Array) -> tuple[Array | None, ...]:
        return y, None  # eta is the log of a scale

    @staticmethod
    def _scaled(y: Array, eta: Array, shape: Array) -> Array:
        scaled: Array = y * shape * np.exp(-np.clip(eta, -_MAX_ETA, _MAX_ETA))
        return scaled

    def quantile_at(self, probability: float, eta: Array, **shapes: Array) -> Array:
        from scipy.special import gammainccinv, gammaincinv

        shape = shapes["shape"]
        if probability > 0.5:
            standard = gammainccinv(shape, 1.0 - probability)
        else:
            standard = gammaincinv(shape, probability)
        quantile: Array = standard / shape * self.mean_at(eta)
        return quantile

    def draw(self, rng: np.random.Generator, eta: Array, **shapes: Array) -> Array:
        shape = shapes["shape"]
        return rng.gamma(shape, self.mean_at(eta) / shape)

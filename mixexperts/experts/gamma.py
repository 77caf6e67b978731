"""Gamma experts: positive responses whose standard deviation grows with the mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from mixexperts._batch import Array
from mixexperts.experts._linear import Shape, Terms
from mixexperts.experts._positive import MAX_ETA, LinkedPositive


@dataclass(frozen=True)
class Gamma(LinkedPositive):
    r"""Gamma experts with mean ``mu_k = exp(offset + intercept_k + x @ coef_k)``.

    The density has shape :math:`a_k` and scale :math:`\mu_k / a_k`; the coefficient of variation
    is :math:`a_k^{-1/2}`, and the dispersion of a generalised linear model :math:`1 / a_k`.

    Parameters
    ----------
    degree : int, default=1
        Total degree of the polynomial in the features.
    shape : float or None, default=None
        The shape of all experts; None estimates one for each.
    shared_shape : bool, default=False
        One shape for all experts instead of one each.
    link : {"log", "inverse", "identity"}, default="log"
        Scale of the linear predictor ``eta``: the log of the mean, one over it, or the mean.
    fit_intercept : bool, default=True
        Whether each expert has an intercept.

    Raises
    ------
    ValueError
        If the link is not known, or a given shape is not positive.

    Notes
    -----
    With the inverse and the identity link ``eta`` must be positive. A row where it is not has the
    mean at the edge, next to infinity or to zero, so that an expert hardly reaches it. Steps of
    the fit that end there are halved.

    References
    ----------
    McCullagh, P. and Nelder, J. A. (1989). Generalized Linear Models, 2nd edition, chapter 8.
    Chapman and Hall.
    """

    degree: int = 1
    shape: float | None = None
    shared_shape: bool = False
    link: Literal["log", "inverse", "identity"] = "log"
    fit_intercept: bool = True
    name: ClassVar[str] = "gamma"
    mean_link: ClassVar[str | None] = "log"
    param_names: ClassVar[tuple[str, ...]] = ("coef", "shape")
    shapes: ClassVar[tuple[Shape, ...]] = (Shape("shape", 1e-6, 1e10, upper_boundary=True),)
    links: ClassVar[tuple[str, ...]] = ("log", "inverse", "identity")
    shortens: ClassVar[bool] = True

    def own_terms(self, y: Array, eta: Array, **shapes: Array) -> Terms:
        from mixexperts.kernels.special import gamma_functions

        shape = shapes["shape"]
        # log y - eta, and y / mean from it: neither overflows where the other is a number
        log_y = np.log(y)
        log_ratio = log_y - eta
        ratio = np.exp(np.minimum(log_ratio, MAX_ETA))
        log_gamma, psi, psi1 = gamma_functions(shape)
        excess = log_ratio - ratio
        log_f = shape * (excess + np.log(shape)) - log_gamma - log_y
        slope = shape * (ratio - 1.0)
        towards = shape * (excess + (np.log(shape) + 1.0 - psi))
        # In log shape the expected information is a^2 psi1(a) - a, which is positive.
        flat = np.broadcast_to(shape * (shape * psi1 - 1.0), log_f.shape)
        return Terms(log_f, np.exp(eta), (slope, towards), (shape * ratio, flat))

    def own_curves(self, y: Array, eta: Array, **shapes: Array) -> list[list[Array]]:
        from mixexperts.kernels.special import gamma_functions

        shape = shapes["shape"]
        log_ratio = np.log(y) - eta
        ratio = np.exp(np.minimum(log_ratio, MAX_ETA))
        _, psi, psi1 = gamma_functions(shape)
        first = shape * (log_ratio - ratio + np.log(shape) + 1.0 - psi)
        cross = -shape * (ratio - 1.0)
        return [[shape * ratio, cross], [cross, shape * (shape * psi1 - 1.0) - first]]

    def information(self, eta: Array, **shapes: Array) -> Array:
        return np.broadcast_to(shapes["shape"], eta.shape)

    def start_shapes(self, y: Array, eta: Array, weight: Array) -> dict[str, Array]:
        """Moments: the variance of y over its mean is one over the shape."""
        log_ratio = np.log(y) - self.own(eta)
        square = np.clip(np.exp(np.minimum(log_ratio, 20.0)) - 1.0, -10.0, 10.0) ** 2
        mass = np.maximum(weight.sum(axis=0), 1e-300)
        return {"shape": 1.0 / np.maximum((weight * square).sum(axis=0) / mass, 1e-4)}

    def mean_at(self, eta: Array, **shapes: Array) -> Array:
        return np.exp(self.own(eta))

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
        link = self.other_link  # the log of the mean is that of a scale
        return y if link is None else y * link.own(eta)[1], None

    def _scaled(self, y: Array, eta: Array, shape: Array) -> Array:
        scaled: Array = y * shape * np.exp(-np.clip(self.own(eta), -MAX_ETA, MAX_ETA))
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

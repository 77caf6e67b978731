"""Log-normal experts: positive responses whose logarithm is Gaussian."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mixexperts._batch import Array, Params, Stats
from mixexperts.experts._linear import Shape, Terms
from mixexperts.experts._positive import MAX_ETA, PositiveExpert
from mixexperts.penalties.base import Penalty

_HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)
# Exponents of means and variances end here.
_MAX_LOG = 700.0


@dataclass(frozen=True)
class LogNormal(PositiveExpert):
    r"""Log-normal experts, ``log y | x, k ~ N(eta_k, scale_k ** 2)``.

    ``eta_k = offset + intercept_k + x @ coef_k`` is the mean of the *logarithm* and the log of the
    median; the mean is :math:`\exp(\eta_k + \mathrm{scale}_k^2 / 2)`.

    Parameters
    ----------
    degree : int, default=1
        Total degree of the polynomial in the features.
    scale : float or None, default=None
        Standard deviation of log y in all experts; None estimates one for each.
    shared_scale : bool, default=False
        One scale for all experts instead of one each.
    fit_intercept : bool, default=True
        Whether each expert has an intercept.

    Raises
    ------
    ValueError
        If a given scale is not positive.

    References
    ----------
    Johnson, N. L., Kotz, S. and Balakrishnan, N. (1994). Continuous Univariate Distributions 1,
    2nd edition, chapter 14. Wiley.
    """

    degree: int = 1
    scale: float | None = None
    shared_scale: bool = False
    fit_intercept: bool = True
    name: ClassVar[str] = "log_normal"
    param_names: ClassVar[tuple[str, ...]] = ("coef", "scale")
    shapes: ClassVar[tuple[Shape, ...]] = (Shape("scale", 1e-6, 1e6, boundary=True),)

    def terms(self, y: Array, eta: Array, **shapes: Array) -> Terms:
        log_y, precision = np.log(y), 1.0 / shapes["scale"]
        residual = (log_y - eta) * precision
        square = residual * residual
        log_f = -0.5 * square - (log_y + _HALF_LOG_TWO_PI - np.log(precision))
        mean = self.mean_at(eta, **shapes)
        two = np.broadcast_to(2.0, log_f.shape)
        flat = np.broadcast_to(precision * precision, log_f.shape)
        return Terms(log_f, mean, (residual * precision, square - 1.0), (flat, two))

    def curves(self, y: Array, eta: Array, **shapes: Array) -> list[list[Array]]:
        precision = 1.0 / shapes["scale"]
        residual = (np.log(y) - eta) * precision
        cross = 2.0 * residual * precision
        return [
            [np.broadcast_to(precision * precision, residual.shape), cross],
            [cross, 2.0 * residual * residual],
        ]

    def update(self, params: Params, stats: Stats, penalty: Penalty) -> Params:
        """One conditional maximisation: coefficients given scales, then scales."""
        moved = super().update(params, stats, penalty)
        if not self.free_shapes():
            return moved
        step = moved["coef"] - params["coef"]
        square = (
            stats["mass"]
            + stats["scale_slope"]
            - 2.0 * np.einsum("kp,kp->k", step, stats["cross"])
            + np.einsum("kp,kpq,kq->k", step, stats["gram"], step)
        ) * params["scale"] ** 2
        mass = stats["mass"]
        if self.is_shared(self.shapes[0]):
            square, mass = (np.full_like(part, part.sum()) for part in (square, mass))
        filled = mass > 0.0
        scale = np.sqrt(np.maximum(square, 0.0) / np.where(filled, mass, 1.0))
        shape = self.shapes[0]
        scale = np.where(filled, np.clip(scale, shape.lower, shape.upper), params["scale"])
        return {**moved, "scale": scale}

    def start_shapes(self, y: Array, eta: Array, weight: Array) -> dict[str, Array]:
        mass = np.maximum(weight.sum(axis=0), 1e-300)
        square = (weight * (np.log(y) - eta) ** 2).sum(axis=0) / mass
        return {"scale": np.sqrt(np.maximum(square, 1e-6))}

    def mean_at(self, eta: Array, **shapes: Array) -> Array:
        return np.exp(np.minimum(eta + 0.5 * shapes["scale"] ** 2, MAX_ETA))

    def variance_at(self, eta: Array, **shapes: Array) -> Array:
        square = shapes["scale"] ** 2
        # log of expm1(s^2), which overflows for scales that the mean survives
        small = np.log(np.expm1(np.minimum(square, 1.0)))
        log_excess = np.where(square > 1.0, square + np.log(-np.expm1(-square)), small)
        variance: Array = np.exp(np.minimum(2.0 * eta + square + log_excess, _MAX_LOG))
        return variance

    def cdf_at(self, y: Array, eta: Array, **shapes: Array) -> Array:
        from scipy.special import ndtr

        return np.asarray(ndtr((np.log(y) - eta) / shapes["scale"]))

    def sf_at(self, y: Array, eta: Array, **shapes: Array) -> Array:
        from scipy.special import ndtr

        return np.asarray(ndtr((eta - np.log(y)) / shapes["scale"]))

    def flows_at(self, y: Array, eta: Array, **shapes: Array) -> tuple[Array | None, ...]:
        return y, y * (np.log(y) - eta)  # in eta and in the log of the scale

    def quantile_at(self, probability: float, eta: Array, **shapes: Array) -> Array:
        from scipy.special import ndtri

        return np.exp(eta + shapes["scale"] * ndtri(probability))

    def draw(self, rng: np.random.Generator, eta: Array, **shapes: Array) -> Array:
        return np.exp(eta + shapes["scale"] * rng.standard_normal(eta.shape))

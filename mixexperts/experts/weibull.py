"""Weibull experts: durations whose hazard rises or falls as a power of time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mixexperts._batch import Array, Params, Stats
from mixexperts.experts._linear import Shape, Terms
from mixexperts.experts._positive import MAX_ETA, PositiveExpert

_MAX_LOG = 700.0
# Of the series below for shapes from here on: zeta(n) (2^n - 2) / n for n = 2, 3, ...
_LARGE = 200.0
_SERIES = (
    1.6449340668482264, 2.4041138063191885, 3.7881313179889826, 6.22156653086022,
    10.512544973839306, 18.15028699287461, 31.87945605928472,
)  # fmt: skip


@dataclass(frozen=True)
class Weibull(PositiveExpert):
    r"""Weibull experts with scale ``exp(eta_k)``, ``eta_k = offset + intercept_k + x @ coef_k``.

    The survival function is :math:`\exp\{-(y e^{-\eta_k})^{a_k}\}` with shape :math:`a_k`, in
    other words :math:`\log y = \eta_k + \sigma_k W` with :math:`\sigma_k = 1 / a_k` and W the
    logarithm of a standard exponential: an accelerated failure time model, whose coefficients are
    those of ``survreg`` in R and whose :math:`\sigma_k` is the scale there. Log hazard ratios are
    :math:`-a_k` times the coefficients. The mean is :math:`e^{\eta_k} \Gamma(1 + 1 / a_k)`.

    Parameters
    ----------
    degree : int, default=1
        Total degree of the polynomial in the features.
    shape : float or None, default=None
        The shape of all experts, such as 1 (exponential) or 2 (Rayleigh); None estimates one for
        each. The hazard falls in time below one and rises above.
    shared_shape : bool, default=False
        One shape for all experts instead of one each.
    fit_intercept : bool, default=True
        Whether each expert has an intercept.

    Raises
    ------
    ValueError
        If a given shape lies outside 0.01 to 1e5.

    References
    ----------
    Kalbfleisch, J. D. and Prentice, R. L. (2002). The Statistical Analysis of Failure Time Data,
    2nd edition, section 2.2. Wiley.
    """

    degree: int = 1
    shape: float | None = None
    shared_shape: bool = False
    fit_intercept: bool = True
    name: ClassVar[str] = "weibull"
    param_names: ClassVar[tuple[str, ...]] = ("coef", "shape")
    shapes: ClassVar[tuple[Shape, ...]] = (Shape("shape", 1e-2, 1e5, upper_boundary=True),)
    shortens: ClassVar[bool] = True

    @staticmethod
    def _standard(y: Array, eta: Array, shape: Array) -> tuple[Array, Array, Array]:
        """Log of y, the logarithm of a standard exponential, and its exponential."""
        log_y = np.log(y)
        z = shape * (log_y - eta)
        return log_y, z, np.exp(np.minimum(z, MAX_ETA))

    def terms(self, y: Array, eta: Array, **shapes: Array) -> Terms:
        shape = shapes["shape"]
        log_y, z, u = self._standard(y, eta, shape)
        over = u - 1.0
        turn = z * over
        push = shape * over
        # Concave in eta and in log shape: observed curvatures are positive.
        return Terms(
            z - u + (np.log(shape) - log_y),
            self.mean_at(eta, shape=shape),
            (push, 1.0 - turn),
            (shape * (push + shape), z * (z + turn) + turn),
        )

    def curves(self, y: Array, eta: Array, **shapes: Array) -> list[list[Array]]:
        shape = shapes["shape"]
        _, z, u = self._standard(y, eta, shape)
        over = u - 1.0
        cross = -shape * (over + z * u)
        return [[shape * shape * u, cross], [cross, z * z * u + z * over]]

    def steepness(self, params: Params) -> Array:
        steepness: Array = params["shape"]
        return steepness

    def update_shape(self, shape: Shape, params: Params, stats: Stats) -> Array:
        """A Newton step of log shape, shortened as those of the coefficients are."""
        slope, weight = stats["shape_slope"], stats["shape_weight"]
        if self.is_shared(shape):
            slope, weight = (np.full_like(part, part.sum()) for part in (slope, weight))
        step = np.where(weight > 0.0, slope / np.where(weight > 0.0, weight, 1.0), 0.0)
        step = np.sign(step) * np.log1p(2.0 * np.abs(step)) / 2.0
        moved = shape.value(shape.free(params["shape"]) + np.clip(step, -1.0, 1.0))
        return np.where(stats["mass"] > 0.0, moved, params["shape"])

    def start_shapes(self, y: Array, eta: Array, weight: Array) -> dict[str, Array]:
        """Moments: log y has standard deviation pi / sqrt(6) over the shape."""
        mass = np.maximum(weight.sum(axis=0), 1e-300)
        log_y = np.log(y) - eta
        mean = (weight * log_y).sum(axis=0) / mass
        square = (weight * (log_y - mean) ** 2).sum(axis=0) / mass
        return {"shape": np.pi / np.sqrt(6.0 * np.maximum(square, 1e-4))}

    def mean_at(self, eta: Array, **shapes: Array) -> Array:
        from scipy.special import gammaln

        return np.exp(np.minimum(eta + gammaln(1.0 + 1.0 / shapes["shape"]), MAX_ETA))

    def variance_at(self, eta: Array, **shapes: Array) -> Array:
        from scipy.special import gammaln

        inverse = 1.0 / shapes["shape"]
        half = gammaln(1.0 + inverse)
        excess = gammaln(1.0 + 2.0 * inverse) - 2.0 * half
        # The difference cancels for large shapes: the series of log gamma at one.
        small = np.minimum(inverse, 1.0 / _LARGE)
        series = np.zeros_like(small)
        for factor in reversed(_SERIES):
            series = factor - small * series
        excess = np.where(inverse < 1.0 / _LARGE, small * small * series, excess)
        log_variance = 2.0 * (eta + half) + np.where(
            excess > 1.0, excess + np.log1p(-np.exp(-excess)),
            np.log(np.expm1(np.minimum(excess, 1.0))),
        )  # fmt: skip
        return np.exp(np.minimum(log_variance, _MAX_LOG))

    def cdf_at(self, y: Array, eta: Array, **shapes: Array) -> Array:
        return -np.expm1(-self._standard(y, eta, shapes["shape"])[2])

    def sf_at(self, y: Array, eta: Array, **shapes: Array) -> Array:
        return np.exp(-self._standard(y, eta, shapes["shape"])[2])

    def flows_at(self, y: Array, eta: Array, **shapes: Array) -> tuple[Array | None, ...]:
        return y, -y * (np.log(y) - eta)  # in eta and in the log of the shape

    def quantile_at(self, probability: float, eta: Array, **shapes: Array) -> Array:
        with np.errstate(divide="ignore"):
            z = np.log(-np.log1p(-np.asarray(probability, dtype=float)))
        quantile: Array = np.exp(eta + z / shapes["shape"])
        return quantile

    def draw(self, rng: np.random.Generator, eta: Array, **shapes: Array) -> Array:
        return np.exp(eta + np.log(rng.standard_exponential(eta.shape)) / shapes["shape"])

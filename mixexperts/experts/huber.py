"""Huber's experts: normal in the middle, exponential tails."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mixexperts._batch import Array
from mixexperts.experts._linear import Shape
from mixexperts.experts._location import SCALE, Bends, Reweighted, Standard

_ROOT_TWO_PI = math.sqrt(2.0 * math.pi)


@dataclass(frozen=True)
class Huber(Reweighted):
    r"""Experts with Huber's least favourable density, ``exp(-rho(z)) / (scale_k * C)``.

    :math:`\rho(z)` is :math:`z^2 / 2` up to :math:`|z| = c` and :math:`c |z| - c^2 / 2` beyond,
    and :math:`C = \sqrt{2 \pi} (2 \Phi(c) - 1) + 2 e^{-c^2 / 2} / c`. This is a density, the least
    informative one within a neighbourhood of the normal, and fits are maximum likelihood: with one
    expert the coefficients are Huber's M-estimates with a scale estimated beside them.

    Parameters
    ----------
    degree : int, default=1
        Total degree of the polynomial in the features.
    threshold : float, default=1.345
        c, in scales: residuals beyond it count by their sign only. The default leaves 95 percent
        efficiency under normal errors.
    shared_scale : bool, default=False
        One scale for all experts instead of one each.
    fit_intercept : bool, default=True
        Whether each expert has an intercept.

    References
    ----------
    Huber, P. J. (1964). Robust estimation of a location parameter. Annals of Mathematical
    Statistics 35, 73-101.
    """

    degree: int = 1
    threshold: float = 1.345
    shared_scale: bool = False
    fit_intercept: bool = True
    name: ClassVar[str] = "huber"
    param_names: ClassVar[tuple[str, ...]] = ("coef", "scale")
    shapes: ClassVar[tuple[Shape, ...]] = (SCALE,)

    def __post_init__(self) -> None:
        self.check_terms()
        if not 0.01 <= self.threshold <= 30.0:
            raise ValueError(
                f"threshold must lie in [0.01, 30], got {self.threshold!r}; beyond 30 scales use "
                "Gaussian, below 0.01 Laplace"
            )

    def _tail(self) -> float:
        """The mass of one exponential tail, not normed."""
        return math.exp(-0.5 * self.threshold**2) / self.threshold

    def _middle(self) -> float:
        return _ROOT_TWO_PI * math.erf(self.threshold / math.sqrt(2.0))

    def _norm(self) -> float:
        return self._middle() + 2.0 * self._tail()

    def standard(self, z: Array, **others: Array) -> Standard:
        c, size = self.threshold, np.abs(z)
        near = np.minimum(size, c)
        log_f = near * (0.5 * near - size) - math.log(self._norm())
        weight = near / np.maximum(size, 1e-300)
        weight = np.where(size > 0.0, weight, 1.0)
        return Standard(log_f, -weight * z, weight)

    def bends(self, z: Array, **others: Array) -> Bends:
        c = self.threshold
        return Bends(-np.clip(z, -c, c), np.where(np.abs(z) <= c, -1.0, 0.0))

    def standard_mean(self, **others: Array) -> Array | float:
        return 0.0

    def standard_variance(self, **others: Array) -> Array | float:
        c, tail = self.threshold, self._tail()
        middle = self._middle() - 2.0 * c * c * tail
        return (middle + 2.0 * tail * (c * c + 2.0 + 2.0 / c**2)) / self._norm()

    def standard_cdf(self, z: Array, **others: Array) -> Array:
        return self.standard_sf(-z)

    def standard_sf(self, z: Array, **others: Array) -> Array:
        from scipy.special import ndtr

        c = self.threshold
        beyond = self._tail() * np.exp(-c * np.maximum(np.abs(z) - c, 0.0))
        near = np.minimum(np.abs(z), c)
        upper = (beyond + _ROOT_TWO_PI * (ndtr(-near) - ndtr(-c))) / self._norm()
        return np.where(z >= 0.0, upper, 1.0 - upper)

    def standard_quantile(self, probability: float, **others: Array) -> Array | float:
        from scipy.special import ndtr, ndtri

        c, tail = self.threshold, self._tail()
        share = min(probability, 1.0 - probability) * self._norm()
        if share <= 0.0:
            below = math.inf
        elif share <= tail:
            below = c - math.log(share / tail) / c
        else:
            below = -float(ndtri((share - tail) / _ROOT_TWO_PI + ndtr(-c)))
        return -below if probability < 0.5 else below

    def standard_draw(self, rng: np.random.Generator, size: int, **others: Array) -> Array:
        from scipy.special import ndtr, ndtri

        c, norm = self.threshold, self._norm()
        part = rng.random(size)
        inside = ndtri(ndtr(-c) + (ndtr(c) - ndtr(-c)) * rng.random(size))
        outside = (c + rng.exponential(1.0 / c, size)) * rng.choice([-1.0, 1.0], size)
        return np.where(part * norm < self._middle(), inside, outside)

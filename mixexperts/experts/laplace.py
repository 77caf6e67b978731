"""Laplace experts: medians instead of means."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from mixexperts._batch import Array
from mixexperts.experts._linear import Shape
from mixexperts.experts._location import SCALE, Reweighted, Standard

# Beyond so many smoothings the tail is a short series; nearer, an integral.
_FAR = 30.0
_NODES = 48


@dataclass(frozen=True)
class Laplace(Reweighted):
    r"""Laplace experts, ``exp(-|y - median| / scale_k) / (2 scale_k)``, with the corner rounded.

    The log density of the Laplace distribution has a corner at its median, where derivatives and
    the weights of least squares end. It is rounded: the density is

    .. math:: \exp(-\sqrt{z^2 + \epsilon^2}) / (2 \epsilon K_1(\epsilon) s),
        \quad z = (y - \eta) / s,

    with the Bessel function :math:`K_1`. This is a density (the symmetric hyperbolic one), and the
    likelihood that is reported is *its* likelihood. Its logarithm differs from that of the Laplace
    density by less than :math:`\epsilon` at the median and by less than
    :math:`\epsilon^2 (1 / |z| + \log(2 / \epsilon) + 1) / 2` elsewhere.

    Parameters
    ----------
    degree : int, default=1
        Total degree of the polynomial in the features.
    smoothing : float, default=0.01
        :math:`\epsilon`, in scales.
    shared_scale : bool, default=False
        One scale for all experts instead of one each.
    fit_intercept : bool, default=True
        Whether each expert has an intercept.

    Notes
    -----
    The scale is the mean absolute deviation from the median. The updates are those of Hunter and
    Lange (2000) for the rounded density and never lower its likelihood. There are no Newton steps:
    the curvature at the corner tells of single rows.

    References
    ----------
    Hunter, D. R. and Lange, K. (2000). Quantile regression via an MM algorithm. Journal of
    Computational and Graphical Statistics 9, 60-77.

    Nguyen, H. D. and McLachlan, G. J. (2016). Laplace mixture of linear experts. Computational
    Statistics and Data Analysis 93, 177-191.

    Barndorff-Nielsen, O. (1977). Exponentially decreasing distributions for the logarithm of
    particle size. Proceedings of the Royal Society A 353, 401-419.
    """

    degree: int = 1
    smoothing: float = 0.01
    shared_scale: bool = False
    fit_intercept: bool = True
    name: ClassVar[str] = "laplace"
    param_names: ClassVar[tuple[str, ...]] = ("coef", "scale")
    shapes: ClassVar[tuple[Shape, ...]] = (SCALE,)
    has_derivatives: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self.check_terms()
        if not 1e-6 <= self.smoothing <= 1.0:
            raise ValueError(f"smoothing must lie in [1e-6, 1], got {self.smoothing!r}")

    def _bessel(self, order: int) -> float:
        from scipy.special import kn

        return float(kn(order, self.smoothing))

    def _norm(self) -> float:
        return 2.0 * self.smoothing * self._bessel(1)

    def standard(self, z: Array, **others: Array) -> Standard:
        root = np.sqrt(z * z + self.smoothing**2)
        weight = 1.0 / root
        return Standard(-root - math.log(self._norm()), -weight * z, weight)

    def standard_mean(self, **others: Array) -> Array | float:
        return 0.0

    def standard_variance(self, **others: Array) -> Array | float:
        return self.smoothing * self._bessel(2) / self._bessel(1)

    def standard_cdf(self, z: Array, **others: Array) -> Array:
        return self.standard_sf(-z)

    def standard_sf(self, z: Array, **others: Array) -> Array:
        upper = self._upper(np.abs(z)) / self._norm()
        return np.where(z >= 0.0, upper, 1.0 - upper)

    def _upper(self, z: Array) -> Array:
        """Integral from z >= 0 on, not normed."""
        from scipy.special import expn

        width = self.smoothing
        # Near: what lies below, at s = width * sinh(t), taken off one half of all.
        nodes, weights = np.polynomial.legendre.leggauss(_NODES)
        end = np.arcsinh(np.minimum(z, _FAR * width) / width)
        below = np.zeros(np.shape(z))
        for node, weight in zip(nodes, weights, strict=True):
            rate = width * np.cosh(0.5 * (node + 1.0) * end)
            below = below + weight * rate * np.exp(-rate)
        near = 0.5 * self._norm() - 0.5 * end * below
        # Far: v / sqrt(v^2 - width^2) in powers of width / v, each an exponential integral.
        v = np.sqrt(np.maximum(z, _FAR * width) ** 2 + width**2)
        far = np.exp(-v)
        coefficient = 1.0
        for j in range(1, 7):
            coefficient *= (2 * j - 1) / (2 * j) * width**2
            far = far + coefficient * expn(2 * j, v) * v ** (1 - 2 * j)
        return np.where(z < _FAR * width, near, far)

    def standard_quantile(self, probability: float, **others: Array) -> Array | float:
        share = min(probability, 1.0 - probability)
        if share <= 0.0:
            return math.copysign(math.inf, probability - 0.5)
        target, z = share * self._norm(), max(-math.log(2.0 * share), 0.0)
        low, high = 0.0, z + 1.0
        for _ in range(80):  # Newton's steps of the log probability, kept in the bracket
            value = float(self._upper(np.asarray(z)))
            low, high = (z, high) if value > target else (low, z)
            density = math.exp(-math.hypot(z, self.smoothing))
            moved = z + math.log(value / target) * value / density
            moved = moved if low <= moved <= high else 0.5 * (low + high)
            if abs(moved - z) <= 1e-15 * (1e-3 + z):
                break
            z = moved
        return -z if probability < 0.5 else z

    def standard_draw(self, rng: np.random.Generator, size: int, **others: Array) -> Array:
        """By rejection from the Laplace distribution, which takes all but a share of smoothing."""
        drawn = rng.laplace(size=size)
        again: Any = np.arange(size)
        while len(again):
            z = drawn[again]
            keep = rng.random(len(again)) < np.exp(np.abs(z) - np.hypot(z, self.smoothing))
            again = again[~keep]
            drawn[again] = rng.laplace(size=len(again))
        return drawn
